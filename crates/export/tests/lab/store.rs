//! A node that answers as the dice fall: at once, in part, with a loan, or after a while.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::{BlockError, ByteRange, ErrorKind, Extent, ExtentState, Result, push_extent};
use flow::{Execute, Limits, Next, Now, Op, Piece, PieceSource, Pieces, Request, Window};
use io::sync::Notify;
use io::{File, Lease, LocalFut};

/// Extents are multiples of this.
pub const UNIT: usize = 4096;

/// How a store answers. Chances are in percent.
#[derive(Clone, Debug)]
pub struct Mood {
    /// Of a request to wait, after a part of it may have been done.
    pub wait: u64,
    /// Of a read to be lent where it can be.
    pub lend: u64,
    /// Of a request that waits to fail.
    pub fail: u64,
    /// How long requests wait.
    pub delay_us: RangeInclusive<u64>,
}

impl Mood {
    /// Everything at once.
    pub const PROMPT: Self = Self { wait: 0, lend: 0, fail: 0, delay_us: 0..=0 };
    /// A bit of everything that is no fault.
    pub const MIXED: Self = Self { wait: 40, lend: 70, fail: 0, delay_us: 0..=900 };
}

/// Bytes in memory, followed by the bytes of a file that never change and may be lent.
pub struct Store {
    memory: Mutex<Vec<u8>>,
    memory_len: usize,
    stable: Option<(Arc<dyn File>, Vec<u8>)>,
    mood: Mutex<Mood>,
    held: AtomicBool,
    let_go: Notify,
    /// Requests that have begun to wait.
    pub begun: AtomicUsize,
    /// Requests that waited and were carried out.
    pub ended: AtomicUsize,
    /// Flushes carried out.
    pub flushes: AtomicUsize,
}

impl Store {
    pub fn new(bytes: Vec<u8>, mood: Mood) -> Arc<Self> {
        Self::with_stable(bytes, None, mood)
    }

    /// Behind `bytes` come those of the file, which are given too.
    pub fn with_stable(bytes: Vec<u8>, stable: Option<(Arc<dyn File>, Vec<u8>)>, mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            memory_len: bytes.len(),
            memory: Mutex::new(bytes),
            stable,
            mood: Mutex::new(mood),
            held: AtomicBool::new(false),
            let_go: Notify::new(),
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            flushes: AtomicUsize::new(0),
        })
    }

    pub fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Keeps all requests that wait, or lets them go.
    pub fn hold(&self, held: bool) {
        self.held.store(held, SeqCst);
        self.let_go.notify_waiters();
    }

    /// All bytes as they are now.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = self.memory.lock().unwrap().clone();
        all.extend(self.stable.iter().flat_map(|(_, bytes)| bytes));
        all
    }

    fn mood(&self) -> Mood {
        self.mood.lock().unwrap().clone()
    }

    fn read(&self, start: u64, buf: &mut [u8]) {
        let start = start as usize;
        let in_memory = self.memory_len.saturating_sub(start).min(buf.len());
        let (head, tail) = buf.split_at_mut(in_memory);
        if in_memory > 0 {
            head.copy_from_slice(&self.memory.lock().unwrap()[start..start + in_memory]);
        }
        if let (false, Some((_, bytes))) = (tail.is_empty(), &self.stable) {
            let from = start + in_memory - self.memory_len;
            tail.copy_from_slice(&bytes[from..from + tail.len()]);
        }
    }

    fn change(&self, op: Op, range: ByteRange, bytes: &[u8]) -> Result<()> {
        if range.end() as usize > self.memory_len {
            return Err(BlockError::new(ErrorKind::ReadOnly, "this part never changes"));
        }
        let mut memory = self.memory.lock().unwrap();
        let part = &mut memory[range.start() as usize..range.end() as usize];
        match op {
            Op::Write => part.copy_from_slice(bytes),
            _ => part.fill(0),
        }
        Ok(())
    }

    /// Lends what of a read can be lent: the stable part, and units of memory that are zeros now.
    fn lend(&self, range: ByteRange, pieces: &mut Pieces) -> bool {
        let mut rest = range;
        while !rest.is_empty() {
            let start = rest.start() as usize;
            let piece = if let (true, Some((file, _))) = (start >= self.memory_len, &self.stable) {
                let len = 1 + io::random() as usize % (rest.len() as usize).min(20_000);
                let offset = (start - self.memory_len) as u64;
                Piece { source: PieceSource::File { file: file.clone(), offset }, len }
            } else {
                let len = (UNIT - start % UNIT).min(rest.len() as usize).min(self.memory_len - start);
                let zeroes = self.memory.lock().unwrap()[start..start + len].iter().all(|b| *b == 0);
                if !zeroes {
                    return false;
                }
                Piece { source: PieceSource::Zeroes, len }
            };
            rest = rest.skip(piece.len as u64);
            if !pieces.push(piece) {
                return false;
            }
        }
        true
    }

    fn part_now(&self, rq: &mut Request, window: &mut Window<'_>) {
        let part = io::random() as usize % rq.range.len() as usize;
        let range = rq.range.head(part as u64);
        match window {
            Window::In(buf) => self.read(range.start(), &mut buf[..part]),
            Window::Out(bytes) if self.change(rq.op, range, &bytes[..part]).is_err() => return,
            Window::Out(_) => {}
            _ => return,
        }
        rq.done = part as u32;
    }

    async fn carry_out(&self, rq: Request, mut lease: Lease) -> (Result<()>, Lease) {
        self.begun.fetch_add(1, SeqCst);
        let mood = self.mood();
        let (least, most) = (*mood.delay_us.start(), *mood.delay_us.end());
        if most > 0 {
            io::sleep(Duration::from_micros(least + io::random() % (most - least + 1))).await;
        }
        loop {
            let let_go = self.let_go.notified();
            if !self.held.load(SeqCst) {
                break;
            }
            let_go.await;
        }
        self.ended.fetch_add(1, SeqCst);
        if io::random() % 100 < mood.fail {
            return (Err(BlockError::new(ErrorKind::Io, "the dice say so")), lease);
        }
        let done = rq.done as usize;
        let result = match rq.op {
            Op::Read => {
                self.read(rq.rest().start(), &mut lease[done..]);
                Ok(())
            }
            Op::Flush => {
                self.flushes.fetch_add(1, SeqCst);
                Ok(())
            }
            Op::Cache => Ok(()),
            _ => self.change(rq.op, rq.rest(), lease.get(done..).unwrap_or_default()),
        };
        (result, lease)
    }
}

/// The store as a node.
pub struct StoreNode(pub Arc<Store>);

impl Execute for StoreNode {
    fn size(&self) -> Option<u64> {
        let stable = self.0.stable.as_ref().map_or(0, |(_, bytes)| bytes.len());
        Some((self.0.memory_len + stable) as u64)
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, rq: &mut Request, mut window: Window<'_>, _: Next<'_>) -> Result<Now> {
        let mood = self.0.mood();
        if let Window::Lend(pieces) = window {
            if io::random() % 100 < mood.fail {
                // Half-way: what is in the list by then counts for nothing.
                pieces.push(Piece { source: PieceSource::Zeroes, len: 1 });
                return Err(BlockError::new(ErrorKind::Io, "the dice say so"));
            }
            let wanted = io::random() % 100 < mood.lend;
            return Ok(if wanted && self.0.lend(rq.range, pieces) { Now::Lent } else { Now::Wait });
        }
        if io::random() % 100 < mood.wait {
            if !rq.range.is_empty() && io::random().is_multiple_of(2) {
                self.0.part_now(rq, &mut window);
            }
            return Ok(Now::Wait);
        }
        match window {
            Window::In(buf) => self.0.read(rq.range.start(), buf),
            Window::Out(bytes) => self.0.change(rq.op, rq.range, bytes)?,
            _ if rq.op.changes() => self.0.change(rq.op, rq.range, &[])?,
            _ => {}
        }
        self.0.flushes.fetch_add(usize::from(rq.op == Op::Flush), SeqCst);
        Ok(Now::Done)
    }

    fn execute<'a>(&'a self, rq: Request, lease: Lease, _: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(self.0.carry_out(rq, lease))
    }

    fn extents<'a>(&'a self, range: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        Box::pin(async move {
            let mut found = Vec::new();
            let mut rest = range;
            while !rest.is_empty() {
                let start = rest.start() as usize;
                let mut unit = vec![0; (UNIT - start % UNIT).min(rest.len() as usize)];
                self.0.read(rest.start(), &mut unit);
                let zero = unit.iter().all(|b| *b == 0);
                let state = if zero { ExtentState::Hole } else { ExtentState::Data };
                push_extent(&mut found, Extent { range: rest.head(unit.len() as u64), state });
                rest = rest.skip(unit.len() as u64);
            }
            Ok(found)
        })
    }
}
