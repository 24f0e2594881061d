//! A disk that grows and shrinks while clients write to it.

use block::ByteRange;
use flow::{Op, View, seam};
use futures_util::future::{join, join_all};
use sim::Rng;

use crate::model::{Kind, SECTOR};
use crate::row::SECTORS;
use crate::scribble::Client;
use crate::stage::{Stage, flush};

/// Longest disk in sectors: more L1 entries than fit one cluster of 512 bytes.
const LONGEST: u64 = 3 << 12;
/// Shortest disk in sectors.
const SHORTEST: u64 = 8;
const ROUNDS: usize = 6;

/// Changes the size again and again. Meanwhile clients change what lies before the old end and the new one; between two
/// changes of the size also what is new.
pub async fn resize_under_clients(stage: &Stage<'_>) {
    let mut rng = Rng::new(stage.seed);
    let view = stage.tree.view();
    let mut sectors = SECTORS;
    for _ in 0..ROUNDS {
        let wanted = another(&mut rng, sectors);
        let part = sectors.min(wanted) / 3;
        let client = |number| Client::of_part(stage, &view, rng.fork(), number * part..(number + 1) * part);
        let clients: Vec<_> = (0..3).map(client).map(|client| client.work_for(4)).collect();
        join(join_all(clients), resize(stage, &view, wanted)).await;
        sectors = wanted;
        change_the_end(stage, &view, &mut rng, sectors).await;
        let found = seam::read(&view, ByteRange::new(0, view.size())).await.unwrap();
        stage.model.borrow().check_now(0..sectors, &found).unwrap();
    }
    flush(&view).await;
}

/// Fills the disk, makes it short, and goes on with it, again and again. Nobody holds what is dropped, so that the file
/// ends earlier then.
pub async fn fill_and_shrink(stage: &Stage<'_>) {
    let mut rng = Rng::new(stage.seed);
    let view = stage.tree.view();
    for _ in 0..ROUNDS / 2 {
        let sectors = SECTORS + rng.below(SECTORS);
        resize(stage, &view, sectors).await;
        let mut client = Client::of_part(stage, &view, rng.fork(), 0..sectors);
        for start in (0..sectors).step_by(128) {
            client.write(start..(start + 128).min(sectors)).await;
        }
        let before = file_len(stage);
        resize(stage, &view, SHORTEST + rng.below(SECTORS / 4)).await;
        assert!(file_len(stage) < before, "its file is as long as before");
        if rng.chance(0.5) {
            flush(&view).await;
        }
    }
    flush(&view).await;
}

fn file_len(stage: &Stage<'_>) -> usize {
    stage.lab.world.disk().bytes("disk").unwrap().len()
}

async fn resize(stage: &Stage<'_>, view: &View, sectors: u64) {
    stage.model.borrow_mut().begin_resize(sectors);
    seam::resize(view, sectors * SECTOR as u64).await.unwrap();
    stage.model.borrow_mut().end_resize(sectors);
    assert_eq!(view.size(), sectors * SECTOR as u64);
}

/// A little longer or shorter, much shorter, or anything.
fn another(rng: &mut Rng, sectors: u64) -> u64 {
    let wanted = match rng.below(4) {
        0 => sectors + rng.below(40),
        1 => sectors.saturating_sub(rng.below(40)),
        2 => rng.below(SECTORS),
        _ => rng.below(LONGEST),
    };
    wanted.clamp(SHORTEST, LONGEST)
}

async fn change_the_end(stage: &Stage<'_>, view: &View, rng: &mut Rng, sectors: u64) {
    let mut client = Client::of_part(stage, view, rng.fork(), 0..sectors);
    let from = sectors - 1 - rng.below(SHORTEST.min(sectors));
    client.write(from..sectors).await;
    if rng.chance(0.3) {
        client.change(Op::WriteZeroes, Kind::Zeros, from..sectors).await;
    }
    if rng.chance(0.5) {
        client.flush().await;
    }
}
