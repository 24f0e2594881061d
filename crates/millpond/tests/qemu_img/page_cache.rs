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

/// Makes a file of which one MiB is in memory, the last one: nothing is read ahead of it.
fn source(lab: &Lab) {
    let bytes: Vec<u8> = (0..4 * MIB).map(|at| (at / 512 % 251) as u8 + 1).collect();
    std::fs::write(lab.path("source"), bytes).unwrap();
    super::shell(
        "dd if=source iflag=nocache count=0 status=none; sync source; dd if=source iflag=nocache count=0 status=none
         dd if=source of=/dev/null bs=1M skip=3 count=1 status=none",
        &lab.path("."),
    );
}

/// What was in memory of the source is, and nothing else. The kernel leaves a page that it finds locked when it is to drop it.
fn source_is(before: &[bool], now: &[bool], doing: &str) {
    let count = |was, is| before.iter().zip(now).filter(|(then, now)| (**then, **now) == (was, is)).count();
    assert_eq!(count(true, false), 0, "{doing}: pages that others had are gone");
    let stay = count(false, true);
    assert!(stay <= 16, "{doing}: {stay} pages of the source stay");
}

#[test]
fn convert_leaves_the_page_cache_as_it_was() {
    let Some(lab) = Lab::new("convert_leaves_the_page_cache_as_it_was", &["qemu-img", "dd"]) else { return };
    source(&lab);
    let before = resident(&lab.path("source"));
    if !before.contains(&true) {
        super::lab::skip("convert_leaves_the_page_cache_as_it_was", "cachestat");
        return;
    }
    assert!(before.contains(&false), "all of it is in memory");
    super::shell(
        "truncate -s 4M there; dd if=/dev/zero of=written bs=1M count=4 conv=fsync status=none
         dd if=written iflag=nocache count=0 status=none",
        &lab.path("."),
    );
    for (arguments, target) in [
        ("-O raw", "new.raw"),
        ("-O qcow2", "new.qcow2"),
        ("-t auto -T auto -O qcow2", "named.qcow2"),
        ("-c -O qcow2", "packed.qcow2"),
        ("-n -O raw", "there"),
        ("-n -O raw", "written"),
    ] {
        super::shell(
            &format!("bin/millpond img convert -f raw {arguments} source {target}; sync {target}"),
            &lab.path("."),
        );
        source_is(&before, &resident(&lab.path("source")), &format!("{arguments} {target}"));
        let stays = resident(&lab.path(target));
        let stay = stays.iter().filter(|stays| **stays).count();
        // A table that is written again while it is on its way to the disk may stay, data may not.
        let most = if arguments.contains("qcow2") { 48 } else { 0 };
        assert!(stay <= most, "{arguments} {target}: {stay} of {} pages", stays.len());
        super::shell(&format!("qemu-img compare -q source {target}"), &lab.path("."));
        super::shell(
            "dd if=source iflag=nocache count=0 status=none; dd if=source of=/dev/null bs=1M skip=3 count=1 status=none",
            &lab.path("."),
        );
    }
    super::shell("bin/millpond img convert -t writeback -f raw -O raw source kept", &lab.path("."));
    assert!(resident(&lab.path("kept")).iter().all(|stays| *stays));
}
