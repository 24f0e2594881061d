//! What somebody else did to the files of a pond: it concerns one image, which says what is wrong and what helps, and
//! the others are served.

use std::path::PathBuf;
use std::sync::Arc;

use block::ByteRange;
use pond::{CloneInfo, ImageInfo, Mode, Remedy};
use qcow2::HeaderEdit;
use sim::{Options, SimDisk, SimWorld};

use crate::scene::{self, EXPORTS, GRANULE, Master, Vm};

/// The files of the image that is damaged.
struct Files {
    disk: SimDisk,
    cache: PathBuf,
    record: PathBuf,
}

impl Files {
    /// A pond with two images, each with a clone; part of both was read.
    fn new(master: &Master) -> Self {
        let world = Arc::new(SimWorld::with_disk(1, Options::calm(), master.disk()));
        let cache = world.run(async {
            let _repository = scene::repository(&world).await;
            let pond = scene::open(&world).await.unwrap();
            for (export, vm) in EXPORTS.iter().zip(["a", "b"]) {
                pond.create_clone(&scene::request_of(export, vm, Mode::WorkingSet)).await.unwrap();
                let disk = Vm::start(&world, vm).await;
                disk.check(ByteRange::new(0, 3 * GRANULE), &master.bytes).await;
                disk.stop().await;
            }
            let cache = pond.images()[0].cache.clone();
            pond.close().await.unwrap();
            cache
        });
        let record = cache.with_extension("json");
        Self { disk: world.disk().kill(&mut sim::Rng::new(1)), cache, record }
    }

    fn edit_header(&self, edit: &HeaderEdit) {
        let mut file = self.disk.bytes(&self.cache).unwrap();
        for write in edit.writes(&file[..1 << 16]).unwrap() {
            file[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
        }
        self.disk.put(&self.cache, &file);
    }
}

/// What becomes of the pond: the damaged image says `words`, the other one is served, and after its removal the
/// damaged one is fetched anew.
fn one_image_is_damaged(damage: impl FnOnce(&Files), words: &[&str]) {
    let master = Master::new(3);
    let files = Files::new(&master);
    damage(&files);
    let world = Arc::new(SimWorld::with_disk(2, Options::calm(), files.disk.kill(&mut sim::Rng::new(2))));
    world.run(async {
        let _repository = scene::repository(&world).await;
        let pond = scene::open(&world).await.unwrap();
        let images = pond.images();
        let [bad, good]: [ImageInfo; 2] = images.try_into().unwrap();
        assert!(good.state.is_some() && bad.state.is_none(), "{bad:?} {good:?}");
        let said = bad.trouble.unwrap();
        assert!(words.iter().all(|word| said.what.contains(word)), "{said:?}");
        assert_eq!(said.remedy, Some(Remedy::RemoveImage));
        // Its clone is listed, and says the same.
        let [a, b]: [CloneInfo; 2] = pond.clones().try_into().unwrap();
        let why = a.trouble.unwrap();
        assert!(words.iter().all(|word| why.what.contains(word)) && b.trouble.is_none(), "{why:?}");
        let disk = Vm::start(&world, "b").await;
        disk.check_all(&master.bytes).await;
        disk.stop().await;
        // Asked for again it says the same; the remedy helps.
        let mut request = scene::request("a", Mode::Complete);
        request.force = true;
        let refusal = pond.create_clone(&request).await.unwrap_err();
        assert_eq!(refusal.remedy(), Some(Remedy::RemoveImage));
        let error = refusal.to_string();
        assert!(words.iter().all(|word| error.contains(word)) && error.contains(&bad.name), "{error}");
        pond.remove_image(&bad.name).await.unwrap();
        // The clone of before reads the image again as soon as that is there.
        pond.create_clone(&scene::request("c", Mode::Complete)).await.unwrap();
        assert!(pond.clones().iter().all(|clone| clone.trouble.is_none()), "{:?}", pond.clones());
        let disk = Vm::start(&world, "a").await;
        disk.check_all(&master.bytes).await;
        disk.stop().await;
        pond.create_clone(&request).await.unwrap();
        let disk = Vm::start(&world, "a").await;
        disk.check_all(&master.bytes).await;
        disk.stop().await;
        pond.close().await.unwrap();
    });
}

#[test]
fn a_damaged_record_concerns_its_image() {
    for text in ["", "{", "[]", "{\"version\": 2}", "{\"version\": 1, \"source\": 7}"] {
        one_image_is_damaged(
            |files| files.disk.put(&files.record, text.as_bytes()),
            &["/pond/images/disk.raw", ".json", "is damaged"],
        );
    }
}

#[test]
fn a_damaged_cache_concerns_its_image() {
    let zeroed = |files: &Files| {
        let mut file = files.disk.bytes(&files.cache).unwrap();
        file[..512].fill(0);
        files.disk.put(&files.cache, &file);
    };
    one_image_is_damaged(zeroed, &["/pond/images/disk.raw", ".qcow2"]);
    one_image_is_damaged(
        |files| files.disk.put(&files.cache, b"QFI\xfb"),
        &["/pond/images/disk.raw", ".qcow2"],
    );
}

#[test]
fn a_cache_that_another_program_wrote_is_not_believed() {
    one_image_is_damaged(
        |files| files.edit_header(&HeaderEdit::ClearAutoclear(qcow2::cache::AUTOCLEAR)),
        &["/pond/images/disk.raw", "was written by another program"],
    );
}

#[test]
fn a_cache_that_is_gone_is_missed() {
    one_image_is_damaged(
        |files| assert!(files.disk.remove(&files.cache)),
        &["/pond/images/disk.raw", ".qcow2"],
    );
}

#[test]
fn a_cache_without_a_record_is_replaced() {
    let master = Master::new(3);
    let files = Files::new(&master);
    assert!(files.disk.remove(&files.record));
    files.disk.put(&files.cache, &[7; 4096]);
    let world = Arc::new(SimWorld::with_disk(2, Options::calm(), files.disk));
    world.run(async {
        let _repository = scene::repository(&world).await;
        let pond = scene::open(&world).await.unwrap();
        assert_eq!(pond.images().len(), 1);
        pond.create_clone(&scene::request("c", Mode::Complete)).await.unwrap();
        let disk = Vm::start(&world, "c").await;
        disk.check_all(&master.bytes).await;
        disk.stop().await;
        pond.close().await.unwrap();
    });
}

#[test]
fn a_clone_without_its_overlay_is_forgotten() {
    let master = Master::new(3);
    let files = Files::new(&master);
    assert!(files.disk.remove(scene::overlay("a")));
    let world = Arc::new(SimWorld::with_disk(2, Options::calm(), files.disk));
    world.run(async {
        let _repository = scene::repository(&world).await;
        let pond = scene::open(&world).await.unwrap();
        let clones: Vec<_> = pond.clones().into_iter().map(|clone| clone.overlay).collect();
        assert_eq!(clones, [scene::overlay("b")]);
        let refused = pond.remove_image(&pond.images()[1].name).await.unwrap_err().to_string();
        assert!(refused.contains("/vms/b.qcow2"), "{refused}");
        pond.remove_image(&pond.images()[0].name).await.unwrap();
        assert!(!world.disk().names().contains(&files.cache));
        pond.close().await.unwrap();
    });
}

#[test]
fn another_version_of_the_image_is_not_mixed_in() {
    let master = Master::new(3);
    let files = Files::new(&master);
    let world = Arc::new(SimWorld::with_disk(2, Options::calm(), files.disk));
    world.disk().put("/srv/new.raw", &vec![0xee; master.bytes.len()]);
    world.run(async {
        let _repository = scene::serve(&world, "/srv/new.raw", "millpond-id:second").await;
        let pond = scene::open(&world).await.unwrap();
        let disk = Vm::start(&world, "a").await;
        // What is there is served; what is not never comes from the new one.
        disk.check(ByteRange::new(0, 3 * GRANULE), &master.bytes).await;
        let rest = disk.read(ByteRange::new(4 * GRANULE, 4 * GRANULE)).await;
        assert!(rest.is_err(), "bytes of another image were answered");
        disk.stop().await;
        let image = pond.images().remove(0);
        assert!(image.trouble.as_ref().is_some_and(|why| why.what.contains("another image")), "{image:?}");
        pond.close().await.unwrap();
    });
}

#[test]
fn an_old_overlay_is_not_put_over_a_new_version() {
    let master = Master::new(3);
    let files = Files::new(&master);
    files.disk.put(&files.record, b"");
    let world = Arc::new(SimWorld::with_disk(2, Options::calm(), files.disk));
    world.disk().put("/srv/new.raw", &vec![0xee; master.bytes.len()]);
    world.run(async {
        let _repository = scene::serve(&world, "/srv/new.raw", "millpond-id:second").await;
        let pond = scene::open(&world).await.unwrap();
        let name = pond.images()[0].name.clone();
        pond.remove_image(&name).await.unwrap();
        pond.create_clone(&scene::request("c", Mode::WorkingSet)).await.unwrap();
        pond.close().await.unwrap();
        drop(pond);
        let pond = scene::open(&world).await.unwrap();
        let [a, _, c]: [CloneInfo; 3] = pond.clones().try_into().unwrap();
        assert!(a.overlay == scene::overlay("a") && c.trouble.is_none(), "{a:?} {c:?}");
        assert_eq!(a.trouble.and_then(|trouble| trouble.remedy), Some(Remedy::NewClone));
        // Nor is it served: no image is at its socket.
        let engine = scene::engine(&world, 1);
        let file = serde_json::json!({"driver": "file", "filename": scene::overlay("a")});
        let disk =
            serde_json::json!({"driver": "qcow2", "node-name": "disk", "read-only": true, "file": file});
        assert!(scene::add(&engine, disk).await.is_err());
        pond.close().await.unwrap();
    });
}
