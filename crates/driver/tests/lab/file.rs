//! A protocol node on a file of the world that counts what reaches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use block::{BlockError, ByteRange, Result};
use flow::{Capabilities, Execute, InFile, Limits, Next, Now, Op, Powers, Request, Resize, Taken, Window};
use io::file::{Offload, ZeroMode};
use io::{File, Lease, LocalFut};

/// Requests that a file has got, and how many bytes they were for.
#[derive(Default, Debug)]
pub struct Counts {
    pub reads: AtomicU64,
    pub read_bytes: AtomicU64,
    pub writes: AtomicU64,
    pub written_bytes: AtomicU64,
}

pub struct FileNode {
    file: Arc<dyn File>,
    pub counts: Arc<Counts>,
}

impl FileNode {
    pub fn new(file: Arc<dyn File>) -> Self {
        Self { file, counts: Arc::default() }
    }

    fn count(&self, rq: &Request, bytes: u64) {
        let (operations, total) = match rq.op {
            Op::Read => (&self.counts.reads, &self.counts.read_bytes),
            Op::Write => (&self.counts.writes, &self.counts.written_bytes),
            _ => return,
        };
        operations.fetch_add(1, SeqCst);
        total.fetch_add(bytes, SeqCst);
    }

    async fn carry_out(&self, rq: Request, mut lease: Lease) -> (Result<()>, Lease) {
        let range = rq.rest();
        self.count(&rq, range.len());
        let rest = |lease: &mut Lease| {
            let head = lease.split_to(rq.done as usize);
            (head, std::mem::replace(lease, Lease::empty()))
        };
        let result = match rq.op {
            Op::Read | Op::Write => {
                let (mut head, part) = rest(&mut lease);
                let (result, part) = match rq.op {
                    Op::Read => self.file.read(range.start(), part).await,
                    _ => self.file.write(range.start(), part).await,
                };
                head.join(part);
                lease = head;
                result
            }
            Op::WriteZeroes => self.file.write_zeroes(rq.range, ZeroMode::default()).await,
            Op::Discard => self.file.discard(rq.range).await,
            Op::Flush => self.file.flush().await,
            Op::Cache => Ok(()),
        };
        (result.map_err(|e| BlockError::system("the test's file", e)), lease)
    }
}

impl Execute for FileNode {
    fn size(&self) -> Option<u64> {
        Some(self.file.size().unwrap())
    }

    fn limits(&self) -> Limits {
        let can = Capabilities { discard: true, zeroes: true, fua: false };
        Limits { alignment: self.file.info().alignment, can, ..Limits::NONE }
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, _next: Next<'_>) -> Result<Now> {
        let (rest, from) = (rq.rest(), rq.done as usize);
        let done = match window {
            Window::In(buf) if rq.op == Op::Read => self.file.try_read(rest.start(), &mut buf[from..]),
            Window::Out(bytes) if rq.op == Op::Write => self.file.try_write(rest.start(), &bytes[from..]),
            _ => return Ok(Now::Wait),
        };
        let done = match done {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(Now::Wait),
            done => done.map_err(|e| BlockError::system("the test's file", e))?,
        };
        self.count(rq, done as u64);
        rq.done += done as u32;
        Ok(if rq.rest().is_empty() { Now::Done } else { Now::Wait })
    }

    fn execute<'a>(
        &'a self,
        rq: Request,
        lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(self.carry_out(rq, lease))
    }

    fn powers(&self) -> Powers<'_> {
        Powers { resize: Some(self), in_file: Some(self), ..Powers::default() }
    }
}

impl InFile for FileNode {
    fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    fn take<'a>(
        &'a self,
        at: u64,
        source: &'a dyn File,
        range: ByteRange,
        how: Offload,
        lease: Lease,
    ) -> LocalFut<'a, (Result<Taken>, Lease)> {
        Box::pin(async move {
            let (taken, lease) = self.file.take(at, source, range, how, lease).await;
            (Taken::of(taken, |error| BlockError::system("the test's file", error)), lease)
        })
    }
}

impl Resize for FileNode {
    fn resize<'a>(&'a self, size: u64, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            self.file.set_len(size).await.map_err(|e| BlockError::system("the test's file", e))
        })
    }
}
