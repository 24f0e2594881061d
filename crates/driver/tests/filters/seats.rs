//! throttle, delay and fault: exact times, each request once, nobody left behind.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::lab::model::Model;
use crate::lab::{Lab, Tree};
use block::{ByteRange, ErrorKind, Result};
use driver::options;
use flow::{Flags, Op, Request, Role, Root, Window, seam};
use io::{Lease, Moment};
use object::{ObjectOptions, Objects};
use serde_json::{Value, json};
use sim::{DiskOptions, Options, SimWorld};

const K: u64 = 1 << 10;
const MS: u64 = 1_000_000;

/// A disk on which everything waits and takes no time, or nothing waits.
fn world(seed: u64, inline: f64) -> SimWorld {
    let disk = DiskOptions { inline, latency: Duration::ZERO..=Duration::ZERO, ..DiskOptions::calm() };
    let world = SimWorld::new(seed, Options { disk, ..Options::calm() });
    world.disk().put("disk", &vec![7; 64 * K as usize]);
    world
}

async fn objects(lab: &Lab, limits: Value) -> Arc<Objects> {
    let objects = Arc::new(Objects::default());
    let Value::Object(map) = json!({ "limits": limits }) else { panic!() };
    let group = options::parse_with(map, |given| ObjectOptions::read("throttle-group", given)).unwrap();
    objects.create("tg0", group, &lab.world).await.unwrap();
    objects
}

async fn file(lab: &Lab) -> Tree {
    lab.open("file", json!({"filename": "disk"}), &[]).await
}

async fn filter(lab: &Lab, driver: &str, options: Value, child: &Tree) -> Tree {
    lab.open(driver, options, &[(Role::Filtered, child)]).await
}

async fn throttle(lab: &Lab, objects: &Arc<Objects>, child: &Tree) -> Tree {
    let options = json!({"throttle-group": "tg0"});
    let children = [(Role::Filtered, child)];
    let open = lab.open_with("throttle", options, &children, |c| c.objects = objects.clone());
    open.await.unwrap()
}

/// A request as an export makes it: at once as far as it goes, then the rest.
async fn request(root: &Root, mut rq: Request) -> Result<()> {
    let mut buf = vec![1; if matches!(rq.op, Op::Read | Op::Write) { rq.range.len() as usize } else { 0 }];
    let window = match rq.op {
        Op::Read => Window::In(&mut buf),
        Op::Write => Window::Out(&buf),
        _ => Window::None,
    };
    if seam::try_now(&root.turn(), &mut rq, window)? == flow::Now::Done {
        return Ok(());
    }
    seam::execute(&root.view(), rq, Lease::copy_of(&buf)).await.0
}

fn read(start: u64, len: u64) -> Request {
    Request::new(Op::Read, ByteRange::new(start, len))
}

fn stats(tree: &Tree) -> Vec<(String, u64)> {
    tree.node().powers().stats.unwrap().stats()
}

#[test]
fn throttled_requests_are_charged_once_whatever_way_they_take() {
    // The file below answers at once, or makes them wait after they were charged.
    for inline in [1.0, 0.0] {
        let world = world(1, inline);
        world.run(async {
            let lab = Lab::new(&world);
            let objects = objects(&lab, json!({"iops-total": 100, "bps-write": 1_000_000})).await;
            let root = lab.root(&throttle(&lab, &objects, &file(&lab).await).await);
            for _ in 0..11 {
                request(&root, read(0, 4096)).await.unwrap();
            }
            assert_eq!(io::now(), Moment(0));
            for n in 1..=20 {
                request(&root, read(0, 4096)).await.unwrap();
                assert_eq!(io::now(), Moment(n * 10 * MS), "inline {inline}");
            }
            request(&root, Request::flush()).await.unwrap();
            assert_eq!(io::now(), Moment(200 * MS), "a flush was held back");
            io::sleep(Duration::from_secs(1)).await;
            let start = io::now().0;
            for (op, at) in [(Op::Write, 0), (Op::WriteZeroes, 0), (Op::Discard, 0), (Op::Write, 50)] {
                let rq = Request::new(op, ByteRange::new(0, 50_000)).with_flags(Flags::MAY_UNMAP);
                request(&root, rq).await.unwrap();
                assert_eq!(io::now().0 - start, at * MS, "{op:?}");
            }
        });
    }
}

#[test]
fn nodes_of_a_group_share_its_limits() {
    let world = world(1, 1.0);
    world.run(async {
        let lab = Lab::new(&world);
        let objects = objects(&lab, json!({"iops-total": 10})).await;
        let (a, b) = (file(&lab).await, file(&lab).await);
        let roots =
            [lab.root(&throttle(&lab, &objects, &a).await), lab.root(&throttle(&lab, &objects, &b).await)];
        for n in 0..10usize {
            request(&roots[n % 2], read(0, 512)).await.unwrap();
        }
        assert_eq!(io::now(), Moment(800 * MS));
        assert_eq!(
            objects.delete("tg0").unwrap_err().to_string(),
            "object 'tg0' is in use, can not be deleted"
        );
    });
}

#[test]
fn a_throttled_request_fails_at_its_deadline_and_is_not_charged() {
    let world = world(1, 1.0);
    world.run(async {
        let lab = Lab::new(&world);
        let objects = objects(&lab, json!({"iops-total": 1})).await;
        let root = lab.root(&throttle(&lab, &objects, &file(&lab).await).await);
        request(&root, read(0, 512)).await.unwrap();
        let late = Request { deadline: Some(Moment(400 * MS)), ..read(0, 512) };
        let error = request(&root, late).await.unwrap_err();
        assert_eq!((error.kind(), io::now()), (ErrorKind::TimedOut, Moment(400 * MS)));
        assert!(error.to_string().contains("throttle held Read back past its deadline"), "{error}");
        request(&root, read(0, 512)).await.unwrap();
        assert_eq!(io::now(), Moment(900 * MS));
    });
}

/// A filter that holds requests back for a long time is taken out while one waits in it.
async fn removal_frees(lab: &Lab, filtered: &Tree, child: &Tree) {
    let root = Rc::new(Root::new(filtered.view(), Arc::default()));
    let old = root.view();
    let waiting = async {
        request(&root, read(0, 512)).await.unwrap();
        io::now()
    };
    let remove = async {
        io::sleep(Duration::from_millis(5)).await;
        drop(root.publish(child.view()));
        filtered.node().release();
    };
    let (freed, ()) = futures_util::future::join(waiting, remove).await;
    assert_eq!(freed, Moment(5 * MS));
    // One that began before and comes only now.
    let before = io::now();
    seam::read(&old, ByteRange::new(0, 512)).await.unwrap();
    assert_eq!(io::now(), before);
    // It is put in again: it holds back as ever.
    let again = lab.root(filtered);
    request(&again, read(0, 512)).await.unwrap();
    assert!(io::now().since(before) >= Duration::from_secs(1), "{:?}", io::now());
}

#[test]
fn taking_a_throttle_or_a_delay_out_frees_those_who_wait_in_it() {
    let throttled = world(1, 1.0);
    throttled.run(async {
        let lab = Lab::new(&throttled);
        let objects = objects(&lab, json!({"bps-total": 10})).await;
        objects.throttle_group("tg0").unwrap().admit(io::now(), object::Direction::Read, 1000);
        let child = file(&lab).await;
        let filter = throttle(&lab, &objects, &child).await;
        removal_frees(&lab, &filter, &child).await;
    });
    let delayed = world(1, 1.0);
    delayed.run(async {
        let lab = Lab::new(&delayed);
        let child = file(&lab).await;
        let filter = filter(&lab, "delay", json!({"read-ms": 3_600_000}), &child).await;
        removal_frees(&lab, &filter, &child).await;
    });
}

#[test]
fn delays_are_exact_and_by_operation() {
    let world = world(1, 1.0);
    world.run(async {
        let lab = Lab::new(&world);
        let options = json!({"read-us": 5, "read-ms": 1, "write-ms": 2, "zero-ms": 3, "discard-ms": 4, "flush-ms": 5, "cache-ms": 6});
        let root = lab.root(&filter(&lab, "delay", options, &file(&lab).await).await);
        for (op, us) in [
            (Op::Read, 1005),
            (Op::Write, 2000),
            (Op::WriteZeroes, 3000),
            (Op::Discard, 4000),
            (Op::Cache, 6000),
            (Op::Flush, 5000),
        ] {
            let before = io::now();
            let range = if op == Op::Flush { ByteRange::default() } else { ByteRange::new(0, 512) };
            request(&root, Request::new(op, range)).await.unwrap();
            assert_eq!(io::now().since(before), Duration::from_micros(us), "{op:?}");
        }
        let late = Request { deadline: Some(io::now().after(Duration::from_millis(1))), ..read(0, 512) };
        assert_eq!(request(&root, late).await.unwrap_err().kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn only_labelled_requests_are_delayed_and_each_is_counted_once() {
    for inline in [1.0, 0.0] {
        let world = world(1, inline);
        world.run(async {
            let lab = Lab::new(&world);
            let labels = json!([{"label": "header", "op": "read", "length": 512}, {"op": "write"}]);
            let options = json!({"read-ms": 1, "labels": labels});
            let tree = filter(&lab, "delay", options, &file(&lab).await).await;
            let root = lab.root(&tree);
            for start in [0, 256, 512, 4096] {
                request(&root, read(start, 512)).await.unwrap();
            }
            assert_eq!(io::now(), Moment(2 * MS));
            for _ in 0..3 {
                request(&root, Request::new(Op::Write, ByteRange::new(0, 512))).await.unwrap();
            }
            assert_eq!(io::now(), Moment(2 * MS));
            let expected = [("header.seen".to_owned(), 2), ("label-1.seen".to_owned(), 3)];
            assert_eq!(stats(&tree), expected, "inline {inline}");
        });
    }
}

#[test]
fn faults_fail_the_right_requests_with_the_right_errno() {
    for inline in [1.0, 0.0] {
        let world = world(1, inline);
        world.run(async {
            let lab = Lab::new(&world);
            let rules = json!([
                {"label": "full", "op": "write", "errno": 28, "nth": 3},
                {"label": "bad", "op": "read", "offset": 8192, "length": 512, "once": true},
                {"label": "all"},
            ]);
            let tree = filter(&lab, "fault", json!({ "rules": rules }), &file(&lab).await).await;
            let none = json!({"rules": [{"op": "flush", "errno": 5}, {"label": "reads", "op": "read", "nth": 1000}]});
            let root = lab.root(&filter(&lab, "fault", none, &tree).await);
            let failing: Vec<_> = {
                let mut seen = Vec::new();
                for _ in 0..4 {
                    let rq = Request::new(Op::Write, ByteRange::new(0, 4096));
                    seen.push(request(&root, rq).await.err().map(|e| e.kind()));
                }
                seen
            };
            // The last rule of the inner filter fails whatever the others let pass.
            let (io, full) = (Some(ErrorKind::Io), Some(ErrorKind::NoSpace));
            assert_eq!(failing, [io, io, full, full]);
            let error = request(&root, read(8000, 512)).await.unwrap_err().to_string();
            assert!(error.contains("fault 'bad' in Read of 512 bytes at 8000"), "{error}");
            let error = request(&root, read(8000, 512)).await.unwrap_err().to_string();
            assert!(error.contains("fault 'all'"), "{error}");
            assert_eq!(request(&root, Request::flush()).await.unwrap_err().kind(), ErrorKind::Io);
            let expected = [
                ("full.seen", 4),
                ("full.failed", 2),
                ("bad.seen", 2),
                ("bad.failed", 1),
                ("all.seen", 6),
                ("all.failed", 3),
            ];
            assert_eq!(stats(&tree), expected.map(|(name, n)| (name.to_owned(), n)), "inline {inline}");
            assert_eq!(world.disk().bytes("disk").unwrap()[..4096], [7; 4096], "a failed write was done");
        });
    }
}

#[test]
fn chance_follows_the_seed() {
    let run = |seed: u64, probability: f64| {
        let world = world(1, 1.0);
        world.run(async {
            let lab = Lab::new(&world);
            let options = json!({"seed": seed, "rules": [{"probability": probability}]});
            let root = lab.root(&filter(&lab, "fault", options, &file(&lab).await).await);
            let mut failed = Vec::new();
            for _ in 0..1000 {
                failed.push(request(&root, read(0, 512)).await.is_err());
            }
            failed
        })
    };
    let count = |failed: &[bool]| failed.iter().filter(|f| **f).count();
    assert_eq!(run(5, 0.3), run(5, 0.3));
    assert_ne!(run(5, 0.3), run(6, 0.3));
    assert!((220..380).contains(&count(&run(5, 0.3))), "{}", count(&run(5, 0.3)));
    assert_eq!((count(&run(5, 0.0)), count(&run(5, 1.0))), (0, 1000));
}

#[test]
fn filters_change_no_byte() {
    for seed in 0..6 {
        let rough = SimWorld::new(seed, Options::default());
        rough.disk().put("disk", &vec![7; 64 * K as usize]);
        rough.run(async {
            let lab = Lab::new(&rough);
            let objects = objects(&lab, json!({"bps-total": 50_000_000, "iops-total": 20_000})).await;
            let raw = lab.open("raw", json!({"offset": 512}), &[(Role::Filtered, &file(&lab).await)]).await;
            let delay =
                filter(&lab, "delay", json!({"write-us": 20, "labels": [{"length": 4096}]}), &raw).await;
            let fault = filter(&lab, "fault", json!({"rules": [{"nth": 100_000}]}), &delay).await;
            let root = lab.root(&throttle(&lab, &objects, &fault).await);
            let mut model = Model::new(vec![7; 64 * K as usize - 512], seed);
            model.run(&root, 300).await;
            let counted = stats(&fault)[0].1;
            // Extents are no requests; a request that must be durable flushes besides.
            assert!(
                counted >= model.requests && counted <= model.requests * 2,
                "{counted} {}",
                model.requests
            );
        });
    }
}

#[test]
fn each_request_is_counted_once_on_random_ways() {
    let rough = SimWorld::new(3, Options::default());
    rough.disk().put("disk", &vec![7; 64 * K as usize]);
    rough.run(async {
        let lab = Lab::new(&rough);
        let fault = filter(&lab, "fault", json!({"rules": [{"nth": 100_000}]}), &file(&lab).await).await;
        let mut model = Model::new(vec![7; 64 * K as usize], 3);
        model.writes = false;
        let root = lab.root(&fault);
        model.run(&root, 300).await;
        assert_eq!(stats(&fault)[0], ("rule-0.seen".to_owned(), model.requests));
    });
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let world = world(1, 1.0);
    world.run(async {
        let lab = Lab::new(&world);
        let child = file(&lab).await;
        let cases = [
            ("throttle", json!({}), "Parameter 'throttle-group' is missing"),
            ("throttle", json!({"throttle-group": "nope"}), "Throttle group 'nope' does not exist"),
            ("delay", json!({"read-ns": 1}), "Parameter 'read-ns' is unexpected"),
            (
                "delay",
                json!({"read-ms": 1u64 << 40}),
                "Parameter 'read-ms' does not accept value '1099511627776'",
            ),
            (
                "delay",
                json!({"labels": [{"op": "eat"}]}),
                "Parameter 'labels.0.op' does not accept value 'eat'",
            ),
            (
                "fault",
                json!({"rules": [{}, {"errno": 0}]}),
                "Parameter 'rules.1.errno' does not accept value '0'",
            ),
            ("fault", json!({"rules": [{"nth": 0}]}), "Parameter 'rules.0.nth' does not accept value '0'"),
            (
                "fault",
                json!({"rules": [{"probability": 1.5}]}),
                "Parameter 'rules.0.probability' does not accept value '1.5'",
            ),
            ("fault", json!({"rules": [{"what": 1}]}), "Parameter 'rules.0.what' is unexpected"),
            (
                "fault",
                json!({"rules": [{"label": "x", "offset": 1, "length": u64::MAX}]}),
                "label 'x': offset and length reach beyond all bytes",
            ),
        ];
        for (driver, options, expected) in cases {
            let refused = lab.open_with(driver, options, &[(Role::Filtered, &child)], |_| {}).await;
            assert_eq!(refused.err().unwrap().to_string(), expected);
        }
        let refused = lab.open_with("delay", json!({}), &[], |_| {}).await;
        assert_eq!(refused.err().unwrap().to_string(), "node 'n' needs the option 'file'");
    });
}
