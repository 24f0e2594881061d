//! `convert` leaves the page cache as it was, unless it is told otherwise.

use std::path::Path;

use block::ByteRange;
use io::{OpenOptions, World, real::RealWorld};

use super::lab::Lab;

const PAGE: u64 = 4096;
const MIB: usize = 1 << 20;

/// Which pages of a file are in memory; none where that cannot be told.
fn resident(path: &Path) -> Vec<bool> {
    let world = RealWorld::new();
    world.block_on(async {
        let file = world.open(path, OpenOptions { write: true, ..OpenOptions::default() });
        let file = file.await.unwrap();
        let pages = file.size().unwrap().div_ceil(PAGE);
        (0..pages).map(|page| file.resident(ByteRange::new(page * PAGE, PAGE))).collect()
    })
}

/// How often a conversion is looked at before it is said to have done what was seen: the kernel takes pages back on its
/// own (a few of 256, in 7 of 400 looks at a file that nobody touched), and leaves one that it finds locked, or written
/// again on its way to the disk, when it is to drop it.
const LOOKS: usize = 6;

/// Makes a file of which one MiB is in memory, the last one: nothing is read ahead of it. Answers what is.
fn source(lab: &Lab) -> Vec<bool> {
    super::shell(
        "sync source; dd if=source iflag=nocache count=0 status=none
         dd if=source of=/dev/null bs=1M skip=3 count=1 status=none",
        &lab.path("."),
    );
    resident(&lab.path("source"))
}

/// How many pages are not as they were: gone, and come.
fn changed(before: &[bool], now: &[bool]) -> (usize, usize) {
    let count = |was, is| before.iter().zip(now).filter(|(then, now)| (**then, **now) == (was, is)).count();
    (count(true, false), count(false, true))
}

/// Converts with `arguments` to `target`: what is wrong with the page cache afterwards.
fn left_behind(lab: &Lab, arguments: &str, target: &str) -> Option<String> {
    let before = source(lab);
    super::shell(
        &format!("bin/millpond img convert -f raw {arguments} source {target}; sync {target}"),
        &lab.path("."),
    );
    let (gone, come) = changed(&before, &resident(&lab.path("source")));
    let stay = resident(&lab.path(target)).iter().filter(|stays| **stays).count();
    super::shell(&format!("qemu-img compare -q source {target}"), &lab.path("."));
    // A table that is written again while it is on its way to the disk may stay, data may not.
    let most = 0;
    (gone > 0 || come > 0 || stay > most).then(|| {
        format!("{gone} pages that others had are gone, {come} of the source stay, {stay} of the target")
    })
}

#[test]
fn convert_leaves_the_page_cache_as_it_was() {
    let Some(lab) = Lab::new("convert_leaves_the_page_cache_as_it_was", &["qemu-img", "dd"]) else { return };
    let bytes: Vec<u8> = (0..4 * MIB).map(|at| (at / 512 % 251) as u8 + 1).collect();
    std::fs::write(lab.path("source"), bytes).unwrap();
    let before = source(&lab);
    if !before.contains(&true) {
        super::lab::skip("convert_leaves_the_page_cache_as_it_was", "cachestat");
        return;
    }
    assert!(before.contains(&false), "all of it is in memory");
    for (arguments, target) in [
        ("-O raw", "new.raw"),
        ("-O qcow2", "new.qcow2"),
        ("-t auto -T auto -O qcow2", "named.qcow2"),
        ("-c -O qcow2", "packed.qcow2"),
        ("-n -O raw", "there"),
        ("-n -O raw", "written"),
    ] {
        let looks = (0..LOOKS).map_while(|_| {
            super::shell(
                "rm -f there; truncate -s 4M there; dd if=/dev/zero of=written bs=1M count=4 conv=fsync status=none
                 dd if=written iflag=nocache count=0 status=none",
                &lab.path("."),
            );
            left_behind(&lab, arguments, target)
        });
        let wrong: Vec<String> = looks.collect();
        assert!(wrong.len() < LOOKS, "{arguments} {target}: {wrong:#?}");
    }
    let is_kept = (0..LOOKS).any(|_| {
        super::shell("bin/millpond img convert -t writeback -f raw -O raw source kept", &lab.path("."));
        resident(&lab.path("kept")).iter().all(|stays| *stays)
    });
    assert!(is_kept, "pages of what shall be kept are gone");
}
