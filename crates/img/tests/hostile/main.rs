//! Whatever an image of 1 MiB holds, no verb takes more than 64 MiB of memory for it, and none goes on without end.
//!
//! Memory is that of the process without the simulated disk; work is counted in requests to the disk, and in turns.
//! What the libraries written in C take is not seen here: their windows are bounded where they are opened.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../qcow2/tests/corpus/mod.rs"]
#[allow(dead_code, reason = "the verdicts use all of it")]
mod corpus;
#[path = "../crash/host.rs"]
#[allow(dead_code, reason = "power cuts use all of it")]
mod host;
mod images;
mod uses;

use images::Named;
use io::counting::Counting;
use sim::Rng;
use uses::Most;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most memory, and most requests to the disk.
const PEAK_MAX: i64 = 64 << 20;
const REQUESTS_MAX: u64 = 200_000;

fn is_full() -> bool {
    std::env::var_os("MILLPOND_TEST_FULL").is_some()
}

/// Uses each image in all ways, and says of all that went beyond the bounds.
fn use_all(images: impl IntoIterator<Item = Named>) {
    let (mut most, mut wrong, mut well) = (Most::default(), Vec::new(), 0);
    for (name, image) in images {
        for used in uses::all(&image) {
            well += usize::from(used.status == 0);
            if used.peak > PEAK_MAX || used.requests > REQUESTS_MAX {
                wrong.push(format!("{name}: {used:?}"));
            }
            most.note(&name, &used);
        }
    }
    println!("{most}; {well} calls went well");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(well > 0, "no call went well");
}

#[test]
fn the_corpus() {
    use_all(corpus::cases().into_iter().map(|case| (case.name, case.image)));
}

#[test]
fn changed_images() {
    let (mut rng, rounds) = (Rng::new(7), if is_full() { 10 } else { 1 });
    let mut changed = |round: usize, case: corpus::Case| {
        let mut image = case.image;
        image.resize(images::BYTES, 0x80);
        mutate(&mut image, &mut rng);
        (format!("{}, changed {round}", case.name), image)
    };
    let mut all = Vec::new();
    for round in 0..rounds {
        all.extend(corpus::cases().into_iter().map(|case| changed(round, case)));
    }
    use_all(all);
}

#[test]
fn images_that_claim_all_they_can() {
    use_all(images::all(is_full()));
}

/// Changes words all over an image, most of them to offsets that may be clusters of it.
fn mutate(image: &mut [u8], rng: &mut Rng) {
    for _ in 0..1 + rng.index(12) {
        let at = match rng.index(3) {
            0 => rng.index(14) * 8,
            _ => rng.index(image.len() / 8) * 8,
        };
        let word = match rng.index(3) {
            0 => 1u64 << rng.index(64),
            1 => (rng.index(300) as u64) << 12 | (rng.index(4) as u64) << 62,
            _ => rng.u64(),
        };
        let word = if rng.index(4) == 0 { word & 0xff | u64::from(image[at]) << 56 } else { word };
        image[at..at + 8].copy_from_slice(&word.to_be_bytes());
    }
}
