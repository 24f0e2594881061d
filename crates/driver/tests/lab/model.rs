//! A plain model of a node's bytes, and random requests that are compared with it.

use std::io::ErrorKind;

use block::{ByteRange, Result};
use flow::{Flags, Now, Op, PieceSource, Pieces, Request, Root, Window, seam};
use io::Lease;
use sim::Rng;

/// What a node should read as; `None` where anything will do (after a discard).
pub struct Model {
    pub bytes: Vec<Option<u8>>,
    rng: Rng,
    /// Whether writes are tried.
    pub writes: bool,
    /// Requests that were done without waiting, and all.
    pub inline: u64,
    pub requests: u64,
}

impl Model {
    pub fn new(bytes: Vec<u8>, seed: u64) -> Self {
        let bytes = bytes.into_iter().map(Some).collect();
        Self { bytes, rng: Rng::new(seed), writes: true, inline: 0, requests: 0 }
    }

    /// Makes `steps` random requests, each of which must agree.
    pub async fn run(&mut self, root: &Root, steps: usize) {
        for _ in 0..steps {
            self.step(root).await;
        }
        self.check_all(root).await;
    }

    pub async fn check_all(&mut self, root: &Root) {
        let whole = ByteRange::new(0, self.bytes.len() as u64);
        self.read(root, whole).await;
    }

    async fn step(&mut self, root: &Root) {
        let range = self.range();
        let choice = self.rng.index(if self.writes { 10 } else { 4 });
        match choice {
            0 | 1 => self.read(root, range).await,
            2 => self.extents(root, range).await,
            3 => drop(self.pass(root, Request::new(Op::Cache, range), Vec::new()).await.unwrap()),
            4..=6 => self.write(root, range).await,
            7 => self.zero(root, range).await,
            8 => {
                self.pass(root, Request::new(Op::Discard, range), Vec::new()).await.unwrap();
                self.bytes[at(range)].fill(None);
            }
            _ => drop(self.pass(root, Request::flush(), Vec::new()).await.unwrap()),
        }
    }

    fn range(&mut self) -> ByteRange {
        let size = self.bytes.len();
        let start = self.rng.index(size);
        // Mostly short, sometimes to the end.
        let most = if self.rng.chance(0.1) { size - start } else { (size - start).min(size / 16) };
        ByteRange::new(start as u64, self.rng.index(most.max(1)) as u64 + 1)
            .intersection(ByteRange::new(0, size as u64))
    }

    async fn read(&mut self, root: &Root, range: ByteRange) {
        let rubbish = vec![0xee; range.len() as usize];
        let read = self.pass(root, Request::new(Op::Read, range), rubbish).await.unwrap();
        for (i, (got, expected)) in read.iter().zip(&self.bytes[at(range)]).enumerate() {
            let place = range.start() + i as u64;
            assert!(expected.is_none_or(|e| e == *got), "byte {place}: {got}, expected {expected:?}");
        }
    }

    async fn write(&mut self, root: &Root, range: ByteRange) {
        let mut bytes = vec![0; range.len() as usize];
        bytes.iter_mut().for_each(|byte| *byte = self.rng.u64() as u8);
        let fua = if self.rng.chance(0.1) { Flags::FUA } else { Flags::NONE };
        let rq = Request::new(Op::Write, range).with_flags(fua);
        for (known, byte) in self.bytes[at(range)].iter_mut().zip(&bytes) {
            *known = Some(*byte);
        }
        self.pass(root, rq, bytes).await.unwrap();
    }

    async fn zero(&mut self, root: &Root, range: ByteRange) {
        let unmap = if self.rng.chance(0.5) { Flags::MAY_UNMAP } else { Flags::NONE };
        let rq = Request::new(Op::WriteZeroes, range).with_flags(unmap);
        self.pass(root, rq, Vec::new()).await.unwrap();
        self.bytes[at(range)].fill(Some(0));
    }

    async fn extents(&mut self, root: &Root, range: ByteRange) {
        let extents = seam::extents(&root.view(), range).await.unwrap();
        let mut next = range.start();
        for extent in &extents {
            assert_eq!(extent.range.start(), next, "{extents:?} of {range:?}");
            next = extent.range.end();
            let known = &self.bytes[at(extent.range)];
            let zeros = known.iter().all(|byte| byte.is_none_or(|b| b == 0));
            assert!(zeros || !extent.state.reads_zero(), "{extent:?} holds data");
        }
        assert!(next > range.start() && next <= range.end(), "{extents:?} of {range:?}");
    }

    /// Passes a request by one of the ways that clients take; answers the buffer.
    pub async fn pass(&mut self, root: &Root, mut rq: Request, mut buf: Vec<u8>) -> Result<Vec<u8>> {
        self.requests += 1;
        if rq.op == Op::Read && self.rng.chance(0.3) {
            let mut pieces = Pieces::new();
            let answer = seam::try_now(&root.turn(), &mut rq, Window::Lend(&mut pieces))?;
            if answer == Now::Lent {
                self.inline += 1;
                return Ok(collect(&mut pieces).await);
            }
            assert!(pieces.is_empty() && rq.done == 0, "half of it was lent");
        }
        if self.rng.chance(0.8) {
            let window = match rq.op {
                Op::Read => Window::In(&mut buf),
                Op::Write => Window::Out(&buf),
                _ => Window::None,
            };
            if seam::try_now(&root.turn(), &mut rq, window)? == Now::Done {
                self.inline += 1;
                return Ok(buf);
            }
        }
        let (result, lease) = seam::execute(&root.view(), rq, Lease::copy_of(&buf)).await;
        result.map(|()| lease.to_vec())
    }
}

fn at(range: ByteRange) -> std::ops::Range<usize> {
    range.start() as usize..range.end() as usize
}

/// Reads lent pieces as a socket would.
pub async fn collect(pieces: &mut Pieces) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.drain() {
        let part = match piece.source {
            PieceSource::Zeroes => vec![0; piece.len],
            PieceSource::File { file, offset } => {
                let (result, lease) = file.read(offset, Lease::new(piece.len)).await;
                result.map_err(|e| e.kind()).unwrap_or_else(|e: ErrorKind| panic!("{e}"));
                lease.to_vec()
            }
        };
        bytes.extend(part);
    }
    bytes
}
