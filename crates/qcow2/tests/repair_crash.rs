//! The power goes while an image is repaired: at any write and any barrier, with what was not durable lost or torn.
//! What is left is no worse than the image was, reads as it did, and can be repaired as well as if nothing had
//! happened.
//!
//! Worse is what is counted too low, or lies. A flag that says otherwise than a count is not: between counts that
//! are right at last and flags that are not yet there may be more of those, and none says that a cluster is nobody
//! else's which did not say so before.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test uses a part of it")]
mod checking;
#[allow(dead_code, reason = "shared with the verdicts, which use more of it")]
mod corpus;

use checking::Outcome;
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use qcow2::check::{Check, Found, Repair, Step};
use qcow2::{Header, fuzz};

/// What is written whole or not at all.
const SECTOR: usize = 512;

/// A disk that holds what was made durable, and what is on its way.
struct Disk {
    durable: Vec<u8>,
    pending: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    /// What those who read see.
    fn now(&self) -> Vec<u8> {
        let mut all = self.durable.clone();
        self.pending.iter().for_each(|(at, bytes)| put(&mut all, *at, bytes));
        all
    }

    /// What a power cut leaves: of what was on its way none, all, or some sectors.
    fn cut(&self, how: usize, rng: &mut TestRng) -> Vec<u8> {
        let mut left = self.durable.clone();
        for (at, bytes) in &self.pending {
            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                let is_there = match how {
                    0 => false,
                    1 => true,
                    _ => rng.next_u32() & 1 == 1,
                };
                if is_there {
                    put(&mut left, at + (number * SECTOR) as u64, sector);
                }
            }
        }
        left
    }
}

fn put(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    file.resize(file.len().max(end), 0);
    file[at as usize..end].copy_from_slice(bytes);
}

fn wrong(found: &Found) -> u64 {
    found.corruptions + found.leaks + found.check_errors
}

/// A repair of an image, and what it may leave.
struct Case<'a> {
    name: &'a str,
    image: &'a [u8],
    repair: Repair,
    /// Whether barriers make durable what was written; a test of the test has none.
    barriers: bool,
    before: u64,
    /// What a repair of everything leaves when nothing happens.
    best: u64,
    cuts: usize,
}

impl Case<'_> {
    /// Repairs it, cutting the power everywhere; the error is the first that is wrong.
    fn run(&mut self, rng: &mut TestRng) -> Result<(), String> {
        let mut disk = Disk { durable: self.image.to_vec(), pending: Vec::new() };
        let first = Header::needed(self.image).unwrap().min(self.image.len());
        let len = self.image.len() as u64;
        let mut check = Check::new(&self.image[..first], len, true, self.repair).unwrap();
        loop {
            let mut writes = Vec::new();
            // What cannot be repaired has written nothing.
            let Ok(step) = check.step() else { return Ok(()) };
            match step {
                Step::Read(ranges) => {
                    for range in ranges {
                        let now = disk.now();
                        if check.take(&now[range.start() as usize..range.end() as usize]).is_err() {
                            return Ok(());
                        }
                        writes.extend(check.drain_writes());
                    }
                }
                Step::Write(these) => writes = these,
                Step::Barrier if self.barriers => {
                    disk = Disk { durable: disk.now(), pending: Vec::new() };
                    self.cut(&disk, rng)?;
                }
                Step::Barrier | Step::Again => {}
                Step::Done => return Ok(()),
            }
            for write in writes {
                disk.pending.push(write);
                self.cut(&disk, rng)?;
            }
        }
    }

    fn cut(&mut self, disk: &Disk, rng: &mut TestRng) -> Result<(), String> {
        for how in 0..5 {
            self.cuts += 1;
            self.judge(&disk.cut(how, rng))
                .map_err(|wrong| format!("{}, {:?}: {wrong}", self.name, self.repair))?;
        }
        Ok(())
    }

    /// How many lines tell of more than a leak, a flag which says otherwise than a count, a count that cannot be read,
    /// or the clusters of what reached beyond the end before the file grew.
    fn harm(&self, outcome: &Outcome) -> u64 {
        let header =
            Header::parse(&self.image[..Header::needed(self.image).unwrap().min(self.image.len())]).unwrap();
        let end = self.image.len().div_ceil(1 << header.cluster_bits);
        let is_behind = |line: &str| {
            let number = line.strip_prefix("ERROR cluster ").and_then(|rest| rest.split(' ').next());
            number.is_some_and(|number| number.parse::<usize>().unwrap() >= end)
        };
        let harmless = ["OFLAG_COPIED", "Can't get refcount", "Leaked"];
        let is_harm = |line: &&String| !harmless.iter().any(|word| line.contains(word)) && !is_behind(line);
        outcome.all.iter().filter(is_harm).count() as u64
    }

    fn judge(&self, left: &[u8]) -> Result<(), String> {
        let found = checking::check(&mut left.to_vec(), Repair::Nothing);
        let found = found.map_err(|error| format!("cannot be checked any more: {error}"))?;
        let (harm, before) = (self.harm(&found), self.before);
        if harm > before {
            return Err(format!("{before} wrong before, now {harm}: {:?} {:#?}", found.found, found.lines));
        }
        if !fuzz::reads_as(self.image, left) {
            return Err("it reads otherwise".to_owned());
        }
        let mut again = left.to_vec();
        let mended = checking::check(&mut again, Repair::All);
        let mended = mended.map_err(|error| format!("cannot be repaired any more: {error}"))?.found;
        match wrong(&mended) > self.best {
            true => Err(format!("{} are left when nothing happens, here {mended:?}", self.best)),
            false => Ok(()),
        }
    }
}

/// Cuts the power of repairs of the whole corpus; answers how often, or the first thing that was wrong.
fn cut_all(barriers: bool) -> Result<usize, String> {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut cuts = 0;
    for case in corpus::cases() {
        let Ok(before) = checking::check(&mut case.image.clone(), Repair::Nothing) else { continue };
        let Ok(best) = checking::check(&mut case.image.clone(), Repair::All) else { continue };
        for repair in [Repair::Leaks, Repair::All] {
            let best = wrong(&best.found);
            let mut one =
                Case { name: &case.name, image: &case.image, repair, barriers, before: 0, best, cuts: 0 };
            one.before = one.harm(&before);
            one.run(&mut rng)?;
            cuts += one.cuts;
        }
    }
    Ok(cuts)
}

#[test]
fn what_is_left_is_never_worse() {
    let cuts = cut_all(true).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(cuts > 1000, "{cuts} cuts");
}

#[test]
fn without_barriers_something_is_worse() {
    let found = cut_all(false);
    assert!(found.is_err(), "{found:?}");
}
