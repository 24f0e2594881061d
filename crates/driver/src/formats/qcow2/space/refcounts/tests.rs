//! Against a plain list of counters.

use super::*;
use qcow2::NewImage;

/// The refcounts of a fresh image with clusters of 512 bytes (256 a block, 64 blocks a cluster of the table).
fn fresh(size: u64) -> (Refcounts, Vec<u8>) {
    let fresh = NewImage::new(size, 9).bytes().unwrap();
    let mut file = vec![0; fresh.len as usize];
    for (at, bytes) in fresh.pieces {
        file[at.0 as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    let header = Header::parse(&file[..512]).unwrap();
    let at = header.refcount_table.offset.0 as usize;
    let table = &file[at..at + header.refcount_table.clusters as usize * 512];
    (Refcounts::new(&header, &Geometry::new(&header), table, file.len() as u64, 0), file)
}

/// Takes from them, loading what has to be.
fn take(counts: &mut Refcounts, file: &[u8], count: u64, end: u64) -> Option<Run> {
    loop {
        match counts.take(count, end).unwrap() {
            Took::Run { run, .. } => return Some(run),
            Took::Full => return None,
            Took::Load(block) => {
                let at = counts.to_load(block, file.len() as u64).unwrap().unwrap() as usize;
                counts.keep(block, &file[at..at + 512]).unwrap();
            }
        }
    }
}

/// Writes all that is dirty into the file.
fn flush(counts: &mut Refcounts, file: &mut Vec<u8>) {
    let mut put = |at: u64, bytes: &[u8]| {
        file.resize(file.len().max(at as usize + bytes.len()), 0);
        file[at as usize..][..bytes.len()].copy_from_slice(bytes);
    };
    let (blocks, table) = counts.begin_write();
    for block in &blocks {
        let (at, bytes) = counts.store(*block).unwrap();
        put(at, &bytes);
    }
    if let Some(table) = table {
        put(table.offset, &table.bytes);
        if let Some(place) = table.moved_to {
            put(48, &(place.first * 512).to_be_bytes());
            put(56, &(place.count as u32).to_be_bytes());
            counts.moved(place);
        }
    }
    counts.end_write(true);
}

/// The counters that the file holds.
fn stored(file: &[u8]) -> Vec<u64> {
    let header = Header::parse(&file[..512]).unwrap();
    let at = header.refcount_table.offset.0 as usize;
    let table = file[at..at + header.refcount_table.clusters as usize * 512].as_chunks().0;
    let mut counters = Vec::new();
    for entry in table.iter().map(|entry| u64::from_be_bytes(*entry) as usize) {
        let block = if entry == 0 { vec![0; 512] } else { file[entry..entry + 512].to_vec() };
        let block = RefcountBlock::parse(&block, 16).unwrap();
        counters.extend((0..256).map(|index| block.get(index)));
    }
    counters
}

#[test]
fn clusters_are_handed_out_once_and_come_back() {
    let (mut counts, mut file) = fresh(4 << 20);
    let mut model = stored(&file);
    let mut held: Vec<Run> = Vec::new();
    let mut x = 7u64;
    let mut below = |bound: u64| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) % bound
    };
    for step in 0..4000 {
        if below(3) > 0 || held.is_empty() {
            let run = take(&mut counts, &file, 1 + below(20), u64::MAX).unwrap();
            held.push(run);
        } else {
            let run = held.swap_remove(below(held.len() as u64) as usize);
            for part in counts.by_block(run) {
                while let Err(block) = counts.release(part, false) {
                    let at = counts.to_load(block, file.len() as u64).unwrap().unwrap() as usize;
                    counts.keep(block, &file[at..at + 512]).unwrap();
                }
            }
        }
        if step % 50 == 0 {
            flush(&mut counts, &mut file);
        }
    }
    flush(&mut counts, &mut file);
    let found = stored(&file);
    // What is held is counted once, and nothing twice.
    for run in &held {
        assert!((run.first..run.first + run.count).all(|c| found[c as usize] == 1), "{run:?}");
    }
    let mut owners = vec![0; found.len()];
    held.iter().for_each(|run| (run.first..run.first + run.count).for_each(|c| owners[c as usize] += 1));
    assert!(owners.iter().all(|owners| *owners <= 1));
    // The rest that is counted are the header, the table, the blocks and the L1 table.
    model.resize(found.len(), 0);
    let blocks = found.iter().zip(&owners).zip(&model).filter(|((f, o), m)| **f == 1 && **o == 0 && **m == 0);
    let extra = blocks.count();
    assert!(extra < found.len() / 256 + 400, "{extra} clusters leaked");
}

#[test]
fn a_table_that_is_full_grows_and_moves() {
    let (mut counts, mut file) = fresh(64 << 10);
    let before = counts.durable_place;
    assert_eq!(before.count, 1);
    let mut last = 0;
    while counts.place == before {
        last = take(&mut counts, &file, 256, u64::MAX).unwrap().first;
    }
    assert!(last > 64 * 255);
    flush(&mut counts, &mut file);
    let header = Header::parse(&file[..512]).unwrap();
    assert_eq!(header.refcount_table.clusters, 2);
    let found = stored(&file);
    assert_eq!((found.len(), found[last as usize]), (2 * 64 * 256, 1));
    assert_eq!(counts.durable_place, counts.place);
    assert!((counts.place.first..counts.place.first + 2).all(|c| found[c as usize] == 1));
}

#[test]
fn tables_that_were_overtaken_are_told_of() {
    let (mut counts, file) = fresh(64 << 10);
    let first = counts.durable_place;
    let grow = |counts: &mut Refcounts| {
        let before = counts.place;
        while counts.place == before {
            take(counts, &file, 256, u64::MAX).unwrap();
        }
        counts.place
    };
    let [second, third] = [grow(&mut counts), grow(&mut counts)];
    // The table that a flush has taken is overtaken while it is written.
    let fourth = grow(&mut counts);
    assert_eq!(counts.moved(third), [second, first]);
    assert_eq!(counts.moved(fourth), [third]);
    let [fifth, sixth] = [grow(&mut counts), grow(&mut counts)];
    assert_eq!(counts.moved(sixth), [fifth, fourth]);
}

#[test]
fn a_file_that_does_not_grow_is_full_in_the_end() {
    let (mut counts, file) = fresh(64 << 10);
    let mut taken = 0;
    while let Some(run) = take(&mut counts, &file, 7, 100) {
        assert!(run.first + run.count <= 100);
        taken += run.count;
    }
    assert_eq!(taken, 100 - stored(&file).iter().filter(|count| **count > 0).count() as u64);
}

#[test]
fn tables_never_count_as_free() {
    let (mut counts, mut file) = fresh(64 << 10);
    // The counters say that nothing is in use.
    let at = counts.to_load(0, file.len() as u64).unwrap().unwrap() as usize;
    file[at..at + 512].fill(0);
    counts.keep(0, &file[at..at + 512]).unwrap();
    assert_eq!(counts.take(1, u64::MAX).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(counts.to_load(63, file.len() as u64).is_err());
    assert!(counts.to_load(64, file.len() as u64).is_err());
}

#[test]
fn compressed_bytes_lie_one_behind_the_other() {
    let (mut counts, file) = fresh(1 << 20);
    let end = 1 << 40;
    take(&mut counts, &file, 1, end).expect("room");
    let pack = |counts: &mut Refcounts, len| match counts.pack(len, end).expect("room") {
        (Took::Run { run, .. }, at) => (run, at),
        (other, _) => panic!("{other:?}"),
    };
    let (first, at) = pack(&mut counts, 300);
    assert_eq!((first.count, at), (1, first.first * 512));
    let second = pack(&mut counts, 200);
    assert_eq!(second, (first, at + 300));
    // Into the next cluster, which is free.
    let third = pack(&mut counts, 100);
    assert_eq!(third, (Run { first: first.first, count: 2 }, at + 500));
    // Once nothing is left of the cluster that the last bytes lie in, others may have it.
    let last = Run { first: first.first + 1, count: 1 };
    counts.release(last, false).expect("its block is here");
    let (fourth, at) = pack(&mut counts, 100);
    assert_eq!(at % 512, 0, "{fourth:?}");
}

/// Releases clusters, loading what has to be.
fn release(counts: &mut Refcounts, file: &[u8], run: Run) {
    for part in counts.by_block(run) {
        while let Err(block) = counts.release(part, false) {
            let at = counts.to_load(block, file.len() as u64).unwrap().unwrap() as usize;
            counts.keep(block, &file[at..at + 512]).unwrap();
        }
    }
}

fn end_of_use(counts: &mut Refcounts, file: &[u8]) -> u64 {
    let mut last = u64::MAX;
    loop {
        match counts.end_of_use(last) {
            End::At(end) => return end,
            End::Load(block) => {
                let at = counts.to_load(block, file.len() as u64).unwrap().unwrap() as usize;
                counts.keep(block, &file[at..at + 512]).unwrap();
                last = block;
            }
        }
    }
}

#[test]
fn runs_may_be_longer_than_what_a_block_counts() {
    for count in [255, 256, 3000, 40_000] {
        let (mut counts, mut file) = fresh(64 << 10);
        take(&mut counts, &file, 3, u64::MAX).unwrap();
        assert_eq!(counts.take_behind(count, count).unwrap(), Took::Full);
        let Took::Run { run, clean } = counts.take_behind(count, u64::MAX).unwrap() else { panic!("no run") };
        assert_eq!((run.count, clean), (count, true));
        flush(&mut counts, &mut file);
        let found = stored(&file);
        assert!((run.first..run.first + count).all(|c| found[c as usize] == 1), "{count}");
        let header = Header::parse(&file[..512]).unwrap();
        assert_eq!(
            header.refcount_table.clusters > 1,
            count > 64 * 256,
            "the table is as long as it has to be"
        );
        // Blocks, tables and the run are all that is in use, and what is taken next is none of them.
        let used: u64 = found.iter().sum();
        let blocks = file[header.refcount_table.offset.0 as usize..].as_chunks::<8>().0;
        let blocks = blocks[..header.refcount_table.clusters as usize * 64].iter().filter(|e| **e != [0; 8]);
        let table = u64::from(header.refcount_table.clusters);
        let old_table = if table > 1 { 1 } else { 0 };
        assert_eq!(used, count + 3 + 2 + table + old_table + blocks.count() as u64);
        for _ in 0..2000 {
            let next = take(&mut counts, &file, 1, u64::MAX).unwrap().first;
            let taken = found.get(next as usize).is_some_and(|count| *count > 0);
            assert!(!taken, "cluster {next} is handed out twice");
        }
    }
}

#[test]
fn the_end_of_use_comes_back_with_what_is_released() {
    let (mut counts, mut file) = fresh(64 << 10);
    let runs: Vec<_> = (0..400).map(|_| take(&mut counts, &file, 9, u64::MAX).unwrap()).collect();
    flush(&mut counts, &mut file);
    for kept in [300, 101, 100, 29, 0] {
        for run in &runs[kept..] {
            let held =
                run.first < counts.table.len() as u64 * 256 && counts.table[run.first as usize / 256] != 0;
            let counted = held && stored(&file).get(run.first as usize) == Some(&1);
            if counted {
                release(&mut counts, &file, *run);
            }
        }
        flush(&mut counts, &mut file);
        let end = end_of_use(&mut counts, &file);
        flush(&mut counts, &mut file);
        let found = stored(&file);
        let last = found.iter().rposition(|count| *count > 0).unwrap() as u64;
        assert_eq!(end, last + 1, "the blocks behind are counted no more");
        let expected = runs[..kept].iter().map(|run| run.first + run.count).max().unwrap_or(0);
        assert!(end <= expected.max(5) + 1, "{end} with runs up to {expected}");
        file.truncate(end as usize * 512);
    }
    let again = take(&mut counts, &file, 9, u64::MAX).unwrap();
    assert!(again.first + 9 < 20, "{again:?}");
}

#[test]
fn what_rests_is_not_handed_out_and_all_else_is() {
    let (mut counts, file) = fresh(4 << 20);
    let held: Vec<Run> = (0..20).map(|_| take(&mut counts, &file, 10, u64::MAX).unwrap()).collect();
    // Free since before.
    release(&mut counts, &file, held[3]);
    counts.rest_freed();
    held[10..].iter().step_by(2).for_each(|run| release(&mut counts, &file, *run));
    counts.look_again();
    counts.frontier = 0;
    let end = held[19].first + 10;
    let mut again = Vec::new();
    while let Some(run) = take(&mut counts, &file, 7, end) {
        again.extend(run.first..run.first + run.count);
    }
    let of = |run: &Run| run.first..run.first + run.count;
    assert!(of(&held[3]).all(|cluster| again.contains(&cluster)), "{again:?}");
    let resting: Vec<_> = held[10..].iter().step_by(2).flat_map(of).collect();
    assert!(!resting.is_empty() && !again.iter().any(|cluster| resting.contains(cluster)), "{again:?}");
}

/// Refcounts of which every other one of the first clusters was given back, and those that stayed taken.
fn in_single_clusters(file: &mut Vec<u8>, counts: &mut Refcounts) -> Vec<Run> {
    let held: Vec<Run> = (0..600).map(|_| take(counts, file, 1, u64::MAX).unwrap()).collect();
    held.iter().step_by(2).for_each(|run| release(counts, file, *run));
    flush(counts, file);
    held.into_iter().skip(1).step_by(2).collect()
}

#[test]
fn what_is_written_together_lies_together_and_single_clusters_are_for_who_needs_one() {
    let (mut counts, mut file) = fresh(4 << 20);
    let held = in_single_clusters(&mut file, &mut counts);
    let last = held.last().unwrap().first;
    // They are found by their counters, as in an image that was just opened.
    counts.look_again();
    let long = take(&mut counts, &file, 32, u64::MAX).unwrap();
    assert!(long.first > last && long.count >= 16, "{long:?}");
    let ones: Vec<Run> = (0..300).map(|_| take(&mut counts, &file, 1, u64::MAX).unwrap()).collect();
    assert!(ones.iter().filter(|one| one.first < last).count() >= 299, "{ones:?}");
}

#[test]
fn a_file_that_cannot_grow_is_filled_to_its_last_single_cluster() {
    let (mut counts, mut file) = fresh(4 << 20);
    let held = in_single_clusters(&mut file, &mut counts);
    let end = held.last().unwrap().first + 40;
    counts.look_again();
    let mut taken = 0;
    while let Some(run) = take(&mut counts, &file, 32, end) {
        assert!(run.first + run.count <= end, "{run:?}");
        taken += run.count;
    }
    flush(&mut counts, &mut file);
    assert!(taken >= 300 + 35, "{taken}");
    assert!(stored(&file)[..end as usize].iter().all(|count| *count == 1));
}
