//! The simulated surroundings: a repository far away, a host with a pond, VMs on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, Result};
use engine::{Engine, EngineOptions, ExportRequest, NbdServer, Reader, ServerRequest};
use export::nbd::ExportOptions;
use io::{Address, Lease, OpenOptions, World};
use pond::{CloneRequest, Holding, Mode, Pond, PondOptions, Source};
use serde_json::{Value, json};
use sim::{Options, Rng, SimDisk, SimWorld};

use crate::listening;

/// Bytes of the image: some granules, and a part of one.
pub const SIZE: u64 = 9 * GRANULE + 4608;
/// What is fetched at a time.
pub const GRANULE: u64 = 64 << 10;
/// What the repository says of the image's version.
pub const VERSION: &str = "millpond-id:first";
/// What the repository exports, all the same image.
pub const EXPORTS: [&str; 2] = ["disk.raw", "other.raw"];
/// The file of the image.
pub const MASTER: &str = "/srv/disk.raw";

/// Where the repository listens.
pub fn far() -> Address {
    Address::Tcp { host: "repository".to_owned(), port: 10809 }
}

/// An image: its bytes, and a disk that has nothing else on it.
pub struct Master {
    pub bytes: Vec<u8>,
    disk: SimDisk,
}

impl Master {
    /// Data from page to page, some of it holes.
    pub fn new(seed: u64) -> Self {
        let (mut rng, mut bytes) = (Rng::new(seed), vec![0; SIZE as usize]);
        let world = SimWorld::new(seed, Options::calm());
        world.disk().put_hole(MASTER, SIZE);
        world.run(async {
            let writable = OpenOptions { write: true, ..OpenOptions::default() };
            let file = world.open(Path::new(MASTER), writable).await.unwrap();
            let mut at = 0;
            while at < SIZE {
                let end = (at + 4096 * (1 + rng.below(40))).min(SIZE);
                if rng.chance(0.6) || end == SIZE {
                    let part = &mut bytes[at as usize..end as usize];
                    part.fill_with(|| (1 + rng.below(255)) as u8);
                    file.write(at, Lease::copy_of(part)).await.0.unwrap();
                }
                at = end;
            }
            file.flush().await.unwrap();
        });
        Self { bytes, disk: world.disk() }
    }

    /// A disk of its own for a world.
    pub fn disk(&self) -> SimDisk {
        self.disk.crash(&mut Rng::new(0))
    }

    /// Bytes that are fetched at most when so many granules of data are there.
    pub fn lacks(&self, left: u64) -> u64 {
        let granules = self.bytes.chunks(GRANULE as usize);
        let data = granules.filter(|bytes| bytes.iter().any(|byte| *byte != 0));
        let total: u64 = data.map(|bytes| bytes.len() as u64).sum();
        // The last one, which is short, may be one of them.
        let short = GRANULE - SIZE % GRANULE;
        total - (left * GRANULE).saturating_sub(short)
    }
}

/// The files of all caches on a disk.
pub fn caches(disk: &SimDisk) -> Vec<Vec<u8>> {
    let is_cache =
        |name: &PathBuf| name.starts_with("/pond/images") && name.extension() == Some("qcow2".as_ref());
    disk.names().into_iter().filter(is_cache).filter_map(|name| disk.bytes(name)).collect()
}

/// Adds a node.
pub async fn add(engine: &Engine, options: Value) -> Result<String> {
    engine.add_node(options.as_object().unwrap().clone()).await
}

/// An engine of its own, as each process has one.
pub fn engine(world: &Arc<SimWorld>, threads: usize) -> Arc<Engine> {
    Engine::new(world.clone(), EngineOptions { threads, ..EngineOptions::default() }).unwrap()
}

/// Serves a file of the world's disk as the image; what it is served by must be kept.
pub async fn serve(world: &Arc<SimWorld>, file: &str, version: &str) -> (Arc<Engine>, Arc<NbdServer>) {
    let engine = engine(world, 1);
    let image = json!({"driver": "file", "filename": file});
    add(&engine, json!({"driver": "raw", "node-name": "image", "read-only": true, "file": image}))
        .await
        .unwrap();
    let server = Arc::new(engine.nbd_server(&ServerRequest::default()));
    for name in EXPORTS {
        let options = ExportOptions { description: version.to_owned(), ..ExportOptions::read_only(name) };
        server.add(ExportRequest { id: name.to_owned(), node: "image".to_owned(), options }).unwrap();
    }
    listening::listen(&server, far()).await;
    (engine, server)
}

/// Serves the master.
pub async fn repository(world: &Arc<SimWorld>) -> (Arc<Engine>, Arc<NbdServer>) {
    serve(world, MASTER, VERSION).await
}

/// Opens the pond of the host.
pub async fn open(world: &Arc<SimWorld>) -> Result<Arc<Pond>> {
    let engine = Engine::new(world.clone(), EngineOptions { threads: 2, ..EngineOptions::default() })?;
    Ok(Pond::open(engine, options()).await?)
}

/// Where the pond is.
pub fn options() -> PondOptions {
    PondOptions { folder: "/pond".into(), sockets: "/run".into(), source_timeout: Duration::from_secs(60) }
}

/// The overlay of a VM.
pub fn overlay(vm: &str) -> PathBuf {
    Path::new("/vms").join(vm).with_extension("qcow2")
}

/// What a VM's disk is asked for with.
pub fn request(vm: &str, mode: Mode) -> CloneRequest {
    request_of(EXPORTS[0], vm, mode)
}

/// What a VM's disk on another image is asked for with.
pub fn request_of(export: &str, vm: &str, mode: Mode) -> CloneRequest {
    let source = Source::parse(&format!("nbd://repository/{export}"), Path::new("/")).unwrap();
    CloneRequest {
        source,
        overlay: overlay(vm),
        size: None,
        owner: None,
        force: false,
        holding: Holding { mode, quota: None },
    }
}

/// A VM that runs: a process of its own, which reads its overlay as QEMU does.
pub struct Vm {
    engine: Arc<Engine>,
    reader: Reader,
}

impl Vm {
    /// Starts it.
    pub async fn start(world: &Arc<SimWorld>, vm: &str) -> Self {
        let engine = engine(world, 1);
        let file = json!({"driver": "file", "filename": overlay(vm)});
        let disk = json!({"driver": "qcow2", "node-name": "disk", "read-only": true, "file": file});
        add(&engine, disk).await.unwrap_or_else(|error| panic!("VM '{vm}' does not start: {error}"));
        let reader = engine.reader("vm", "disk").unwrap();
        Self { engine, reader }
    }

    /// Reads.
    pub async fn read(&self, range: ByteRange) -> Result<Lease> {
        self.reader.read(range).await
    }

    /// Reads, and compares with the image.
    pub async fn check(&self, range: ByteRange, image: &[u8]) {
        let read = self.reader.read(range).await;
        let read = read.unwrap_or_else(|error| panic!("a VM cannot read {range}: {error}"));
        assert!(read[..] == image[range.start() as usize..range.end() as usize], "wrong bytes in {range}");
    }

    /// Reads all of it.
    pub async fn check_all(&self, image: &[u8]) {
        for at in (0..SIZE).step_by(3 * GRANULE as usize) {
            let range = ByteRange::new(at, 3 * GRANULE).intersection(ByteRange::new(0, SIZE));
            self.check(range, image).await;
        }
    }

    /// Shuts it down.
    pub async fn stop(self) {
        self.reader.close().await.unwrap();
        self.engine.delete_node("disk").await.unwrap();
    }
}
