//! A pond on the machine: what it makes is opened by QEMU's tools.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, EngineOptions};
use io::real::RealWorld;
use pond::{CloneRequest, Holding, Pond, PondOptions, Source, State};

async fn open(world: &RealWorld, folder: &Path) -> Arc<Pond> {
    let engine = Engine::new(Arc::new(world.clone()), EngineOptions::default()).unwrap();
    let options = PondOptions {
        folder: folder.join("pond"),
        sockets: folder.join("run"),
        source_timeout: Duration::from_secs(5),
    };
    Pond::open(engine, options).await.unwrap()
}

fn request(folder: &Path, overlay: &str) -> CloneRequest {
    CloneRequest {
        source: Source::parse("disk.raw", folder).unwrap(),
        overlay: folder.join(overlay),
        size: None,
        owner: None,
        force: false,
        holding: Holding::COMPLETE,
    }
}

async fn completes(pond: &Pond) -> PathBuf {
    for _ in 0..3000 {
        let image = pond.images().remove(0);
        if image.state == Some(State::Complete) {
            return image.cache;
        }
        assert!(image.trouble.is_none(), "{:?}", image.trouble);
        io::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not become complete: {:?}", pond.images());
}

fn qemu_img(arguments: &[&str]) -> Option<i32> {
    let Ok(output) = Command::new("qemu-img").args(arguments).output() else {
        sim::skip("pond real, what QEMU says of a cache", "qemu-img");
        return None;
    };
    println!("{arguments:?}: {output:?}");
    output.status.code()
}

#[test]
fn a_cache_is_an_ordinary_image_and_is_found_again() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let mut bytes = vec![0; 3 << 20];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = if at >> 16 & 3 == 1 { 0 } else { ((at * 7) >> 5) as u8 };
    }
    std::fs::write(folder.join("disk.raw"), &bytes).unwrap();
    let world = RealWorld::new();
    let cache = world.block_on(async {
        let pond = open(&world, folder).await;
        pond.create_clone(&request(folder, "a.qcow2")).await.unwrap();
        let cache = completes(&pond).await;
        pond.create_clone(&request(folder, "b.qcow2")).await.unwrap();
        pond.pivot_clone(&folder.join("a.qcow2")).await.unwrap();
        pond.close().await.unwrap();
        cache
    });
    let (raw, cache) = (folder.join("disk.raw"), cache);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let overlay = text(&folder.join("a.qcow2"));
    for image in [&text(&cache), &overlay] {
        if qemu_img(&["check", "-f", "qcow2", image]).is_some() {
            assert_eq!(qemu_img(&["check", "-f", "qcow2", image]), Some(0));
            assert_eq!(qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &text(&raw), image]), Some(0));
        }
    }
    let world = RealWorld::new();
    world.block_on(async {
        let pond = open(&world, folder).await;
        let (images, clones) = (pond.images(), pond.clones());
        assert_eq!((images.len(), images[0].state), (1, Some(State::Complete)));
        assert_eq!(clones.iter().map(|clone| clone.pivoted).collect::<Vec<_>>(), [true, false]);
        pond.close().await.unwrap();
    });
}
