//! Guests of the topmost image, and what they know of it.
//!
//! Each writes to stripes of its own, so that it knows what it must read; stripes are shorter than clusters, so that
//! they meet there all the time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use block::ByteRange;
use engine::Engine;
use flow::{Flags, Op, Request, Root, seam};
use graph::{Demand, RootId, User};
use io::Lease;
use sim::Rng;

use crate::scene::SIZE;

const SECTOR: u64 = 512;
const STRIPE: u64 = 6 * SECTOR;

/// What each sector may be: the last one is what is read, the others are what may be there after a power cut.
pub(crate) struct Disk {
    sectors: RefCell<Vec<Vec<Vec<u8>>>>,
}

/// A guest.
pub(crate) struct Guest {
    number: u64,
    of: u64,
    disk: Rc<Disk>,
    root: RootId,
    entry: Arc<Root>,
}

/// Guests that come before anything else happens.
pub(crate) fn enter(engine: &Arc<Engine>, disk: &Rc<Disk>, of: u64) -> Vec<Guest> {
    let guest = |number| {
        let (root, entry) =
            engine.attach("top", User::export(&format!("guest{number}")), Demand::WRITE).unwrap();
        Guest { number, of, disk: disk.clone(), root, entry }
    };
    (0..of).map(guest).collect()
}

impl Disk {
    pub(crate) fn new(content: &[u8]) -> Self {
        let sector = |bytes: &[u8]| vec![bytes.to_vec()];
        Self { sectors: RefCell::new(content.chunks(SECTOR as usize).map(sector).collect()) }
    }

    /// All of it is what it may be.
    pub(crate) async fn check_all(&self, engine: &Arc<Engine>) {
        let reader = engine.reader("check", "top").unwrap();
        let bytes = reader.read(ByteRange::between(0, SIZE)).await.unwrap();
        for (at, (sector, may_be)) in
            bytes.chunks(SECTOR as usize).zip(self.sectors.borrow_mut().iter_mut()).enumerate()
        {
            let found = may_be.iter().any(|value| value == sector);
            assert!(found, "sector {at}: {:?}..., one of {}", &sector[..4], may_be.len());
            *may_be = vec![sector.to_vec()];
        }
        reader.close().await.unwrap();
    }

    /// Will be this from some moment on.
    fn begin(&self, range: ByteRange, bytes: &[u8]) {
        let mut sectors = self.sectors.borrow_mut();
        for (at, value) in (range.start() / SECTOR..).zip(bytes.chunks(SECTOR as usize)) {
            sectors[at as usize].push(value.to_vec());
        }
    }

    fn last(&self, range: ByteRange) -> Vec<u8> {
        let sectors = self.sectors.borrow();
        (range.start() / SECTOR..range.end() / SECTOR)
            .flat_map(|at| sectors[at as usize].last().unwrap().clone())
            .collect()
    }

    /// Of a guest's stripes nothing older is possible any more: what it had written is durable.
    fn forget(&self, mine: impl Fn(u64) -> bool) {
        for (at, may_be) in self.sectors.borrow_mut().iter_mut().enumerate() {
            if mine(at as u64 * SECTOR) {
                may_be.drain(..may_be.len() - 1);
            }
        }
    }
}

impl Guest {
    /// Writes, zeroes, flushes and reads.
    pub(crate) async fn work(&self, mut rng: Rng, steps: u64) {
        for _ in 0..steps {
            let stripes = SIZE / STRIPE / self.of;
            let start = (rng.below(stripes) * self.of + self.number) * STRIPE;
            let from = rng.below(6);
            let range = ByteRange::new(start + from * SECTOR, (1 + rng.below(6 - from)) * SECTOR);
            let what = rng.index(10);
            match what {
                0 => self.flush().await,
                1..4 => self.zero(range, rng.chance(0.5)).await,
                4..8 => self.write(range, &mut rng).await,
                _ => self.read(range).await,
            }
            io::yield_now().await;
        }
        self.flush().await;
    }

    pub(crate) async fn leave(self, engine: &Engine) {
        engine.detach(self.root).await.unwrap();
    }

    async fn write(&self, range: ByteRange, rng: &mut Rng) {
        let mut bytes = vec![0; range.len() as usize];
        rng.fill(&mut bytes);
        self.disk.begin(range, &bytes);
        seam::write(&self.entry.view(), range.start(), &bytes).await.unwrap();
    }

    async fn zero(&self, range: ByteRange, unmap: bool) {
        self.disk.begin(range, &vec![0; range.len() as usize]);
        let flags = if unmap { Flags::MAY_UNMAP } else { Flags::NONE };
        let rq = Request::new(Op::WriteZeroes, range).with_flags(flags);
        seam::execute(&self.entry.view(), rq, Lease::empty()).await.0.unwrap();
    }

    async fn flush(&self) {
        seam::execute(&self.entry.view(), Request::flush(), Lease::empty()).await.0.unwrap();
        self.disk.forget(|at| at / STRIPE % self.of == self.number);
    }

    async fn read(&self, range: ByteRange) {
        let read = seam::read(&self.entry.view(), range).await.unwrap();
        let last = self.disk.last(range);
        let wrong = (0..last.len()).find(|at| read[*at] != last[*at]);
        assert!(
            wrong.is_none(),
            "guest {} reads {:?} at {range}, not {:?}, from {wrong:?} on",
            self.number,
            &read[wrong.unwrap()..][..4],
            &last[wrong.unwrap()..][..4]
        );
    }
}
