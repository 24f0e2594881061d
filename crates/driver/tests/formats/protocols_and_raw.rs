//! null, memory, file and raw against a plain model, in the simulated world and in the real one.

use std::sync::Arc;

use crate::lab::model::Model;
use crate::lab::{Lab, Tree};
use block::{ByteRange, Errno, ErrorKind, ExtentState, Permissions};
use driver::{Kept, OpenContext};
use flow::{Now, Op, Pieces, Request, Role, Root, Window, seam};
use io::Lease;
use io::real::RealWorld;
use serde_json::{Value, json};
use sim::{OpKind, Options, SimWorld, Verdict};

const K: u64 = 1 << 10;

fn rough(seed: u64, path: &str, bytes: &[u8]) -> SimWorld {
    let world = SimWorld::new(seed, Options::default());
    world.disk().put(path, bytes);
    world
}

fn pattern(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

async fn refused(lab: &Lab, driver: &str, options: Value, children: &[(Role, &Tree)]) -> String {
    match lab.open_with(driver, options, children, |_| {}).await {
        Ok(_) => panic!("it was not refused"),
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::Io);
            error.to_string()
        }
    }
}

#[test]
fn memory_agrees_with_a_model() {
    for seed in 0..8 {
        let world = SimWorld::new(seed, Options::default());
        world.run(async {
            let lab = Lab::new(&world);
            let memory = lab.open("memory", json!({"size": 300 * K + 5}), &[]).await;
            let mut model = Model::new(vec![0; 300 * 1024 + 5], seed);
            model.run(&lab.root(&memory), 400).await;
            assert!(model.inline > 100, "only {} of {} did not wait", model.inline, model.requests);
        });
    }
}

#[test]
fn files_agree_with_a_model() {
    for seed in 0..8 {
        let bytes = pattern(200 * K + 77);
        let world = rough(seed, "disk", &bytes);
        world.run(async {
            let lab = Lab::new(&world);
            let file = lab.open("file", json!({"filename": "disk"}), &[]).await;
            let mut model = Model::new(bytes, seed);
            model.run(&lab.root(&file), 400).await;
            assert!(model.inline > 50, "only {} did not wait", model.inline);
        });
    }
}

#[test]
fn direct_files_agree_with_a_model() {
    for seed in 0..4 {
        let bytes = pattern(128 * K);
        let world = rough(seed, "disk", &bytes);
        world.run(async {
            let lab = Lab::new(&world);
            let open = lab.open_with("file", json!({"filename": "disk"}), &[], |c| c.direct = true);
            let file = open.await.unwrap();
            Model::new(bytes, seed).run(&lab.root(&file), 300).await;
        });
    }
}

#[test]
fn windows_of_raw_agree_with_a_model() {
    for seed in 0..8 {
        let bytes = pattern(200 * K);
        let world = rough(seed, "disk", &bytes);
        world.run(async {
            let lab = Lab::new(&world);
            let file = lab.open("file", json!({"filename": "disk"}), &[]).await;
            let (from, size) = (3 * K + 1, 150 * K);
            let raw =
                lab.open("raw", json!({"offset": from, "size": size}), &[(Role::Filtered, &file)]).await;
            let part = bytes[from as usize..(from + size) as usize].to_vec();
            Model::new(part, seed).run(&lab.root(&raw), 400).await;
            // Nothing around the window has changed.
            let after = seam::read(&file.view(), ByteRange::new(0, 200 * K)).await.unwrap();
            assert_eq!(after[..from as usize], bytes[..from as usize]);
            assert_eq!(after[(from + size) as usize..], bytes[(from + size) as usize..]);
        });
    }
}

#[test]
fn files_of_the_machine_agree_with_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, real) = (SimWorld::new(0, Options::calm()), RealWorld::new());
    for (seed, aio) in [(1, Some("threads")), (2, None)] {
        let path = dir.path().join(format!("disk{seed}"));
        let bytes = pattern(300 * K + 9);
        std::fs::write(&path, &bytes).unwrap();
        let world: Arc<RealWorld> = Arc::new(real.clone());
        real.block_on(async {
            let lab = Lab::new(&sim);
            let mut options = json!({"filename": path.to_str().unwrap()});
            if let Some(aio) = aio {
                options["aio"] = json!(aio);
            }
            let file = lab.open_with("file", options, &[], |c| c.world = world).await.unwrap();
            let raw = lab.open("raw", json!({"offset": 1}), &[(Role::Filtered, &file)]).await;
            Model::new(bytes[1..].to_vec(), seed).run(&lab.root(&raw), 400).await;
        });
    }
}

#[test]
fn null_answers_zeros_after_its_latency() {
    let world = SimWorld::new(0, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let null = lab.open("null-co", json!({}), &[]).await;
        assert_eq!(null.view().size(), 1 << 30);
        let null =
            lab.open("null-aio", json!({"size": 8192, "latency-ns": 3000, "read-zeroes": true}), &[]).await;
        let view = null.view();
        seam::write(&view, 0, &[1; 512]).await.unwrap();
        assert!(seam::is_zero(&seam::read(&view, ByteRange::new(0, 8192)).await.unwrap()));
        assert_eq!(io::now().0, 6000);
        let extents = seam::extents(&view, ByteRange::new(0, 8192)).await.unwrap();
        assert_eq!((extents.len(), extents[0].state), (1, ExtentState::Hole));
        let mut model = Model::new(vec![0; 8192], 1);
        model.writes = false;
        model.run(&lab.root(&null), 50).await;
    });
}

#[test]
fn raw_is_as_long_as_its_child_and_resizes_it() {
    let world = rough(1, "disk", &pattern(10 * K));
    world.run(async {
        let lab = Lab::new(&world);
        let file = lab.open("file", json!({"filename": "disk"}), &[]).await;
        let raw = lab.open("raw", json!({"offset": 512}), &[(Role::Filtered, &file)]).await;
        let view = raw.view();
        assert_eq!(view.size(), 10 * K - 512);
        // Somebody else makes the file longer.
        let append = Request::new(Op::WriteZeroes, ByteRange::new(10 * K, K));
        file.node().powers().resize.unwrap();
        let flow::Body::Executes(body) = file.node().body() else { panic!() };
        body.execute(append, io::Lease::empty(), file.view().next()).await.0.unwrap();
        assert_eq!(view.size(), 11 * K - 512);
        seam::resize(&view, 3 * K).await.unwrap();
        assert_eq!((view.size(), world.disk().bytes("disk").unwrap().len() as u64), (3 * K, 3 * K + 512));
        seam::resize(&view, 5 * K).await.unwrap();
        let bytes = seam::read(&view, ByteRange::new(2 * K, 3 * K)).await.unwrap();
        assert_eq!(bytes[..1024], pattern(10 * K)[2560..3584]);
        assert!(seam::is_zero(&bytes[1024..]));
        let error = seam::resize(&view, u64::MAX - 100).await.unwrap_err().to_string();
        assert!(error.ends_with("Disk size too large for the chosen offset"), "{error}");
    });
}

#[test]
fn a_window_of_fixed_size_holds_against_formats_above() {
    let world = rough(1, "disk", &pattern(10 * K));
    world.run(async {
        let lab = Lab::new(&world);
        let file = lab.open("file", json!({"filename": "disk"}), &[]).await;
        let raw = lab.open("raw", json!({"size": 4 * K}), &[(Role::Filtered, &file)]).await;
        let view = raw.view();
        let error = seam::resize(&view, K).await.unwrap_err().to_string();
        assert!(error.ends_with("Cannot resize fixed-size raw disks"), "{error}");
        // A filter above passes what a format would.
        let filter = lab.node("filter", flow::Body::Executes(Arc::new(Passes)), &[(Role::Filtered, &raw)]);
        let flow::Body::Executes(body) = filter.node().body() else { panic!() };
        let view = filter.view();
        for (op, ok) in [(Op::Read, true), (Op::Write, false), (Op::WriteZeroes, false), (Op::Discard, false)]
        {
            let rq = Request::new(op, ByteRange::new(4 * K - 512, 1024));
            let carries = matches!(op, Op::Read | Op::Write);
            let lease = if carries { io::Lease::copy_of(&[9; 1024]) } else { io::Lease::empty() };
            let (result, lease) = body.execute(rq, lease, view.next()).await;
            assert_eq!(result.is_ok(), ok, "{op:?}");
            if ok {
                assert_eq!(lease[..512], pattern(10 * K)[3584..4096]);
                assert!(seam::is_zero(&lease[512..]));
            }
        }
        assert_eq!(world.disk().bytes("disk").unwrap()[4096..], pattern(10 * K)[4096..]);
    });
}

struct Passes;

impl flow::Execute for Passes {
    fn size(&self) -> Option<u64> {
        None
    }
    fn limits(&self) -> flow::Limits {
        flow::Limits::NONE
    }
    fn try_now(&self, rq: &mut Request, window: Window<'_>, next: flow::Next<'_>) -> block::Result<Now> {
        next.try_now(block::ChildIndex(0), rq, window)
    }
    fn execute<'a>(
        &'a self,
        rq: Request,
        lease: io::Lease,
        next: flow::Next<'a>,
    ) -> io::LocalFut<'a, (block::Result<()>, io::Lease)> {
        next.execute(block::ChildIndex(0), rq, lease)
    }
}

/// A driver, options and children that it refuses, and what it says.
type Case<'a> = (&'a str, Value, &'a [(Role, &'a Tree)], &'a str);

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let world = rough(1, "disk", &pattern(10 * K));
    world.run(async {
        let lab = Lab::new(&world);
        let file = lab.open("file", json!({"filename": "disk"}), &[]).await;
        let on_file = [(Role::Filtered, &file)];
        let cases: [Case<'_>; 10] = [
            ("memory", json!({}), &[], "Parameter 'size' is missing"),
            ("memory", json!({"size": 1, "foo": 1}), &[], "Parameter 'foo' is unexpected"),
            ("null-co", json!({"latency-ns": "long"}), &[], "Invalid parameter type for 'latency-ns', expected: integer"),
            ("file", json!({}), &[], "Parameter 'filename' is missing"),
            ("file", json!({"filename": "disk", "locking": "maybe"}), &[], "Parameter 'locking' does not accept value 'maybe'"),
            ("file", json!({"filename": "nope"}), &[], "Could not open 'nope': "),
            ("raw", json!({}), &[], "node 'n' needs the option 'file'"),
            ("raw", json!({"offset": 20000}), &on_file, "Offset (20000) cannot be greater than size of the containing file (10240)"),
            ("raw", json!({"offset": 512, "size": 10240}), &on_file, "The sum of offset (512) and size (10240) has to be smaller or equal to the actual size of the containing file (10240)"),
            ("raw", json!({"size": 1000}), &on_file, "Specified size is not multiple of 512"),
        ];
        for (driver, options, children, expected) in cases {
            let said = refused(&lab, driver, options, children).await;
            assert!(said.starts_with(expected), "{said}");
        }
    });
}

#[test]
fn errors_name_the_file() {
    let options = Options::default();
    let world = SimWorld::new(
        1,
        Options { disk: sim::DiskOptions { read_errors: 1.0, ..options.disk.clone() }, ..options },
    );
    world.disk().put("disk", &[1; 4096]);
    world.run(async {
        let lab = Lab::new(&world);
        let file = lab.open("file", json!({"filename": "disk"}), &[]).await;
        let error = seam::read(&file.view(), ByteRange::new(512, 1024)).await.unwrap_err();
        assert!(error.to_string().starts_with("file 'disk': cannot read 1024 bytes at 512: "), "{error}");
        let read_only = lab.open_with("file", json!({"filename": "disk"}), &[], |c| c.read_only = true);
        let file = read_only.await.unwrap();
        file.node().set_read_only(false);
        let error = seam::write(&file.view(), 0, &[1]).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::ReadOnly, "file 'disk': opened for reading only")
        );
    });
}

fn permit(tree: &Tree, uses: Permissions, shares: Permissions) -> Result<(), String> {
    tree.node().powers().permit.unwrap().permit(uses, shares).map_err(|e| e.to_string())
}

#[test]
fn locks_exclude_other_processes_and_stay_over_a_reopen() {
    const WRITER: Permissions = Permissions::CONSISTENT_READ.union(Permissions::WRITE);
    let others = !(Permissions::WRITE | Permissions::RESIZE);
    let world = rough(1, "disk", &[1; 4096]);
    world.run(async {
        let lab = Lab::new(&world);
        let open = async |locking: &str, kept| {
            let options = json!({"filename": "disk", "locking": locking});
            lab.open_with("file", options, &[], |c| c.kept = kept).await.unwrap()
        };
        let first = open("auto", None).await;
        permit(&first, WRITER, others).unwrap();
        let other = open("on", None).await;
        let refused = permit(&other, WRITER, others).unwrap_err();
        assert_eq!(refused, "Failed to get \"write\" lock: Is another process using the image [disk]?");
        let refused = permit(&other, Permissions::CONSISTENT_READ, others).unwrap_err();
        assert_eq!(
            refused,
            "Failed to get shared \"write\" lock: Is another process using the image [disk]?"
        );
        permit(&open("off", None).await, WRITER, others).unwrap();
        // The same node again is not in its own way, and the locks hold while the old body is still in use and after.
        let again = open("auto", first.node().keep()).await;
        permit(&again, WRITER, others).unwrap();
        drop(first);
        assert!(permit(&other, WRITER, others).is_err());
        permit(&again, Permissions::NONE, Permissions::ALL).unwrap();
        permit(&other, WRITER, others).unwrap();
    });
}

#[test]
fn memory_keeps_its_bytes_over_a_reopen() {
    let world = SimWorld::new(0, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let memory = lab.open("memory", json!({"size": 4096}), &[]).await;
        seam::write(&memory.view(), 100, b"still here").await.unwrap();
        let kept = memory.node().keep();
        let again = lab.open_with("memory", json!({"size": 1}), &[], |c| c.kept = kept).await.unwrap();
        assert_eq!(again.view().size(), 4096);
        assert_eq!(&seam::read(&again.view(), ByteRange::new(100, 10)).await.unwrap()[..], b"still here");
    });
}

/// The file `disk`, with what a node that had it open before keeps.
async fn reopen(lab: &Lab, read_only: bool, kept: Option<Kept>) -> Tree {
    let options = json!({"filename": "disk"});
    let adjust = |c: &mut OpenContext| (c.read_only, c.kept) = (read_only, kept);
    lab.open_with("file", options, &[], adjust).await.unwrap()
}

#[test]
fn what_a_flush_has_lost_is_lost_to_all_flushes_after_it_over_reopens() {
    let world = rough(1, "disk", &[1; 4096]);
    world.run(async {
        let lab = Lab::new(&world);
        let flush = async |tree: &Tree| {
            let flushed = seam::execute(&tree.view(), Request::flush(), Lease::empty()).await.0;
            flushed.map_err(|error| error.errno())
        };
        let first = reopen(&lab, false, None).await;
        seam::write(&first.view(), 0, &[2; 512]).await.unwrap();
        world.disk().set_policy(|op| match op.kind {
            OpKind::Flush => Verdict::Fail(Errno::NOSPC),
            _ => Verdict::Go,
        });
        assert_eq!(flush(&first).await, Err(Errno::NOSPC));
        // From now on the kernel says that all is well.
        world.disk().clear_policy();
        assert_eq!(flush(&first).await, Err(Errno::NOSPC));
        let reader = reopen(&lab, true, first.node().keep()).await;
        assert_eq!(flush(&reader).await, Err(Errno::NOSPC));
        let writer = reopen(&lab, false, reader.node().keep()).await;
        assert_eq!(flush(&writer).await, Err(Errno::NOSPC));
        assert_eq!(
            flush(&reopen(&lab, false, None).await).await,
            Ok(()),
            "one that is opened anew has lost nothing"
        );
    });
}

#[test]
fn what_was_written_is_flushed_by_the_node_that_may_only_read_now() {
    let world = rough(1, "disk", &[1; 4096]);
    world.run(async {
        let lab = Lab::new(&world);
        let writer = reopen(&lab, false, None).await;
        seam::write(&writer.view(), 0, &[2; 512]).await.unwrap();
        let reader = reopen(&lab, true, writer.node().keep()).await;
        drop(writer);
        seam::execute(&reader.view(), Request::flush(), Lease::empty()).await.0.unwrap();
        assert_eq!(world.disk().durable_bytes("disk").unwrap()[..512], [2; 512]);
    });
}

/// Whether a read of everything is lent when it is asked for a second time.
async fn lends(root: &Root, len: u64) -> bool {
    let whole = ByteRange::new(0, len);
    for _ in 0..2 {
        let mut pieces = Pieces::new();
        let mut rq = Request::new(Op::Read, whole);
        if seam::try_now(&root.turn(), &mut rq, Window::Lend(&mut pieces)).unwrap() == Now::Lent {
            return true;
        }
        // It looks for holes behind the first read that waits.
        seam::read(&root.view(), whole).await.unwrap();
        io::sleep(std::time::Duration::from_millis(10)).await;
    }
    false
}

#[test]
fn only_what_nobody_can_change_is_lent() {
    let reader = Permissions::CONSISTENT_READ;
    let closed = !(Permissions::WRITE | Permissions::RESIZE);
    // Opened read-only, locking, what is used, what is shared: whether it is lent.
    let cases = [
        (true, "auto", reader, closed, true),
        (false, "auto", reader, closed, false),
        (true, "off", reader, closed, false),
        (true, "auto", reader, Permissions::ALL, true),
        (false, "auto", reader, Permissions::ALL, false),
        (true, "off", reader, Permissions::ALL, false),
        (true, "auto", Permissions::NONE, Permissions::ALL, false),
        (true, "auto", reader | Permissions::WRITE, closed, false),
    ];
    for (read_only, locking, uses, shares, expected) in cases {
        let world = SimWorld::new(1, Options::calm());
        world.disk().put("disk", &pattern(8 * K));
        world.run(async {
            let lab = Lab::new(&world);
            let options = json!({"filename": "disk", "locking": locking});
            let file = lab.open_with("file", options, &[], |c| c.read_only = read_only).await.unwrap();
            let root = lab.root(&file);
            assert!(!lends(&root, 8 * K).await, "lent before anything is locked");
            permit(&file, uses, shares).unwrap();
            assert_eq!(lends(&root, 8 * K).await, expected, "{read_only} {locking} {uses:?} {shares:?}");
            permit(&file, Permissions::NONE, Permissions::ALL).unwrap();
            assert!(!lends(&root, 8 * K).await, "lent after the locks were given up");
        });
    }
}

#[test]
fn what_is_only_read_stands_still_unless_somebody_writes_already() {
    const WRITER: Permissions = Permissions::CONSISTENT_READ.union(Permissions::WRITE);
    let (reader, export) = (Permissions::CONSISTENT_READ, !Permissions::RESIZE);
    let world = SimWorld::new(1, Options::calm());
    world.disk().put("disk", &pattern(8 * K));
    world.run(async {
        let lab = Lab::new(&world);
        let open = async |read_only| {
            let options = json!({"filename": "disk"});
            lab.open_with("file", options, &[], |c| c.read_only = read_only).await.unwrap()
        };
        let (writer, read) = (open(false).await, open(true).await);
        permit(&writer, WRITER, export).unwrap();
        permit(&read, reader, export).unwrap();
        assert!(!lends(&lab.root(&read), 8 * K).await, "lent while somebody writes");
        permit(&writer, Permissions::NONE, Permissions::ALL).unwrap();
        permit(&read, reader, export).unwrap();
        assert!(lends(&lab.root(&read), 8 * K).await);
        assert!(permit(&writer, WRITER, export).unwrap_err().contains("Failed to get \"write\" lock"));
    });
}

#[test]
fn lent_reads_agree_with_a_model_holes_included() {
    for seed in 0..6 {
        let world = rough(seed, "disk", &pattern(64 * K));
        world.run(async {
            let lab = Lab::new(&world);
            let mut model = Model::new(pattern(64 * K), seed);
            let file = lab.open("file", json!({"filename": "disk"}), &[]).await;
            model.run(&lab.root(&file), 60).await;
            drop(file);
            let open = lab.open_with("file", json!({"filename": "disk"}), &[], |c| c.read_only = true);
            let file = open.await.unwrap();
            permit(&file, Permissions::CONSISTENT_READ, !(Permissions::WRITE | Permissions::RESIZE)).unwrap();
            let raw = lab
                .open_with("raw", json!({}), &[(Role::Filtered, &file)], |c| c.read_only = true)
                .await
                .unwrap();
            model.writes = false;
            model.run(&lab.root(&raw), 300).await;
        });
    }
}
