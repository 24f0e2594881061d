//! What errors do to a stream: every policy, for a full disk and for one that fails; and that it can go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::Errno;
use engine::{
    Event, IoStatus, JobAction, JobMilestone, JobOptions, JobState, OnError, StreamRequest, Subscription,
};
use sim::{OpKind, Options, SimWorld, Verdict};

use crate::guests::Disk;
use crate::scene::{Scene, World};

/// Which requests fail, and how.
#[derive(Clone, Copy)]
struct Fault {
    file: &'static str,
    kind: OpKind,
    errno: Errno,
}

const BROKEN: Fault = Fault { file: "mid", kind: OpKind::Read, errno: Errno::IO };
const FULL: Fault = Fault { file: "top", kind: OpKind::Write, errno: Errno::NOSPC };

/// Lets requests fail from now on, `times` of them.
fn fail(world: &World, fault: Fault, times: u64) {
    let left = Arc::new(AtomicU64::new(times));
    world.disk().set_policy(move |op| {
        let hit = op.path.ends_with(fault.file)
            && (op.kind == fault.kind || (fault.kind == OpKind::Write && op.kind.changes()));
        let fails =
            hit && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails { Verdict::Fail(fault.errno) } else { Verdict::Go }
    });
}

fn request(on_error: OnError) -> StreamRequest {
    let options = JobOptions { on_error, auto_dismiss: false, ..JobOptions::default() };
    StreamRequest { options, ..StreamRequest::default() }
}

/// What was told of the job, in the order in which it was.
fn told(events: &mut Subscription) -> Vec<String> {
    let word = |event| match event {
        Event::JobState { state, .. } => Some(state.name().to_owned()),
        Event::JobError { action, .. } => Some(format!("{action:?}")),
        Event::JobMilestone { milestone: JobMilestone::Completed(error), .. } => {
            Some(if error.is_some() { "failed" } else { "completed" }.to_owned())
        }
        Event::JobMilestone { milestone, .. } => Some(format!("{milestone:?}")),
        _ => None,
    };
    std::iter::from_fn(|| events.try_next()).filter_map(word).collect()
}

/// Seeds whose streams let everything go, and meet both faults.
fn seeds() -> impl Iterator<Item = u64> {
    (0..200).filter(|seed| [BROKEN, FULL].into_iter().all(|fault| meets(*seed, fault))).take(3)
}

fn meets(seed: u64, fault: Fault) -> bool {
    let (scene, disk) = Scene::new(seed);
    let world = SimWorld::with_disk(seed, Options::calm(), disk);
    scene.stays.is_none()
        && world.run(async {
            let engine = scene.open(&world).await;
            fail(&world, fault, 1);
            let job = scene.stream(&engine, request(OnError::Report)).await.unwrap();
            job.reached(|state| state == JobState::Concluded).await;
            job.info().error.is_some()
        })
}

#[test]
fn every_policy() {
    let rows = [
        (OnError::Report, BROKEN, JobAction::Report),
        (OnError::Report, FULL, JobAction::Report),
        (OnError::Ignore, BROKEN, JobAction::Ignore),
        (OnError::Ignore, FULL, JobAction::Ignore),
        (OnError::Stop, BROKEN, JobAction::Stop),
        (OnError::Stop, FULL, JobAction::Stop),
        (OnError::NoSpace, BROKEN, JobAction::Report),
        (OnError::NoSpace, FULL, JobAction::Stop),
        (OnError::Auto, BROKEN, JobAction::Report),
        (OnError::Auto, FULL, JobAction::Stop),
    ];
    for seed in seeds() {
        for (policy, fault, action) in rows {
            println!("seed {seed}, {policy:?}, {:?} of {}", fault.kind, fault.file);
            play(seed, policy, fault, action);
        }
    }
}

fn play(seed: u64, policy: OnError, fault: Fault, action: JobAction) {
    let (scene, disk) = Scene::new(seed);
    let world = SimWorld::with_disk(seed, Options::calm(), disk);
    let content = Disk::new(&scene.content);
    world.run(async {
        let engine = scene.open(&world).await;
        let mut events = engine.events().subscribe();
        fail(&world, fault, 2);
        let job = scene.stream(&engine, request(policy)).await.unwrap();
        job.reached(|state| matches!(state, JobState::Paused | JobState::Concluded)).await;
        let first = told(&mut events);
        assert_eq!(first[..2], ["created", "running"]);
        assert_eq!(first[2], format!("{action:?}"));
        match action {
            JobAction::Stop => {
                assert_eq!(first[3..], ["paused"]);
                let full = fault.errno == Errno::NOSPC;
                let status = if full { IoStatus::NoSpace } else { IoStatus::Failed };
                assert_eq!((job.info().io_status, job.info().paused), (status, true));
                world.disk().clear_policy();
                job.resume().unwrap();
                job.reached(|state| state == JobState::Concluded).await;
                assert_eq!(told(&mut events), ["running", "waiting", "pending", "completed", "concluded"]);
                assert_eq!((job.info().error, job.info().io_status), (None, IoStatus::Ok));
            }
            JobAction::Report => assert_eq!(first[3..], ["aborting", "failed", "concluded"]),
            JobAction::Ignore => {
                assert_eq!(first[first.len() - 3..], ["aborting", "failed", "concluded"]);
                assert!(first[3..first.len() - 3].iter().all(|word| word == "Ignore"), "{first:?}");
                assert_eq!(job.info().done, job.info().total, "it went on to the end");
            }
        }
        world.disk().clear_policy();
        job.dismiss().unwrap();
        if action != JobAction::Stop {
            let info = job.info().error.unwrap();
            assert!(info.contains(fault.file), "the error names the file: {info}");
            // What was copied stays, what was not is still below: nothing is lost, and the next one finds all.
            content.check_all(&engine).await;
            let job = scene.stream(&engine, request(OnError::Report)).await.unwrap();
            job.reached(|state| state == JobState::Concluded).await;
            assert_eq!(job.info().error, None);
        }
        content.check_all(&engine).await;
    });
    assert_eq!(scene.names(&world.disk()), None);
}
