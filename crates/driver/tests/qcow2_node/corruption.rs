//! Corruption that is met while an image is in use: nothing is written over, the image is marked, the rest goes on.

use std::process::Command;

use crate::lab::moved_tables::{Move, write_over};
use crate::lab::{Lab, qcow2 as images};
use block::{ByteRange, ErrorKind, NewSnapshot};
use flow::events::{Event, Events, Subscription};
use flow::{Op, Request, Role, View, seam};
use io::Lease;
use qcow2::{Header, NewImage};
use serde_json::{Value, json};
use sim::{Options, SimWorld};

const CLUSTER: u64 = 64 << 10;
const SIZE: u64 = 1 << 20;
/// Where an image that QEMU or we have made has what, and its first two clusters of data.
const REFCOUNT_TABLE: u64 = CLUSTER;
const BLOCK: u64 = 2 * CLUSTER;
const L1: u64 = 3 * CLUSTER;
const L2: u64 = 4 * CLUSTER;
const DATA: u64 = 5 * CLUSTER;
const COPIED: u64 = 1 << 63;

async fn flush(view: &View) -> block::Result<()> {
    seam::execute(view, Request::flush(), Lease::empty()).await.0
}

async fn discard(view: &View, start: u64, len: u64) -> block::Result<()> {
    seam::execute(view, Request::new(Op::Discard, ByteRange::new(start, len)), Lease::empty()).await.0
}

/// A file with two clusters of data, and these words set in it.
fn broken(words: &[(u64, u64)]) -> Vec<u8> {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let view = Lab::new(&world).qcow2("disk", &NewImage::new(SIZE, 16), json!({}), None).await.view();
        seam::write(&view, 0, &[7; 2 * CLUSTER as usize]).await.unwrap();
        flush(&view).await.unwrap();
    });
    let mut file = world.disk().bytes("disk").unwrap();
    let word = |at: u64| u64::from_be_bytes(file[at as usize..][..8].try_into().unwrap());
    assert_eq!([word(REFCOUNT_TABLE), word(L1), word(L2)], [BLOCK, L2 | COPIED, DATA | COPIED]);
    for (at, word) in words {
        file[*at as usize..][..8].copy_from_slice(&word.to_be_bytes());
    }
    file
}

/// The word of the refcount block that counts the first four clusters or the next, without the count of one.
fn uncounted(cluster: u64) -> (u64, u64) {
    let counted = if cluster < 4 { 0x0001_0001_0001_0001 } else { 0x0001_0001_0001_0000 };
    (BLOCK + cluster / 4 * 8, counted & !(0xffff << (48 - cluster % 4 * 16)))
}

/// A broken image in use.
struct Case {
    world: SimWorld,
    file: Vec<u8>,
    told: Subscription,
    view: std::sync::Arc<View>,
}

impl Case {
    async fn open(world: &SimWorld, file: &[u8], options: Value) -> Self {
        Self::open_as(world, file, options, false).await
    }

    async fn open_read_only(world: &SimWorld, file: &[u8]) -> Self {
        Self::open_as(world, file, json!({}), true).await
    }

    async fn open_as(world: &SimWorld, file: &[u8], options: Value, read_only: bool) -> Self {
        world.disk().put("disk", file);
        let (lab, events) = (Lab::new(world), Events::default());
        let told = events.subscribe();
        let (below, _) = lab.file("disk").await;
        let children = [(Role::File, &below)];
        let tree = lab.open_with("qcow2", options, &children, |context| {
            context.events = events.of("disk");
            context.base = Some("disk".into());
            context.read_only = read_only;
        });
        let view = tree.await.unwrap().view();
        Self { world: world.clone(), file: file.to_vec(), told, view }
    }

    /// What was told of the image: message, offset, and whether it is fatal.
    fn told(&mut self) -> Vec<(String, Option<u64>, bool)> {
        let mut all = Vec::new();
        while let Some(event) = self.told.try_next() {
            if let Event::ImageCorrupt { node, message, range, fatal } = event {
                assert_eq!(node, "disk");
                all.push((message, range.map(|range| range.start()), fatal));
            }
        }
        all
    }

    /// It says so, durably; and nothing else of what was there has changed, other than the bytes of `besides`.
    async fn is_marked(&self, besides: ByteRange) {
        flush(&self.view).await.unwrap();
        let now = self.world.disk().durable_bytes("disk").unwrap();
        assert!(Header::parse(&now[..CLUSTER as usize]).unwrap().features.corrupt(), "it is not marked");
        let changed = |at: &usize| now[*at] != self.file[*at] && *at != 79;
        let wrong =
            (0..self.file.len()).filter(changed).find(|at| !besides.contains(ByteRange::new(*at as u64, 1)));
        assert_eq!(wrong, None, "a byte that was written over");
    }

    /// It is read, and not written any more.
    async fn is_stopped(&self) {
        for at in [CLUSTER, 3 * CLUSTER] {
            let refused = seam::write(&self.view, at, &[1; 512]).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt);
            let said = refused.to_string();
            assert!(said.contains("millpond img check -r all") && said.contains("image 'disk'"), "{said}");
        }
        assert_eq!(discard(&self.view, 0, SIZE).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(seam::read(&self.view, ByteRange::new(CLUSTER, 512)).await.unwrap()[..], [7; 512]);
    }
}

/// What QEMU says of the image to who gives it this command; `None` where it is not there.
fn qemu_says(test: &str, file: &[u8], command: &str) -> Option<String> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, file).unwrap();
    let Ok(output) = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(&path).output() else {
        println!("skipped: {test}: no qemu-io");
        if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
            let line = format!("{test}: no qemu-io\n");
            let log = std::fs::OpenOptions::new().append(true).create(true).open(log);
            std::io::Write::write_all(&mut log.unwrap(), line.as_bytes()).unwrap();
        }
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let marked =
        Header::parse(&std::fs::read(&path).unwrap()[..CLUSTER as usize]).unwrap().features.corrupt();
    assert!(marked || file[7] == 2, "QEMU does not mind: {said}");
    Some(said)
}

const STRUCTURES: [(u64, &str); 5] = [
    (0, "qcow2_header"),
    (REFCOUNT_TABLE, "refcount table"),
    (BLOCK, "refcount block"),
    (L1, "active L1 table"),
    (L2, "active L2 table"),
];

#[test]
fn entries_that_point_to_structures_are_read_and_not_written() {
    // An entry that points to the header reads as nothing.
    for (at, name) in &STRUCTURES[1..] {
        let world = SimWorld::new(1, Options::calm());
        let file = broken(&[(L2, at | COPIED)]);
        let message = format!("Preventing invalid write on metadata (overlaps with {name})");
        world.run(async {
            let mut case = Case::open(&world, &file, json!({})).await;
            seam::read(&case.view, ByteRange::new(0, SIZE)).await.unwrap();
            seam::write(&case.view, CLUSTER, &[7; 4096]).await.unwrap();
            seam::write(&case.view, CLUSTER, &[7; 4096]).await.unwrap();
            assert_eq!(case.told(), [], "reading it and writing elsewhere tells nothing");
            let refused = seam::write(&case.view, 512, &[1; 512]).await.unwrap_err();
            assert!(refused.to_string().contains(&message), "{refused}");
            assert_eq!(case.told(), [(message.clone(), Some(*at), true)]);
            case.is_marked(ByteRange::default()).await;
            case.is_stopped().await;
            assert_eq!(case.told(), [], "it is told once");
        });
        if let Some(said) = qemu_says("qcow2_node corruption entries", &file, "write 512 512") {
            assert!(said.contains(&message), "{said}");
        }
    }
}

#[test]
fn entries_that_point_to_structures_are_not_dropped_either() {
    for entry in [L1 | COPIED, L1, L1 | COPIED | 1, 1 << 62 | L1] {
        let world = SimWorld::new(1, Options::calm());
        let file = broken(&[(L2, entry)]);
        world.run(async {
            let case = Case::open(&world, &file, json!({})).await;
            let refused = discard(&case.view, 0, CLUSTER).await.unwrap_err();
            assert!(refused.to_string().contains("overlaps with active L1 table"), "{entry:#x}: {refused}");
            case.is_marked(ByteRange::default()).await;
        });
    }
}

#[test]
fn structures_that_count_as_free_are_not_taken() {
    for (at, name) in STRUCTURES {
        let world = SimWorld::new(1, Options::calm());
        let file = broken(&[uncounted(at / CLUSTER)]);
        let message = format!("Preventing invalid write on metadata (overlaps with {name})");
        world.run(async {
            let mut case = Case::open(&world, &file, json!({})).await;
            seam::write(&case.view, CLUSTER, &[7; 512]).await.unwrap();
            let refused = seam::write(&case.view, 8 * CLUSTER, &[1; 512]).await.unwrap_err();
            assert!(refused.to_string().contains(&message), "{refused}");
            assert_eq!(case.told(), [(message.clone(), Some(at), true)]);
            case.is_marked(ByteRange::default()).await;
            case.is_stopped().await;
        });
        if let Some(said) = qemu_says("qcow2_node corruption structures", &file, "write 512k 512") {
            assert!(said.contains(&message), "{said}");
        }
    }
}

#[test]
fn data_that_counts_as_free_is_neither_taken_nor_freed() {
    let file = broken(&[uncounted(5)]);
    for frees in [false, true] {
        let world = SimWorld::new(1, Options::calm());
        world.run(async {
            let mut case = Case::open(&world, &file, json!({})).await;
            let said = match frees {
                false => {
                    let refused = seam::write(&case.view, 8 * CLUSTER, &[1; 512]).await.unwrap_err();
                    assert!(refused.to_string().contains("invalid allocation"), "{refused}");
                    "Preventing invalid allocation of cluster at offset 0x50000 (it is in use, its refcount is 0)"
                }
                true => {
                    discard(&case.view, 0, CLUSTER).await.unwrap();
                    flush(&case.view).await.unwrap();
                    flush(&case.view).await.unwrap();
                    "Cannot free cluster at offset 0x50000 (its refcount is 0)"
                }
            };
            assert_eq!(case.told(), [(said.to_owned(), Some(DATA), true)]);
            // The entry that was dropped.
            case.is_marked(ByteRange::new(L2, if frees { 8 } else { 0 })).await;
            case.is_stopped().await;
        });
    }
}

#[test]
fn lies_stop_who_writes_there() {
    let lies = [
        (
            L2,
            DATA | 0x200 | COPIED,
            "write 512 512",
            "Data cluster offset 0x50200 unaligned (guest offset: 0x200)",
        ),
        (
            L2,
            DATA | 0x201 | COPIED,
            "write 512 512",
            "Preallocated zero cluster offset 0x50200 unaligned (guest offset: 0x200)",
        ),
        (L1, L2 | 0x200 | COPIED, "write 512 512", "L2 table offset 0x40200 unaligned (L1 index: 0)"),
        (
            REFCOUNT_TABLE,
            (DATA + CLUSTER) | 0x200,
            "write 512k 512",
            "Refblock offset 0x60200 unaligned (reftable index: 0)",
        ),
    ];
    for (at, entry, command, message) in lies {
        let world = SimWorld::new(1, Options::calm());
        let file = broken(&[(at, entry)]);
        world.run(async {
            let mut case = Case::open(&world, &file, json!({})).await;
            let start = if command.contains("512k") { 8 * CLUSTER } else { 512 };
            let refused = seam::write(&case.view, start, &[1; 512]).await.unwrap_err().to_string();
            assert!(
                refused.contains("millpond img check -r all") && refused.contains("image 'disk'"),
                "{refused}"
            );
            assert_eq!(case.told(), [(message.to_owned(), None, true)]);
            case.is_marked(ByteRange::default()).await;
        });
        if let Some(said) = qemu_says("qcow2_node corruption lies", &file, command) {
            assert!(said.contains(message), "{said}");
        }
    }
}

/// Images that lie where their first bytes are read, and what QEMU says then.
fn lies_to_readers() -> Vec<(Vec<u8>, &'static str)> {
    let subclusters = |bitmap| images::with_subclusters(broken(&[(L2, DATA | COPIED), (L2 + 8, bitmap)]));
    let nowhere = images::with_subclusters(broken(&[(L2, 0), (L2 + 8, 1)]));
    let unaligned = "Cluster allocation offset 0x50200 unaligned (L2 offset: 0x40000, L2 index: 0)";
    vec![
        (broken(&[(L2, DATA | 0x200 | COPIED)]), unaligned),
        (broken(&[(L2, DATA | 0x201)]), unaligned),
        (broken(&[(L1, L2 | 0x200 | COPIED)]), "L2 table offset 0x40200 unaligned (L1 index: 0)"),
        (
            images::version_2(broken(&[(L2, DATA | COPIED | 1)])),
            "Zero cluster entry found in pre-v3 image (L2 offset: 0x40000, L2 index: 0)",
        ),
        (subclusters(1 << 32 | 1), "Invalid cluster entry found  (L2 offset: 0x40000, L2 index: 0)"),
        (nowhere, "Invalid cluster entry found  (L2 offset: 0x40000, L2 index: 0)"),
    ]
}

#[test]
fn lies_that_are_read_stop_those_who_write() {
    for (file, message) in lies_to_readers() {
        let world = SimWorld::new(1, Options::calm());
        world.run(async {
            let mut case = Case::open(&world, &file, json!({})).await;
            for _ in 0..2 {
                let read = seam::read(&case.view, ByteRange::new(0, 512)).await;
                assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt);
            }
            assert_eq!(case.told(), [(message.to_owned(), None, true)], "it is told once");
            if file[7] == 3 {
                case.is_marked(ByteRange::default()).await;
            }
            let refused = seam::write(&case.view, 8 * CLUSTER, &[1; 512]).await.unwrap_err();
            assert!(refused.to_string().contains("millpond img check -r all"), "{refused}");
            let read = seam::read(&case.view, ByteRange::new(8 * CLUSTER, 512)).await;
            assert_eq!(read.is_ok(), !message.starts_with("L2 table"), "what lies elsewhere is read");
        });
        if let Some(said) = qemu_says("qcow2_node corruption readers", &file, "read 0 512") {
            assert!(said.contains(message), "{said}");
        }
    }
}

#[test]
fn who_asks_what_is_where_meets_lies_too() {
    let (file, message) = lies_to_readers().swap_remove(0);
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let mut case = Case::open(&world, &file, json!({})).await;
        seam::extents(&case.view, ByteRange::new(0, SIZE)).await.unwrap_err();
        assert_eq!(case.told(), [(message.to_owned(), None, true)]);
        case.is_marked(ByteRange::default()).await;
    });
}

#[test]
fn an_image_that_is_only_read_is_not_marked() {
    for (file, message) in lies_to_readers() {
        let world = SimWorld::new(1, Options::calm());
        world.run(async {
            let mut case = Case::open_read_only(&world, &file).await;
            for _ in 0..2 {
                seam::read(&case.view, ByteRange::new(0, 512)).await.unwrap_err();
            }
            assert_eq!(case.told(), [(message.to_owned(), None, false)], "it is told once");
        });
        assert!(world.disk().bytes("disk").unwrap() == file, "it was written to");
    }
}

#[test]
fn what_qemu_reads_without_a_word_stops_nobody() {
    // Reserved bits, and what lies behind the end of the file.
    for entry in [DATA | COPIED | 4, 1 << 30 | COPIED] {
        let world = SimWorld::new(1, Options::calm());
        let file = broken(&[(L2, entry)]);
        world.run(async {
            let mut case = Case::open(&world, &file, json!({})).await;
            seam::read(&case.view, ByteRange::new(0, 512)).await.unwrap_err();
            assert!(matches!(case.told()[..], [(_, None, false)]));
            seam::write(&case.view, 8 * CLUSTER, &[1; 512]).await.unwrap();
            flush(&case.view).await.unwrap();
            // Who writes there would write where the entry leads.
            seam::write(&case.view, 512, &[1; 512]).await.unwrap_err();
            assert!(matches!(case.told()[..], [(_, None, true)]));
        });
    }
}

#[test]
fn one_cluster_that_is_two_structures_stops_the_first_change() {
    // A second entry of L1 for the same table, the L1 table in the refcount table's place.
    let two = [
        (vec![(L1, REFCOUNT_TABLE | COPIED)], "refcount table"),
        (vec![(REFCOUNT_TABLE, L1)], "active L1 table"),
        (vec![(40, L2)], "active L1 table"),
    ];
    for (words, _name) in two {
        let world = SimWorld::new(1, Options::calm());
        let mut words = words;
        if words[0].0 == 40 {
            // The table's own first entry points to it.
            words.push((L2, L2 | COPIED));
        }
        let file = broken(&words);
        world.run(async {
            let case = Case::open(&world, &file, json!({})).await;
            let refused = seam::write(&case.view, 8 * CLUSTER, &[1; 512]).await.unwrap_err();
            assert!(refused.to_string().contains("overlaps with"), "{refused}");
            case.is_marked(ByteRange::default()).await;
        });
    }
}

#[test]
fn what_was_acknowledged_before_is_still_flushed() {
    let world = SimWorld::new(1, Options::calm());
    let file = broken(&[(L2 + 8, L1 | COPIED)]);
    world.run(async {
        let case = Case::open(&world, &file, json!({})).await;
        seam::write(&case.view, 8 * CLUSTER, &[9; 2 * CLUSTER as usize]).await.unwrap();
        seam::write(&case.view, CLUSTER, &[1; 512]).await.unwrap_err();
        flush(&case.view).await.unwrap();
    });
    let left = world.disk().durable_bytes("disk").unwrap();
    world.run(async {
        world.disk().put("again", &left);
        let lab = Lab::new(&world);
        let (below, _) = lab.file("again").await;
        let children = [(Role::File, &below)];
        let refused = lab.open_with("qcow2", json!({}), &children, |_| {}).await;
        assert!(refused.is_err(), "it is opened for writing");
        let view = lab.open_with("qcow2", json!({}), &children, |context| context.read_only = true);
        let read = seam::read(&view.await.unwrap().view(), ByteRange::new(8 * CLUSTER, 2 * CLUSTER)).await;
        assert!(read.unwrap().iter().all(|byte| *byte == 9));
    });
}

#[test]
fn the_option_says_what_is_looked_after() {
    // A snapshot's L2 table which counts as free.
    let plain = broken(&[]);
    let mut file = images::with_snapshot(plain);
    file[(L1 + 7) as usize] = 0;
    let header = Header::parse(&file[..CLUSTER as usize]).unwrap();
    file[L1 as usize..L1 as usize + 8].fill(0);
    let count = (BLOCK + L2 / CLUSTER * 2) as usize;
    file[count..count + 2].fill(0);
    assert_eq!(header.snapshots.count, 1);
    for (option, refused) in [
        (json!("cached"), false),
        (json!("all"), true),
        (json!({"template": "none", "inactive-l2": true}), true),
        (json!({"template": "all", "inactive-l2": false}), false),
    ] {
        let world = SimWorld::new(1, Options::calm());
        world.run(async {
            let case = Case::open(&world, &file, json!({"overlap-check": option})).await;
            let written = seam::write(&case.view, 8 * CLUSTER, &[1; 512]).await;
            assert_eq!(written.is_err(), refused, "{option}");
        });
    }
}

#[test]
fn what_a_snapshot_keeps_is_not_written_over() {
    let world = SimWorld::new(1, Options::calm());
    let file = broken(&[]);
    world.run(async {
        let mut case = Case::open(&world, &file, json!({})).await;
        let new = NewSnapshot { name: "kept".to_owned(), ..NewSnapshot::default() };
        case.view.root().powers().snapshots.unwrap().create(new, case.view.next()).await.unwrap();
        let now = world.disk().bytes("disk").unwrap();
        let l1 = Header::parse(&now[..CLUSTER as usize]).unwrap().l1_offset.0;
        assert_ne!(l1, L1, "the snapshot keeps that one");
        let l2 = u64::from_be_bytes(now[l1 as usize..][..8].try_into().unwrap()) & !COPIED;
        // An entry of the table that is in use now.
        let (below, _) = Lab::new(&world).file("disk").await;
        seam::write(&below.view(), l2, &(L1 | COPIED).to_be_bytes()).await.unwrap();
        let refused = seam::write(&case.view, 0, &[1; 512]).await.unwrap_err();
        let message = "Preventing invalid write on metadata (overlaps with inactive L1 table)";
        assert!(refused.to_string().contains(message), "{refused}");
        assert_eq!(case.told(), [(message.to_owned(), Some(L1), true)]);
        let made = case.view.root().powers().snapshots.unwrap().delete("1", case.view.next()).await;
        assert!(made.unwrap_err().to_string().contains("millpond img check -r all"), "snapshots go on");
    });
}

#[test]
fn tables_that_have_moved_are_not_written_over() {
    for moved in Move::ALL {
        let refused = write_over(moved).unwrap_or_else(|| panic!("{moved:?}: it was written over"));
        assert!(refused.contains("Preventing invalid write on metadata"), "{moved:?}: {refused}");
    }
}

#[test]
fn an_image_of_version_2_has_no_mark_and_is_not_written_either() {
    let world = SimWorld::new(1, Options::calm());
    let file = images::version_2(broken(&[(L2, L1 | COPIED)]));
    world.run(async {
        let mut case = Case::open(&world, &file, json!({})).await;
        seam::write(&case.view, 0, &[1; 512]).await.unwrap_err();
        flush(&case.view).await.unwrap();
        assert_eq!(case.told().len(), 1);
        assert!(world.disk().bytes("disk").unwrap() == file, "nothing was written");
        case.is_stopped().await;
    });
}
