//! A protocol node in memory that takes its time: what the server of these tests serves.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::{ByteRange, Extent, ExtentState, Result, push_extent};
use flow::{Capabilities, Execute, Limits, Next, Now, Op, Request, Window};
use io::{Lease, LocalFut};

/// The unit in which the store tells data from holes.
pub const UNIT: u64 = 4096;

/// Bytes, and how the node behaves.
pub struct Store {
    pub bytes: Mutex<Vec<u8>>,
    /// How long a request takes, in microseconds.
    pub delay_us: Mutex<RangeInclusive<u64>>,
    pub reads: AtomicU64,
    pub read_bytes: AtomicU64,
    pub writes: AtomicU64,
    pub flushes: AtomicU64,
}

impl Store {
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            delay_us: Mutex::new(0..=0),
            reads: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        })
    }

    /// Bytes that differ from place to place, every fourth unit a hole.
    pub fn patterned(len: usize) -> Arc<Self> {
        let byte = |at: usize| match at / UNIT as usize % 4 {
            3 => 0,
            _ => (at * 7 + at / 251 + 1) as u8,
        };
        Self::new((0..len).map(byte).collect())
    }

    pub fn at(&self, range: ByteRange) -> Vec<u8> {
        self.bytes.lock().unwrap()[range.start() as usize..range.end() as usize].to_vec()
    }

    async fn carry_out(&self, rq: Request, mut lease: Lease) -> (Result<()>, Lease) {
        let (from, to) = self.delay_us.lock().unwrap().clone().into_inner();
        if to > 0 {
            io::sleep(Duration::from_micros(from + io::random() % (to - from + 1))).await;
        }
        let (span, done) = (rq.rest().start() as usize..rq.rest().end() as usize, rq.done as usize);
        match rq.op {
            Op::Read => {
                self.reads.fetch_add(1, SeqCst);
                self.read_bytes.fetch_add(span.len() as u64, SeqCst);
                lease[done..].copy_from_slice(&self.bytes.lock().unwrap()[span]);
            }
            Op::Write => {
                self.writes.fetch_add(1, SeqCst);
                self.bytes.lock().unwrap()[span].copy_from_slice(&lease[done..]);
            }
            Op::WriteZeroes | Op::Discard => {
                self.writes.fetch_add(1, SeqCst);
                self.bytes.lock().unwrap()[span].fill(0);
            }
            Op::Flush => {
                self.flushes.fetch_add(1, SeqCst);
            }
            Op::Cache => {}
        }
        (Ok(()), lease)
    }

    pub fn extents(&self, range: ByteRange) -> Vec<Extent> {
        let (bytes, mut extents, mut rest) = (self.bytes.lock().unwrap(), Vec::new(), range);
        while !rest.is_empty() {
            let unit = rest.head(UNIT - rest.start() % UNIT);
            let zero = bytes[unit.start() as usize..unit.end() as usize].iter().all(|byte| *byte == 0);
            let state = if zero { ExtentState::Hole } else { ExtentState::Data };
            push_extent(&mut extents, Extent { range: unit, state });
            rest = rest.skip(unit.len());
        }
        extents
    }
}

/// The node on a store.
pub struct StoreNode(pub Arc<Store>);

impl Execute for StoreNode {
    fn size(&self) -> Option<u64> {
        Some(self.0.bytes.lock().unwrap().len() as u64)
    }

    fn limits(&self) -> Limits {
        Limits { can: Capabilities { discard: true, zeroes: true, fua: false }, ..Limits::NONE }
    }

    fn try_now(&self, _: &mut Request, _: Window<'_>, _: Next<'_>) -> Result<Now> {
        Ok(Now::Wait)
    }

    fn execute<'a>(&'a self, rq: Request, lease: Lease, _: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(self.0.carry_out(rq, lease))
    }

    fn extents<'a>(&'a self, range: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        Box::pin(async move { Ok(self.0.extents(range)) })
    }
}

/// A node of some GiB that are a hole but for their last unit.
pub struct Hollow(pub u64);

impl Execute for Hollow {
    fn size(&self) -> Option<u64> {
        Some(self.0)
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, _: &mut Request, _: Window<'_>, _: Next<'_>) -> Result<Now> {
        Ok(Now::Wait)
    }

    fn execute<'a>(&'a self, _: Request, lease: Lease, _: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move { (Ok(()), lease) })
    }

    fn extents<'a>(&'a self, range: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        let hole = ByteRange::between(0, self.0 - UNIT).intersection(range);
        let data = ByteRange::between(self.0 - UNIT, self.0).intersection(range);
        let mut extents = Vec::new();
        push_extent(&mut extents, Extent { range: hole, state: ExtentState::Hole });
        push_extent(&mut extents, Extent { range: data, state: ExtentState::Data });
        Box::pin(async move { Ok(extents) })
    }
}
