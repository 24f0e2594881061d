//! What a simulated disk consists of.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, Errno};

use super::control::{Counts, CrashPoint, Op, OpId, OpKind, Policy, Verdict};
use super::crash::Loss;
use super::flight::Flight;
use super::inode::{Change, Inode};
use super::options::DiskOptions;
use super::os_error;
use crate::core::Core;
use crate::rng::Rng;

/// Everything but the files is reset when the disk is put into another world.
pub(crate) struct State {
    pub(crate) options: DiskOptions,
    pub(crate) rng: Rng,
    pub(crate) core: Option<Arc<Core>>,
    pub(crate) names: BTreeMap<PathBuf, usize>,
    pub(crate) inodes: Vec<Inode>,
    /// Open files and operations ever.
    pub(crate) serial: u64,
    pub(crate) flights: BTreeMap<OpId, Flight>,
    /// Changes that were on their way when the world ended.
    started: Vec<(usize, Change)>,
    pub(crate) counts: Counts,
    pub(crate) policy: Option<Policy>,
    pub(crate) crash_at: Option<CrashPoint>,
    /// The power is gone.
    pub(crate) dead: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            options: DiskOptions::default(),
            rng: Rng::new(0),
            core: None,
            names: BTreeMap::new(),
            inodes: Vec::new(),
            serial: 0,
            flights: BTreeMap::new(),
            started: Vec::new(),
            counts: Counts::default(),
            policy: None,
            crash_at: None,
            dead: false,
        }
    }
}

impl State {
    pub(crate) fn put(&mut self, path: &Path, inode: Inode) -> usize {
        // A file that is replaced stays for those who have it open.
        self.inodes.push(inode);
        self.names.insert(path.to_owned(), self.inodes.len() - 1);
        self.inodes.len() - 1
    }

    pub(crate) fn inode_of(&self, path: &Path) -> Option<&Inode> {
        Some(&self.inodes[*self.names.get(path)?])
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn mount(&mut self, core: Arc<Core>, options: DiskOptions, rng: Rng) {
        assert!(self.flights.is_empty(), "the disk is in use by another world");
        self.core = Some(core);
        self.options = options;
        self.rng = rng;
        self.counts = Counts::default();
        self.crash_at = None;
        self.dead = false;
    }

    pub(crate) fn held(&self) -> Vec<(OpId, Op)> {
        let held = self.flights.iter().filter(|(_, flight)| flight.is_held());
        held.map(|(id, flight)| (*id, flight.op.clone())).collect()
    }

    /// What becomes of `op` by the test's will; by chance if that is silent.
    pub(crate) fn judge(&mut self, op: &Op) -> Verdict {
        let verdict = self.policy.as_mut().map_or(Verdict::Go, |policy| policy(op));
        if verdict != Verdict::Go {
            return verdict;
        }
        let odds = match op.kind {
            OpKind::Read => self.options.read_errors,
            OpKind::Flush => self.options.flush_errors,
            OpKind::Open | OpKind::Extents | OpKind::Discard => 0.0,
            OpKind::Write | OpKind::Zero | OpKind::SetLen => self.options.write_errors,
        };
        if self.rng.chance(odds) { Verdict::Fail(Errno::IO) } else { Verdict::Go }
    }

    /// How long an operation takes that waits.
    pub(crate) fn latency(&mut self) -> Duration {
        self.rng.span(&self.options.latency)
    }

    /// Writes `bytes` now, if there is room.
    pub(crate) fn write_now(&mut self, inode: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = ByteRange::new(offset, bytes.len() as u64);
        self.make_room(inode, range)?;
        self.inodes[inode].write(offset, bytes);
        self.changed(inode, OpKind::Write, range);
        Ok(())
    }

    pub(crate) fn make_room(&self, inode: usize, range: ByteRange) -> io::Result<()> {
        if self.options.quota == u64::MAX {
            return Ok(());
        }
        // A file counts once, however many names it has.
        let files: BTreeSet<_> = self.names.values().collect();
        let used: u64 = files.into_iter().map(|at| self.inodes[*at].live.bytes.allocated()).sum();
        let wanted = self.inodes[inode].live.bytes.missing(range);
        if wanted == 0 || used.saturating_add(wanted) <= self.options.quota {
            return Ok(());
        }
        Err(os_error(Errno::NOSPC))
    }

    /// To be called after each change: counts it, and cuts the power if this was to be the last one.
    pub(crate) fn changed(&mut self, inode: usize, kind: OpKind, range: ByteRange) {
        self.note(kind.name(), range.start(), range.len());
        self.counts.writes += 1;
        self.inodes[inode].bound(self.options.unflushed_max);
        if self.crash_at == Some(CrashPoint::Write(self.counts.writes)) {
            self.die();
        }
    }

    /// The power goes.
    pub(crate) fn die(&mut self) {
        self.note("power cut", self.counts.writes, self.counts.flushes);
        self.dead = true;
        if let Some(core) = &self.core {
            core.cut();
        }
    }

    pub(crate) fn note(&self, what: &'static str, a: u64, b: u64) {
        if let Some(core) = &self.core {
            core.note(what, a, b);
        }
    }

    /// Takes all operations in flight out; what they were about to change is remembered for a crash.
    pub(crate) fn abandon(&mut self) -> BTreeMap<OpId, Flight> {
        self.started = self.all_started();
        self.core = None;
        std::mem::take(&mut self.flights)
    }

    fn all_started(&self) -> Vec<(usize, Change)> {
        let mut started = self.started.clone();
        for flight in self.flights.values() {
            started.extend(flight.change(self).map(|change| (flight.inode(), change)));
        }
        started
    }

    pub(crate) fn after_crash(&self, rng: &mut Rng) -> Self {
        let started = self.all_started();
        let loss = Loss::roll(rng);
        self.with_inodes(|at, inode| {
            let mine = started.iter().filter(|(of, _)| *of == at).map(|(_, change)| change.clone());
            Inode::durable(loss.strike(inode, mine.collect(), rng))
        })
    }

    pub(crate) fn after_kill(&self, rng: &mut Rng) -> Self {
        let started = self.all_started();
        self.with_inodes(|at, inode| {
            let mut inode = inode.clone();
            inode.locks.clear();
            for (_, change) in started.iter().filter(|(of, _)| *of == at) {
                if rng.chance(0.5) {
                    inode.redo(change);
                }
            }
            inode
        })
    }

    fn with_inodes(&self, mut next: impl FnMut(usize, &Inode) -> Inode) -> Self {
        let inodes = self.inodes.iter().enumerate().map(|(at, inode)| next(at, inode)).collect();
        Self { names: self.names.clone(), inodes, options: self.options.clone(), ..Self::default() }
    }
}
