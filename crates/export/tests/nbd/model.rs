//! Random requests of several clients against plain bytes, in all weathers.

use std::path::Path;

use io::{OpenOptions, World};
use sim::{Options, SimWorld};

use crate::lab::player::{OWN, STABLE, several_clients, some_bytes};
use crate::lab::stage::Stage;
use crate::lab::store::{Mood, UNIT};
use crate::play;

async fn run(stage: &Stage<SimWorld>, seed: u64, mood: Mood, longest: usize, requests: usize) {
    stage.world.disk().put("stable", &some_bytes(seed, STABLE));
    let stable = stage.world.open(Path::new("stable"), OpenOptions::default()).await.unwrap();
    several_clients(stage, seed, stable, mood, (longest as u64, requests)).await;
}

#[test]
fn clients_side_by_side_agree_with_the_model() {
    for seed in 0..40 {
        play(seed, Options::default(), 1 + seed as usize % 3, async |stage| {
            let mood = Mood { wait: [0, 20, 60, 100][seed as usize % 4], ..Mood::MIXED };
            run(&stage, seed, mood, OWN, 150).await;
        });
    }
}

#[test]
fn a_network_that_delivers_single_bytes_changes_nothing() {
    for seed in 0..8 {
        play(seed, Options::default(), 2, async |stage| {
            stage.world.net().adjust(|net| (net.short, net.single) = (1.0, [1.0, 0.7][seed as usize % 2]));
            run(&stage, seed, Mood::MIXED, 2 * UNIT, 30).await;
        });
    }
}

#[test]
fn small_buffers_change_nothing() {
    for seed in 0..12 {
        play(seed, Options::default(), 2, async |stage| {
            let (buffer, longest, requests) =
                [(1, 100, 10), (300, 5000, 20), (9000, 50_000, 40)][seed as usize % 3];
            stage.world.net().adjust(|net| net.buffer = buffer);
            run(&stage, seed, Mood::MIXED, longest, requests).await;
        });
    }
}

#[test]
fn faults_of_the_node_reach_their_request_alone() {
    for seed in 0..20 {
        play(seed, Options::default(), 2, async |stage| {
            run(&stage, seed, Mood { fail: 30, ..Mood::MIXED }, OWN, 100).await;
        });
    }
}
