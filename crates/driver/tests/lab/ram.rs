//! A protocol node in memory for real threads: pages behind locks of their own, and every third request waits.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use block::Result;
use flow::{Execute, Limits, Next, Now, Op, Request, Window};
use io::{Lease, LocalFut};

const PAGE: usize = 4096;

pub struct Ram {
    pages: Vec<Mutex<[u8; PAGE]>>,
    size: u64,
    turn: AtomicU64,
}

impl Ram {
    pub fn new(size: u64) -> Self {
        let pages = (0..size.div_ceil(PAGE as u64)).map(|_| Mutex::new([0; PAGE])).collect();
        Self { pages, size, turn: AtomicU64::new(0) }
    }

    /// Calls `each` with every piece of `len` bytes from `start` and where in the buffer it belongs.
    fn pieces(&self, start: u64, len: usize, mut each: impl FnMut(&mut [u8], std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let at = start as usize + done;
            let inside = at % PAGE;
            let piece = (PAGE - inside).min(len - done);
            each(&mut self.pages[at / PAGE].lock().unwrap()[inside..inside + piece], done..done + piece);
            done += piece;
        }
    }

    fn carry_out(&self, rq: &Request, lease: &mut Lease) {
        let (rest, from) = (rq.rest(), rq.done as usize);
        match rq.op {
            Op::Read => self.pieces(rest.start(), rest.len() as usize, |page, at| {
                lease[from + at.start..from + at.end].copy_from_slice(page);
            }),
            Op::Write => self.pieces(rest.start(), rest.len() as usize, |page, at| {
                page.copy_from_slice(&lease[from + at.start..from + at.end]);
            }),
            Op::WriteZeroes => self.pieces(rest.start(), rest.len() as usize, |page, _| page.fill(0)),
            _ => {}
        }
    }
}

impl Execute for Ram {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, _next: Next<'_>) -> Result<Now> {
        if self.turn.fetch_add(1, Relaxed).is_multiple_of(3) {
            return Ok(Now::Wait);
        }
        let (rest, from) = (rq.rest(), rq.done as usize);
        let len = rest.len() as usize;
        match window {
            Window::In(buf) => self.pieces(rest.start(), len, |page, at| {
                buf[from + at.start..from + at.end].copy_from_slice(page);
            }),
            Window::Out(bytes) => self.pieces(rest.start(), len, |page, at| {
                page.copy_from_slice(&bytes[from + at.start..from + at.end]);
            }),
            _ => return Ok(Now::Wait),
        }
        Ok(Now::Done)
    }

    fn execute<'a>(
        &'a self,
        rq: Request,
        mut lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move {
            for _ in 0..self.turn.fetch_add(1, Relaxed) % 3 {
                io::yield_now().await;
            }
            self.carry_out(&rq, &mut lease);
            io::yield_now().await;
            (Ok(()), lease)
        })
    }
}
