//! Moments at which requests are let go, computed by hand.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use sim::{Options, SimWorld};

use super::*;

const MS: u64 = 1_000_000;

fn group(limits: Value) -> ThrottleGroup {
    let options: ThrottleGroupOptions = serde_json::from_value(json!({ "limits": limits })).unwrap();
    ThrottleGroup::new("tg0", options.limits().unwrap())
}

fn patch(limits: Value) -> LimitsPatch {
    serde_json::from_value(limits).unwrap()
}

fn run<T>(test: impl AsyncFnOnce() -> T) -> T {
    SimWorld::new(7, Options::default()).run(test())
}

/// Asks and waits as a filter does; answers when it was let go.
async fn pass(group: &ThrottleGroup, direction: Direction, bytes: u64) -> u64 {
    if group.admit(io::now(), direction, bytes) != Admit::Now {
        group.wait(direction, bytes).await;
    }
    io::now().0
}

/// Moments at which `count` requests that come at once are let go.
async fn burst(group: &ThrottleGroup, direction: Direction, bytes: u64, count: usize) -> Vec<u64> {
    let mut times = join_all((0..count).map(|_| pass(group, direction, bytes))).await;
    times.sort_unstable();
    times
}

#[test]
fn a_rate_is_met_to_the_nanosecond() {
    run(async || {
        let group = group(json!({"iops-total": 30}));
        let times = burst(&group, Direction::Read, 4096, 34).await;
        // A tenth of a second's worth (3) and the one that makes it overflow go at once.
        assert_eq!(times[..4], [0; 4]);
        for (n, time) in times.iter().enumerate().skip(4) {
            assert_eq!(*time, ((n as u64 - 3) * 1_000_000_000).div_ceil(30), "request {n}");
        }
    });
}

#[test]
fn bytes_count_in_their_direction() {
    run(async || {
        let group = group(json!({"bps-write": 1_000_000}));
        assert_eq!(burst(&group, Direction::Read, 1 << 30, 9).await, [0; 9]);
        // 100 kB at once; each further 50 kB take 50 ms.
        let expected = [0, 0, 0, 50 * MS, 100 * MS];
        assert_eq!(burst(&group, Direction::Write, 50_000, 5).await, expected);
    });
}

#[test]
fn large_requests_count_several_operations() {
    run(async || {
        let group = group(json!({"iops-read": 10, "iops-size": 4096}));
        // 1 is in the bucket; 2.5 operations each.
        assert_eq!(burst(&group, Direction::Read, 10_240, 3).await, [0, 150 * MS, 400 * MS]);
        io::sleep(Duration::from_secs(10)).await;
        let start = io::now().0;
        // Less than the size counts as one.
        let times = burst(&group, Direction::Read, 1, 3).await;
        assert_eq!(times.iter().map(|t| t - start).collect::<Vec<_>>(), [0, 0, 100 * MS]);
    });
}

#[test]
fn bursts_have_a_rate_and_a_length() {
    run(async || {
        let group = group(json!({"iops-total": 10, "iops-total-max": 100, "iops-total-max-length": 2}));
        let times = burst(&group, Direction::Read, 1, 230).await;
        let before = |ms: u64| times.iter().filter(|t| **t < ms * MS).count();
        // A tenth of a second's burst at once, then 100 a second until 200 more than the average are used up.
        assert_eq!((before(1), before(1000), before(2000)), (11, 110, 210));
        assert_eq!(times[229] - times[228], 100 * MS);
        let total = times[229] as f64 / 1e9;
        assert!((2.0..5.0).contains(&total), "{total}");
    });
}

#[test]
fn a_burst_without_a_length_is_a_second_of_it_at_once() {
    run(async || {
        let group = group(json!({"iops-total": 10, "iops-total-max": 50}));
        let times = burst(&group, Direction::Write, 1, 53).await;
        assert_eq!((times[50], times[51], times[52]), (0, 100 * MS, 200 * MS));
    });
}

#[test]
fn nobody_overtakes_and_the_two_lines_take_turns() {
    for seed in 0..5 {
        SimWorld::new(seed, Options::default()).run(async {
            let group = group(json!({"iops-total": 10}));
            burst(&group, Direction::Read, 1, 2).await;
            let order = RefCell::new(Vec::new());
            let one = async |n: usize| {
                // One comes each millisecond: reads and writes, three to one.
                io::sleep(Duration::from_millis(n as u64)).await;
                let direction = if n % 4 == 3 { Direction::Write } else { Direction::Read };
                pass(&group, direction, 1).await;
                order.borrow_mut().push(n);
            };
            join_all((0..16).map(one)).await;
            assert_eq!(order.into_inner(), (0..16).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_line_that_may_go_does_not_wait_for_the_other() {
    run(async || {
        let group = group(json!({"iops-write": 1}));
        let writes = burst(&group, Direction::Write, 1, 3);
        let reads = async {
            io::sleep(Duration::from_millis(1)).await;
            burst(&group, Direction::Read, 1, 5).await
        };
        let (writes, reads) = join(writes, reads).await;
        assert_eq!(reads, [MS; 5]);
        assert_eq!(writes, [0, 900 * MS, 1900 * MS]);
    });
}

#[test]
fn one_that_gives_up_is_not_charged_and_those_behind_go_on() {
    run(async || {
        let group = Rc::new(group(json!({"iops-total": 10})));
        burst(&group, Direction::Read, 1, 2).await;
        let given_up: Vec<_> = (0..3)
            .map(|_| {
                let mut wait = Box::pin(async { group.wait(Direction::Read, 1).await });
                assert!(wait.as_mut().now_or_never().is_none());
                wait
            })
            .collect();
        let last = pass(&group, Direction::Read, 1);
        let leave = async {
            io::sleep(Duration::from_millis(50)).await;
            drop(given_up);
            assert_eq!(group.waiting(), 1);
        };
        let (time, ()) = join(last, leave).await;
        assert_eq!(time, 100 * MS);
        assert_eq!(group.waited(), 4);
    });
}

#[test]
fn new_limits_wake_those_who_wait() {
    run(async || {
        let group = group(json!({"iops-total": 1}));
        let change = async {
            io::sleep(Duration::from_millis(500)).await;
            group.set_limits(&patch(json!({"iops-total": 100}))).unwrap();
            io::sleep(Duration::from_millis(5)).await;
            group.set_limits(&patch(json!({"iops-total": 0}))).unwrap();
        };
        let (times, ()) = join(burst(&group, Direction::Read, 1, 40), change).await;
        // 1 at first, 11 with the bucket of 100, the rest when there is no limit.
        let at = |ms: u64| times.iter().filter(|t| **t == ms * MS).count();
        assert_eq!((at(0), at(500), at(505)), (1, 11, 28));
        assert!(group.is_open());
        let refused = group.set_limits(&patch(json!({"iops-size": 1}))).unwrap_err();
        assert_eq!(refused.to_string(), "iops size requires an iops value to be set");
        assert!(group.limits().is_unlimited());
    });
}

#[test]
fn threads_share_one_bucket() {
    let world = SimWorld::new(3, Options::default());
    world.run(async {
        let group = Arc::new(group(json!({"iops-total": 100})));
        let (tell, mut told) = io::sync::mpsc::unbounded_channel();
        for name in ["a", "b", "c"] {
            let thread = io::World::start_thread(&world, name).unwrap();
            let (group, tell) = (group.clone(), tell.clone());
            thread.run(Box::new(move || {
                Box::pin(async move {
                    for _ in 0..50 {
                        pass(&group, Direction::Write, 1).await;
                    }
                    tell.send(io::now().0).unwrap();
                })
            }));
        }
        let mut last = 0;
        for _ in 0..3 {
            last = told.recv().await.unwrap().max(last);
        }
        // 150 operations, 11 of them at once.
        assert_eq!(last, (150 - 11) * 10 * MS);
    });
}

#[test]
fn one_who_comes_at_the_right_moment_does_not_overtake() {
    run(async || {
        let group = group(json!({"iops-total": 10}));
        burst(&group, Direction::Read, 1, 2).await;
        let mut waiting = Box::pin(group.wait(Direction::Read, 1));
        assert!(waiting.as_mut().now_or_never().is_none());
        let moment = Moment(100 * MS);
        assert_eq!(group.admit(moment, Direction::Write, 1), Admit::At(Moment(200 * MS)));
        assert!(waiting.now_or_never().is_some());
    });
}
