//! Many clients at once on chains that allocate, zero, discard and reuse: no wrong byte, no leak.
//!
//! `MILLPOND_TEST_FULL=1` runs more seeds.

use crate::lab::work::Plan;
use crate::lab::{Lab, Tree, simulation};
use flow::Role;
use serde_json::{Value, json};

const SIZE: u64 = 300_001;

fn seeds(quick: u64) -> std::ops::Range<u64> {
    let full = std::env::var_os("MILLPOND_TEST_FULL").is_some();
    0..if full { quick * 25 } else { quick }
}

fn options(cluster: u64, misses: f64) -> Value {
    json!({"size": SIZE, "cluster-size": cluster, "table-misses": {"probability": misses, "seed": 5}})
}

/// Runs random work on what `build` makes, from each of the seeds.
fn simulate(base: u64, seeds: std::ops::Range<u64>, build: impl AsyncFn(&Lab) -> Tree) {
    for seed in seeds {
        simulation::run(seed, SIZE, base, &build).unwrap();
    }
}

#[test]
fn one_format_on_a_file() {
    simulate(0, seeds(8), async |lab| lab.memory_format("disk", options(65536, 0.0), None).await);
}

#[test]
fn small_clusters_and_tables_that_have_to_be_loaded() {
    simulate(0, seeds(8), async |lab| lab.memory_format("disk", options(4096, 0.1), None).await);
}

#[test]
fn a_format_on_blocks_of_512_bytes() {
    simulate(0, seeds(8), async |lab| {
        let (file, _) = lab.file_with("disk", true).await;
        lab.open("memory-format", options(8192, 0.0), &[(Role::File, &file)]).await
    });
}

#[test]
fn over_a_backing_format_over_a_raw_file() {
    simulate(SIZE - 5000, seeds(8), async |lab| {
        let (base, _) = lab.file("base").await;
        let raw = lab.open("raw", json!({}), &[(Role::Filtered, &base)]).await;
        let middle = lab.memory_format("middle", options(16384, 0.05), Some(&raw)).await;
        lab.memory_format("top", options(65536, 0.05), Some(&middle)).await
    });
}

#[test]
fn on_a_format_that_allocates_too() {
    simulate(SIZE, seeds(8), async |lab| {
        let (base, _) = lab.file("base").await;
        let inner = json!({"size": 3 * SIZE, "cluster-size": 8192});
        let inner = lab.memory_format("inner", inner, None).await;
        let children = [(Role::File, &inner), (Role::Backing, &base)];
        lab.open("memory-format", options(65536, 0.0), &children).await
    });
}

#[test]
fn a_long_chain_whose_mappings_are_remembered() {
    simulate(0, seeds(6), async |lab| {
        let mut tree = lab.memory_format("bottom", options(65536, 0.0), None).await;
        for layer in 0..9 {
            tree = lab.memory_format(&format!("layer{layer}"), options(65536, 0.0), Some(&tree)).await;
        }
        tree
    });
}

#[test]
fn behind_copy_on_read() {
    simulate(SIZE, seeds(8), async |lab| {
        let (base, _) = lab.file("base").await;
        let cache = lab.memory_format("cache", options(4096, 0.05), Some(&base)).await;
        lab.open("copy-on-read", json!({}), &[(Role::Filtered, &cache)]).await
    });
}

#[test]
fn on_real_threads() {
    for seed in seeds(2) {
        let world = io::real::RealWorld::new();
        world.block_on(async {
            let lab = Lab::new(&world);
            let base = lab.ram(SIZE);
            let middle = [(Role::File, &lab.ram(4 << 20)), (Role::Backing, &base)];
            let middle = lab.open("memory-format", options(16384, 0.02), &middle).await;
            let top = [(Role::File, &lab.ram(2 << 20)), (Role::Backing, &middle)];
            let tree = lab.open("memory-format", options(65536, 0.02), &top).await;
            simulation::on_threads(&lab, &tree, Plan { requests: 1500, ..Plan::new(seed) }).await;
        });
    }
}
