//! What several clients do to an image: they write, zero, discard, read and flush.

use std::ops::Range;

use block::ByteRange;
use flow::{Flags, Op, Request, Taken, View, seam};
use futures_util::future::join_all;
use io::Lease;
use io::file::Offload;
use sim::Rng;

use crate::model::{Kind, SECTOR, bytes, bytes_of};
use crate::row::SECTORS;
use crate::stage::{Stage, try_flush};

/// Several clients: one has the first half for itself, the others take turns of eight sectors in the second half.
pub async fn clients(stage: &Stage<'_>) {
    work(stage, Way::Plain).await;
}

/// The same; about half of what they write is compressed.
pub async fn compressing_clients(stage: &Stage<'_>) {
    work(stage, Way::Packed).await;
}

/// The same; about half of what they write is taken from other files.
pub async fn taking_clients(stage: &Stage<'_>) {
    work(stage, Way::Taken).await;
}

/// How whole clusters are written, half of the time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Packed,
    Taken,
}

async fn work(stage: &Stage<'_>, way: Way) {
    let mut rng = Rng::new(stage.seed);
    let view = &stage.tree.view();
    let client = |number| Client { stage, view, rng: rng.fork(), part: Part::of(number), way };
    let clients: Vec<_> = (0..4).map(client).map(|client| client.work_for(12)).collect();
    join_all(clients).await;
}

/// What a client has for itself: some sectors, and as many again each time 24 behind, so many times.
#[derive(Clone, Copy)]
struct Part {
    first: u64,
    len: u64,
    turns: u64,
}

impl Part {
    fn of(client: u64) -> Self {
        let half = SECTORS / 2;
        match client {
            0 => Self { first: 0, len: half, turns: 1 },
            _ => Self { first: half + (client - 1) * 8, len: 8, turns: half / 24 },
        }
    }
}

/// Who changes a part of a disk.
pub struct Client<'a> {
    stage: &'a Stage<'a>,
    view: &'a View,
    rng: Rng,
    part: Part,
    way: Way,
}

impl<'a> Client<'a> {
    /// One that has these sectors for itself.
    pub fn of_part(stage: &'a Stage<'a>, view: &'a View, rng: Rng, part: Range<u64>) -> Self {
        let part = Part { first: part.start, len: part.end - part.start, turns: 1 };
        Client { stage, view, rng, part, way: Way::Plain }
    }

    /// The same, half of whose writes are compressed ones.
    pub fn compressing(self, compress: bool) -> Self {
        Client { way: if compress { Way::Packed } else { Way::Plain }, ..self }
    }

    /// Does so many things.
    pub async fn work_for(mut self, steps: usize) {
        for _ in 0..steps {
            let sectors = self.sectors();
            match self.rng.below(20) {
                0..9 => self.write(sectors).await,
                9..12 => self.change(Op::WriteZeroes, Kind::Zeros, sectors).await,
                12..15 => self.change(Op::Discard, Kind::Discard, sectors).await,
                15..17 => self.read(sectors).await,
                _ => self.flush().await,
            }
        }
    }

    fn sectors(&mut self) -> Range<u64> {
        let Part { first, len, turns } = self.part;
        let from = if turns > 1 { first + self.rng.below(turns) * 24 } else { first };
        let start = self.rng.below(len);
        let longest = if self.rng.chance(0.2) { len } else { 12 };
        let count = 1 + self.rng.below(longest.min(len - start));
        from + start..from + start + count
    }

    pub async fn write(&mut self, sectors: Range<u64>) {
        let whole = self.whole_clusters(&sectors).filter(|_| self.way != Way::Plain && self.rng.chance(0.5));
        let way = if whole.is_some() { self.way } else { Way::Plain };
        let sectors = whole.unwrap_or(sectors);
        let number = self.stage.model.borrow_mut().next_write();
        self.stage.model.borrow_mut().begin(sectors.clone(), Kind::Write(number));
        let (at, data) = (bytes(&sectors).start(), bytes_of(number, sectors.clone()));
        let written = match way {
            Way::Packed => seam::write_compressed(self.view, at, Lease::copy_of(&data)).await,
            Way::Taken => self.take(number, at, &data).await,
            Way::Plain => seam::write(self.view, at, &data).await,
        };
        self.ended(sectors, written);
    }

    /// Has the image take what another file holds; where it cannot, it is written.
    async fn take(&self, number: u64, at: u64, data: &[u8]) -> block::Result<()> {
        let path = format!("other{number}");
        self.stage.lab.world.disk().put(&path, data);
        let source = self.stage.lab.file(&path).await.0.view();
        let (lies, _) = seam::lies(&source, ByteRange::new(0, data.len() as u64)).await?;
        match seam::take(self.view, at, &lies.expect("it is a file"), Offload::Share).await? {
            Taken::All => Ok(()),
            Taken::NotThese | Taken::Never => seam::write(self.view, at, data).await,
        }
    }

    /// The clusters in which sectors lie, where they are nobody else's.
    fn whole_clusters(&self, sectors: &Range<u64>) -> Option<Range<u64>> {
        let cluster = (self.stage.cluster / SECTOR as u64).max(1);
        let whole = sectors.start / cluster * cluster..sectors.end.next_multiple_of(cluster);
        let Part { first, len, turns } = self.part;
        let from = if turns > 1 { sectors.start - (sectors.start - first) % 24 } else { first };
        let mine = from <= whole.start && whole.end <= from + len;
        mine.then_some(whole)
    }

    fn ended(&self, sectors: Range<u64>, outcome: block::Result<()>) {
        match outcome {
            Ok(()) => self.stage.model.borrow_mut().end(sectors),
            Err(_) if self.stage.fails => self.stage.model.borrow_mut().fail(sectors),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn change(&mut self, op: Op, kind: Kind, sectors: Range<u64>) {
        self.stage.model.borrow_mut().begin(sectors.clone(), kind);
        let flags = if self.rng.chance(0.5) { Flags::MAY_UNMAP } else { Flags::NONE };
        let rq = Request::new(op, bytes(&sectors)).with_flags(flags);
        let changed = seam::execute(self.view, rq, Lease::empty()).await.0;
        self.ended(sectors, changed);
    }

    async fn read(&mut self, sectors: Range<u64>) {
        let found = seam::read(self.view, bytes(&sectors)).await.unwrap();
        self.stage.model.borrow().check_now(sectors, &found).unwrap();
    }

    pub async fn flush(&mut self) {
        let covered = self.stage.model.borrow().begin_flush();
        match try_flush(self.view).await {
            Ok(()) => self.stage.model.borrow_mut().end_flush(&covered),
            Err(_) if self.stage.fails => {}
            Err(error) => panic!("{error}"),
        }
    }
}
