//! What is done to an image and its bitmaps: bitmaps come, change and go, clients write, the disk grows and shrinks,
//! the image comes to rest, and is opened again.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use block::{ByteRange, Result};
use flow::{BitmapChange, Bitmaps, Flags, Op, Request, View, seam};
use futures_util::future::{join, join_all};
use io::Lease;
use serde_json::Value;
use sim::Rng;

use crate::lab::{Lab, Tree};
use crate::model::{Model, SECTOR, Truth};
use crate::run::{SECTORS, word};

const NAMES: [&str; 3] = ["a", "b", "another"];
/// Shortest and longest disk in sectors: in tiny clusters a bitmap of the longest has several.
const SHORTEST: u64 = 96;
const LONGEST: u64 = 12_000;

/// What becomes of what is asked of the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// Anything may fail, and what has failed may fail for good.
    Fails,
    /// Anything may fail, and then the image is opened again.
    Again,
}

pub struct Worker<'a> {
    pub lab: &'a Lab,
    pub options: &'a Value,
    pub model: &'a RefCell<Model>,
    pub rng: Rng,
    pub fate: Fate,
    /// How often reads fail while the image is open.
    pub read_errors: f64,
    pub resizes: bool,
    pub tree: Option<Tree>,
}

impl Worker<'_> {
    pub async fn work(mut self) {
        self.open().await;
        for round in 0..6 {
            for _ in 0..1 + self.rng.below(3) {
                self.act().await;
            }
            self.change_together(round).await;
            if self.rng.chance(0.6) {
                self.rest().await;
            }
            if self.fate == Fate::Again && self.rng.chance(0.5) {
                self.open_again().await;
            }
        }
        self.rest().await;
    }

    fn view(&self) -> std::sync::Arc<View> {
        self.tree.as_ref().unwrap().view()
    }

    async fn open(&mut self) {
        self.tree = Some(self.lab.open_qcow2("disk", self.options.clone(), None).await);
        self.lab.world.disk().adjust(|disk| disk.read_errors = self.read_errors);
    }

    /// Closes the image, stored or not, and opens it again on a disk that can be read meanwhile.
    async fn open_again(&mut self) {
        let disk = self.lab.world.disk();
        self.rest().await;
        while disk.in_flight() > 0 {
            io::sleep(Duration::from_millis(1)).await;
        }
        self.tree = None;
        let read_errors = std::mem::take(&mut self.read_errors);
        disk.adjust(|disk| disk.read_errors = 0.0);
        self.open().await;
        let view = self.view();
        // What is seen now may be what a write has left that was told to have failed.
        seam::execute(&view, Request::flush(), Lease::empty()).await.0.unwrap();
        let list = power(&view).list(view.next()).await.unwrap();
        self.model.borrow_mut().bitmaps.retain(|name, bitmap| {
            let is_there = list.iter().any(|found| found.name == *name);
            assert!(is_there || !bitmap.is_stored || bitmap.goes, "bitmap {name} is gone");
            is_there
        });
        for found in &list {
            let content = match found.inconsistent {
                true => None,
                false => Some(power(&view).content(&found.name, view.next()).await.unwrap()),
            };
            let stored = content.as_ref().map(|content| (content, found.recording));
            self.model.borrow_mut().found(&found.name, stored);
        }
        self.read_errors = read_errors;
        disk.adjust(|disk| disk.read_errors = read_errors);
    }

    /// Whether it went well; on a disk that may fail it may not have.
    fn is_well<T>(&self, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(done) => Some(done),
            Err(_) if self.fate != Fate::Well => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn rest(&self) {
        self.model.borrow_mut().begin_rest();
        match self.is_well(seam::rest(&self.view()).await) {
            Some(()) => self.model.borrow_mut().end_rest(),
            None => self.model.borrow_mut().fail_rest(),
        }
    }

    async fn change(&self, name: &str, change: BitmapChange) -> bool {
        self.model.borrow_mut().begin_change();
        let view = self.view();
        self.is_well(power(&view).change(name, change, view.next()).await).is_some()
    }

    /// Something is done with a bitmap while nobody writes.
    async fn act(&mut self) {
        let name = NAMES[self.rng.index(NAMES.len())];
        let Some(bitmap) = self.model.borrow().bitmaps.get(name).cloned() else {
            let (granularity, recording) = (512 << self.rng.below(4), self.rng.chance(0.7));
            if self.change(name, BitmapChange::Add { granularity, recording, persistent: true }).await {
                self.model.borrow_mut().add(name, granularity, recording);
            }
            return;
        };
        match self.rng.below(6) {
            _ if bitmap.lost && self.rng.chance(0.5) => {
                let view = self.view();
                self.model.borrow_mut().begin_change();
                let cleared = power(&view).change(name, BitmapChange::Clear, view.next()).await;
                assert!(cleared.is_err(), "bitmap {name} is lost, and can be cleared");
            }
            0 => self.remove(name).await,
            _ if bitmap.lost => self.remove(name).await,
            1 => {
                if self.change(name, BitmapChange::Clear).await {
                    let clean = |truth: &Truth| Truth { recording: truth.recording, ..Truth::default() };
                    self.model.borrow_mut().changed(name, |truth| *truth = clean(truth));
                }
            }
            2 => self.merge(name).await,
            _ => {
                let recording = self.rng.chance(0.6);
                if self.change(name, BitmapChange::Record(recording)).await {
                    self.model.borrow_mut().changed(name, |truth| truth.recording = recording);
                }
            }
        }
    }

    async fn remove(&self, name: &str) {
        self.model.borrow_mut().bitmaps.get_mut(name).unwrap().goes = true;
        if self.change(name, BitmapChange::Remove).await || !self.is_there(name).await {
            self.model.borrow_mut().remove(name);
        }
    }

    /// Whether the image knows it, asked on a disk that can be read.
    async fn is_there(&self, name: &str) -> bool {
        let (disk, view) = (self.lab.world.disk(), self.view());
        disk.adjust(|disk| disk.read_errors = 0.0);
        let list = power(&view).list(view.next()).await.unwrap();
        disk.adjust(|disk| disk.read_errors = self.read_errors);
        list.iter().any(|bitmap| bitmap.name == name)
    }

    async fn merge(&mut self, name: &str) {
        let other = NAMES[self.rng.index(NAMES.len())];
        let Some(source) = self.model.borrow().bitmaps.get(other).cloned() else { return };
        if source.lost {
            return;
        }
        let view = self.view();
        let content = power(&view).content(other, view.next()).await;
        let Some(content) = self.is_well(content) else { return };
        let dirty = |sector: &u64| content.is_dirty(ByteRange::new(sector * SECTOR, SECTOR));
        assert!(source.now.must.iter().all(dirty));
        if self.change(name, BitmapChange::Merge(content.clone())).await {
            let runs = content.dirty().flat_map(|run| run.start() / SECTOR..run.end().div_ceil(SECTOR));
            let sectors: Vec<_> = runs.collect();
            self.model.borrow_mut().changed(name, |truth| {
                truth.must.extend(sectors.clone());
                truth.may.extend(sectors);
            });
        }
    }

    /// Clients write; meanwhile the disk gets another size or comes to rest, or neither.
    async fn change_together(&mut self, round: u64) {
        // A view of each round: what is recorded is seen when it is built.
        let view = &self.view();
        let sectors = view.size() / SECTOR;
        let wanted = (self.resizes && self.rng.chance(0.6)).then(|| self.another_size(sectors));
        let rests = self.rng.chance(0.4);
        let (model, fate, part) = (self.model, self.fate, sectors.min(wanted.unwrap_or(sectors)));
        let clients = (0..3).map(|number| {
            let rng = self.rng.fork();
            Client { view, model, fate, rng, number, round, sectors: part }.work()
        });
        let clients = join_all(clients.collect::<Vec<_>>());
        let besides = async {
            match wanted {
                Some(wanted) => resize(view, model, wanted).await,
                None if rests => self.rest().await,
                None => {}
            }
        };
        join(clients, besides).await;
    }

    /// A little longer or shorter, or anything.
    fn another_size(&mut self, sectors: u64) -> u64 {
        let wanted = match self.rng.below(4) {
            0 => sectors + self.rng.below(40),
            1 => sectors.saturating_sub(self.rng.below(40)),
            2 => self.rng.below(SECTORS),
            _ => self.rng.below(LONGEST),
        };
        wanted.clamp(SHORTEST, LONGEST)
    }
}

async fn resize(view: &View, model: &RefCell<Model>, sectors: u64) {
    model.borrow_mut().begin_resize(sectors);
    seam::resize(view, sectors * SECTOR).await.unwrap();
    model.borrow_mut().end_resize(sectors);
}

fn power(view: &View) -> &dyn Bitmaps {
    view.root().powers().bitmaps.unwrap()
}

struct Client<'a> {
    view: &'a View,
    model: &'a RefCell<Model>,
    fate: Fate,
    rng: Rng,
    number: u64,
    round: u64,
    /// Sectors of the disk that it may change.
    sectors: u64,
}

impl Client<'_> {
    async fn work(mut self) {
        for step in 0..self.rng.below(4) {
            // Each has every third stretch of eight sectors for itself.
            let start = self.rng.below(self.sectors / 24) * 24 + self.number * 8 + self.rng.below(8);
            let end = (start + 1 + self.rng.below(8)).min(start.next_multiple_of(8).max(start + 1));
            let number = self.round << 16 | self.number << 8 | step | 1 << 32;
            match self.rng.below(10) {
                0..6 => self.write(start..end, number).await,
                6 => self.change(Op::WriteZeroes, start..end).await,
                7 => self.change(Op::Discard, start..end).await,
                _ => {
                    let flushed = seam::execute(self.view, Request::flush(), Lease::empty()).await.0;
                    assert!(flushed.is_ok() || self.fate != Fate::Well, "{flushed:?}");
                }
            }
        }
    }

    async fn write(&mut self, sectors: Range<u64>, number: u64) {
        let bytes: Vec<_> = sectors.clone().flat_map(|sector| word(number, sector).repeat(64)).collect();
        let began = self.model.borrow_mut().begin(sectors.clone(), Some(number));
        let written = seam::write(self.view, sectors.start * SECTOR, &bytes).await;
        self.ended(written, began, sectors);
    }

    async fn change(&mut self, op: Op, sectors: Range<u64>) {
        let began = self.model.borrow_mut().begin(sectors.clone(), None);
        let range = ByteRange::between(sectors.start * SECTOR, sectors.end * SECTOR);
        let rq = Request::new(op, range).with_flags(Flags::MAY_UNMAP);
        let changed = seam::execute(self.view, rq, Lease::empty()).await.0;
        self.ended(changed, began, sectors);
    }

    fn ended(&self, outcome: Result<()>, began: u64, sectors: Range<u64>) {
        match outcome {
            Ok(()) => self.model.borrow_mut().end(began, sectors),
            Err(_) if self.fate != Fate::Well => self.model.borrow_mut().fail(),
            Err(error) => panic!("{error}"),
        }
    }
}
