//! Many clients at once on qcow2 images that allocate, zero, discard and reuse: no wrong byte, and tables that agree
//! with one another afterwards.
//!
//! `MILLPOND_TEST_FULL=1` runs more seeds.

use crate::lab::oracle::{self, Oracle};
use crate::lab::work::{self, Plan};
use crate::lab::{Lab, Tree, qcow2 as images, simulation};
use flow::Role;
use qcow2::NewImage;
use serde_json::{Value, json};
use sim::{Options, SimWorld};

const SIZE: u64 = 300_001;

fn seeds(quick: u64) -> std::ops::Range<u64> {
    let full = std::env::var_os("MILLPOND_TEST_FULL").is_some();
    0..if full { quick * 25 } else { quick }
}

/// Random work on what `build` makes, from each of the seeds; then a flush, and a check of the files `images`.
fn simulate(base: u64, seeds: std::ops::Range<u64>, files: &[&str], build: impl AsyncFn(&Lab) -> Tree) {
    for seed in seeds {
        let world = SimWorld::new(seed, Options::default());
        world.disk().put("base", &oracle::initial(base));
        let work = async {
            let lab = Lab::new(&world);
            let tree = build(&lab).await;
            let (root, oracle) = (lab.root(&tree), Oracle::new(base));
            work::run(&world, &root, &oracle, Plan::new(seed)).await?;
            // What was given up comes to its end, and is freed by the second: no check before finds it unused.
            for _ in 0..3 {
                while world.disk().in_flight() > 0 {
                    io::sleep(std::time::Duration::from_millis(1)).await;
                }
                flush(&tree).await.map_err(|e| e.to_string())?;
            }
            simulation::finish(&tree, &root, &oracle).await
        };
        world.run(work).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        for file in files {
            let report = images::check(&world.disk().bytes(file).unwrap());
            let report = report.unwrap_or_else(|wrong| panic!("seed {seed}, {file}: {wrong}"));
            assert!(report.data > 0 && report.leaks == 0, "seed {seed}, {file}: {report:?}");
        }
    }
}

async fn flush(tree: &Tree) -> block::Result<()> {
    flow::seam::execute(&tree.view(), flow::Request::flush(), io::Lease::empty()).await.0
}

fn image(cluster_bits: u32) -> NewImage {
    NewImage::new(SIZE, cluster_bits)
}

fn plain() -> Value {
    json!({})
}

#[test]
fn one_image() {
    simulate(0, seeds(8), &["disk"], async |lab| lab.qcow2("disk", &image(16), plain(), None).await);
}

#[test]
fn tiny_clusters_and_tables_that_have_to_be_loaded() {
    simulate(0, seeds(8), &["disk"], async |lab| lab.qcow2("disk", &image(9), images::tiny(), None).await);
}

/// An image of these bytes.
async fn of_bytes(lab: &Lab, bytes: &[u8], options: Value, backing: Option<&Tree>) -> Tree {
    lab.world.disk().put("disk", bytes);
    lab.open_qcow2("disk", options, backing).await
}

#[test]
fn an_image_of_version_2() {
    simulate(0, seeds(8), &["disk"], async |lab| {
        of_bytes(lab, &images::version_2(images::file_of(&image(9))), images::tiny(), None).await
    });
}

#[test]
fn an_overlay_of_version_2() {
    simulate(SIZE - 5000, seeds(8), &["disk"], async |lab| {
        let (base, _) = lab.file("base").await;
        let file = images::version_2(images::file_of(&image(12).over("base", "raw")));
        of_bytes(lab, &file, plain(), Some(&base)).await
    });
}

#[test]
fn subclusters() {
    simulate(0, seeds(8), &["disk"], async |lab| {
        of_bytes(lab, &images::with_subclusters(images::file_of(&image(14))), plain(), None).await
    });
}

#[test]
fn an_overlay_with_subclusters() {
    simulate(SIZE - 5000, seeds(8), &["disk"], async |lab| {
        let (base, _) = lab.file("base").await;
        let file = images::with_subclusters(images::file_of(&image(16).over("base", "raw")));
        of_bytes(lab, &file, images::tiny(), Some(&base)).await
    });
}

#[test]
fn data_files() {
    for raw in [false, true] {
        simulate(0, seeds(6), &["disk"], async |lab| {
            lab.world.disk().put("data", &[]);
            of_bytes(lab, &images::with_data_file(&image(12), raw), images::tiny(), None).await
        });
    }
}

/// The image shares all that it holds with a snapshot.
#[test]
fn a_snapshot_below() {
    let filled = SimWorld::new(1, Options::calm());
    filled.run(async {
        let view = Lab::new(&filled).qcow2("disk", &image(12), plain(), None).await.view();
        flow::seam::write(&view, 0, &oracle::initial(SIZE)).await.unwrap();
        flow::seam::execute(&view, flow::Request::flush(), io::Lease::empty()).await.0.unwrap();
    });
    let file = images::with_snapshot(filled.disk().bytes("disk").unwrap());
    simulate(SIZE, seeds(8), &["disk"], async |lab| of_bytes(lab, &file, images::tiny(), None).await);
}

#[test]
fn an_image_on_blocks_of_512_bytes() {
    simulate(0, seeds(8), &["disk"], async |lab| {
        images::put(&lab.world.disk(), "disk", &image(12));
        let (file, _) = lab.file_with("disk", true).await;
        lab.open("qcow2", images::tiny(), &[(Role::File, &file)]).await
    });
}

#[test]
fn a_chain_of_images() {
    simulate(SIZE - 5000, seeds(8), &["top"], async |lab| {
        let (base, _) = lab.file("base").await;
        let raw = lab.open("raw", plain(), &[(Role::Filtered, &base)]).await;
        let middle = lab.qcow2("middle", &image(12).over("base", "raw"), images::tiny(), Some(&raw)).await;
        lab.qcow2("top", &image(14).over("middle", "qcow2"), plain(), Some(&middle)).await
    });
}

#[test]
fn a_long_chain_whose_mappings_are_remembered() {
    simulate(0, seeds(4), &["layer8"], async |lab| {
        let mut tree = lab.qcow2("bottom", &image(16), plain(), None).await;
        for layer in 0..9 {
            let over = image(16).over("below", "qcow2");
            tree = lab.qcow2(&format!("layer{layer}"), &over, plain(), Some(&tree)).await;
        }
        tree
    });
}

#[test]
fn a_cache_behind_copy_on_read() {
    simulate(SIZE, seeds(8), &["cache"], async |lab| {
        let (base, _) = lab.file("base").await;
        let cache = lab.qcow2("cache", &image(12).over("base", "raw"), images::tiny(), Some(&base)).await;
        lab.open("copy-on-read", plain(), &[(Role::Filtered, &cache)]).await
    });
}

#[test]
fn an_image_in_an_image() {
    simulate(SIZE, seeds(8), &["outer"], async |lab| {
        let (base, _) = lab.file("base").await;
        let outer = NewImage::new(2 << 20, 10);
        let outer = lab.qcow2("outer", &outer, plain(), None).await;
        for (at, bytes) in image(12).over("base", "raw").bytes().unwrap().pieces {
            flow::seam::write(&outer.view(), at.0, &bytes).await.unwrap();
        }
        lab.open("qcow2", plain(), &[(Role::File, &outer), (Role::Backing, &base)]).await
    });
}

#[test]
fn on_real_threads() {
    for seed in seeds(2) {
        let world = io::real::RealWorld::new();
        world.block_on(async {
            let lab = Lab::new(&world);
            let base = lab.ram(SIZE);
            let middle = over_ram(&lab, &image(12).over("base", "raw"), images::tiny(), &base).await;
            let tree = over_ram(&lab, &image(9).over("middle", "qcow2"), plain(), &middle).await;
            simulation::on_threads(&lab, &tree, Plan { requests: 600, ..Plan::new(seed) }).await;
            for _ in 0..3 {
                flush(&tree).await.unwrap();
            }
            let file = tree.subtrees().into_iter().find(|tree| tree.node().driver() == "ram").unwrap();
            let size = file.view().size();
            let bytes = flow::seam::read(&file.view(), block::ByteRange::new(0, size)).await.unwrap();
            let report = images::check(&bytes).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
            assert!(report.data > 0 && report.leaks == 0, "seed {seed}: {report:?}");
        });
    }
}

/// An image in memory.
async fn over_ram(lab: &Lab<io::real::RealWorld>, image: &NewImage, options: Value, backing: &Tree) -> Tree {
    let file = lab.ram(4 << 20);
    for (at, bytes) in image.bytes().unwrap().pieces {
        flow::seam::write(&file.view(), at.0, &bytes).await.unwrap();
    }
    lab.open("qcow2", options, &[(Role::File, &file), (Role::Backing, backing)]).await
}
