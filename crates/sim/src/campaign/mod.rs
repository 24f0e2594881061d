//! Scenarios: work from a seed, the power cut at every write and every flush of it, and what must be true of what is
//! left.
//!
//! A test program has one table of them and plays it with [`play`]: a fair sample in the quick test, more with
//! `MILLPOND_TEST_FULL=1`, whatever is asked for under `cargo xtask sim`, which speaks through variables ([`Wishes`]).
//!
//! Invariants: what a scenario does depends on its seed and the point alone, so that a failure can be played again; the
//! first failure of a scenario ends it, the others go on; every failure comes with the command that plays it again.

mod breaking;
mod report;
mod wishes;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use breaking::{must_fail_without, play_or_break};
pub use wishes::Wishes;

use crate::disk::{Counts, CrashPoint};
use crate::rng::Rng;
use report::Report;

/// Work that the power is cut in.
pub trait Scenario: Sync {
    /// What it is called in the table, in reports and on the command line. Unique among all tables.
    fn name(&self) -> &'static str;

    /// Works from `seed` to the end. Answers what the disk has done, which says where the power can go; the error is
    /// what was wrong.
    fn whole(&self, seed: u64) -> Result<Counts, String>;

    /// Works again until the power goes at `point`, and looks at what is left; the error is what was wrong with it.
    fn cut(&self, seed: u64, point: CrashPoint, look: Look) -> Result<(), String>;
}

/// How closely what is left is looked at, apart from what is looked at each time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Goes on with it, as somebody would who starts the machine again.
    pub go_on: bool,
    /// Asks a peer about it (which costs a process).
    pub ask_peer: bool,
}

impl Look {
    /// Each how manyth point is gone on from, and looked at by a peer.
    const GO_ON: u64 = 10;
    const ASK_PEER: u64 = 40;

    /// As closely as can be.
    pub const CLOSE: Self = Self { go_on: true, ask_peer: true };

    fn sampled(seed: u64, point: CrashPoint) -> Self {
        let mut rng = rng_of(seed, point);
        Self { go_on: rng.below(Self::GO_ON) == 0, ask_peer: rng.below(Self::ASK_PEER) == 0 }
    }
}

/// Chances that depend on a seed and a point, and on nothing else.
pub fn rng_of(seed: u64, point: CrashPoint) -> Rng {
    Rng::new(match point {
        CrashPoint::Write(number) => seed ^ number << 20,
        CrashPoint::Flush(number) => seed ^ number << 40,
    })
}

/// What a table's test plays when nobody asks for anything.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// In the quick test: a fair sample.
    pub quick: Budget,
    /// With `MILLPOND_TEST_FULL=1`.
    pub full: Budget,
    /// How many crash points the latter is to come to at least.
    pub full_points: u64,
}

/// How much is played of each scenario.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Seeds, from 0.
    pub seeds: u64,
    /// Points of each seed's run at which the power goes, at most.
    pub points: usize,
}

/// What is played of a scenario whose rule is broken, unless something is wrong before.
const BROKEN: Budget = Budget { seeds: 100, points: 60 };

/// Plays a table on all cores, as the environment wishes ([`Wishes::from_env`]). Prints progress and a summary. Answers
/// the crash points that were played.
///
/// Panics when anything was wrong, with the command that plays it again, and when the full test comes to too few
/// points. With `stop_early` the first failure ends it all.
#[track_caller]
pub fn play(table: &[Box<dyn Scenario>], budgets: &Budgets, stop_early: bool) -> u64 {
    let wishes = Wishes::from_env(&if stop_early { Budgets { full: BROKEN, ..*budgets } } else { *budgets });
    let names: BTreeSet<_> = table.iter().map(|scenario| scenario.name()).collect();
    assert_eq!(names.len(), table.len(), "two scenarios have the same name");
    if wishes.list {
        names.iter().for_each(|name| println!("sim: scenario: {name}"));
        return 0;
    }
    let all = table.iter().map(|scenario| &**scenario);
    let wanted: Vec<_> = all.filter(|scenario| wishes.wants(scenario.name())).collect();
    let points = play_all(&wanted, &wishes, stop_early).close();
    assert!(points >= wishes.points_min, "only {points} crash points, {} are promised", wishes.points_min);
    points
}

fn play_all(wanted: &[&dyn Scenario], wishes: &Wishes, stop_early: bool) -> Report {
    // Seeds first: the first minute has seen every scenario.
    let jobs = wishes.seeds.clone().flat_map(|seed| wanted.iter().map(move |scenario| (seed, *scenario)));
    let (jobs, report) = (Mutex::new(jobs), Mutex::new(Report::new(wanted, wishes)));
    // A function, so that nobody holds the lock while he plays.
    let next = || lock(&jobs).next();
    let work = || {
        while let Some((seed, scenario)) = next() {
            if lock(&report).is_over(scenario.name(), stop_early) {
                continue;
            }
            let begun = Instant::now();
            let played = run(scenario, seed, wishes);
            lock(&report).note(scenario.name(), played, begun.elapsed());
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..cores).for_each(|_| {
            scope.spawn(work);
        });
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread holds is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was wrong, and where.
struct Failure {
    seed: u64,
    point: Option<CrashPoint>,
    wrong: String,
}

/// The run of one seed: how often the power was cut in it, and the first thing that was wrong.
fn run(scenario: &dyn Scenario, seed: u64, wishes: &Wishes) -> (u64, Option<Failure>) {
    let failure = |point, wrong| Some(Failure { seed, point, wrong });
    let points = match wishes.point {
        Some(point) => vec![point],
        None => match caught(|| scenario.whole(seed)) {
            Ok(counts) => sample(counts, seed, wishes.points),
            Err(wrong) => return (0, failure(None, wrong)),
        },
    };
    for (number, point) in points.iter().enumerate() {
        let look = if wishes.point.is_some() { Look::CLOSE } else { Look::sampled(seed, *point) };
        if let Err(wrong) = caught(|| scenario.cut(seed, *point, look)) {
            return (number as u64 + 1, failure(Some(*point), wrong));
        }
    }
    (points.len() as u64, None)
}

/// At most so many of the points of a run, those that the seed picks.
fn sample(counts: Counts, seed: u64, most: usize) -> Vec<CrashPoint> {
    let mut points: Vec<_> = counts.crash_points().collect();
    let mut rng = Rng::new(seed);
    while points.len() > most {
        points.swap_remove(rng.index(points.len()));
    }
    points
}

/// A panic is a failure like any other.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_else(|| "without a word".to_owned())))
    })
}

/// A time for people.
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes wrong at one point of one seed.
    struct Faulty(Option<(u64, CrashPoint)>);

    impl Scenario for Faulty {
        fn name(&self) -> &'static str {
            if self.0.is_some() { "a faulty one" } else { "a good one" }
        }

        fn whole(&self, _: u64) -> Result<Counts, String> {
            Ok(Counts { writes: 10, flushes: 2, ..Counts::default() })
        }

        fn cut(&self, seed: u64, point: CrashPoint, _: Look) -> Result<(), String> {
            assert!(self.0 != Some((seed, point)), "a sector is wrong");
            Ok(())
        }
    }

    /// Ends when another run has begun, too.
    struct Beside(Mutex<u32>, std::sync::Condvar);

    impl Scenario for Beside {
        fn name(&self) -> &'static str {
            "one beside another"
        }

        fn whole(&self, _: u64) -> Result<Counts, String> {
            let mut begun = lock(&self.0);
            *begun += 1;
            self.1.notify_all();
            let alone = |begun: &mut u32| *begun < 2;
            let waited = self.1.wait_timeout_while(begun, std::time::Duration::from_secs(60), alone).unwrap();
            if waited.1.timed_out() { Err("it is alone".to_owned()) } else { Ok(Counts::default()) }
        }

        fn cut(&self, _: u64, _: CrashPoint, _: Look) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn runs_go_on_side_by_side() {
        if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
            let table: [Box<dyn Scenario>; 1] =
                [Box::new(Beside(Mutex::default(), std::sync::Condvar::new()))];
            play(&table, &BUDGETS, false);
        }
    }

    const ALL: Budget = Budget { seeds: 5, points: usize::MAX };
    const BUDGETS: Budgets = Budgets { quick: ALL, full: ALL, full_points: 0 };

    #[test]
    fn every_point_is_played() {
        let table: Vec<Box<dyn Scenario>> = vec![Box::new(Faulty(None))];
        assert_eq!(play(&table, &BUDGETS, false), 5 * 12);
        let some = Budget { points: 7, ..ALL };
        assert_eq!(play(&table, &Budgets { quick: some, full: some, full_points: 0 }, false), 5 * 7);
    }

    #[test]
    fn a_failure_says_how_to_see_it_again() {
        let faulty = Box::new(Faulty(Some((3, CrashPoint::Flush(2)))));
        let table: Vec<Box<dyn Scenario>> = vec![faulty, Box::new(Faulty(None))];
        let said = caught(|| Ok(play(&table, &BUDGETS, false))).unwrap_err();
        let wanted = "replay: cargo xtask sim --scenario 'a faulty one' --first 3 --seeds 1 --point flush:2";
        assert!(said.contains(wanted) && said.contains("a sector is wrong"), "{said}");
    }
}
