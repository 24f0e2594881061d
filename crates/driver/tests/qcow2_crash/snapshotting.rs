//! Internal snapshots are made, gone back to and deleted while clients write.

use block::{ByteRange, NewSnapshot};
use flow::{Next, Snapshots, View, seam};
use futures_util::future::{join, join_all};
use sim::Rng;

use crate::lab::reader;
use crate::model::{Covered, Model};
use crate::row::{SECTORS, SIZE};
use crate::scribble::Client;
use crate::stage::{Stage, flush};

const ROUNDS: usize = 6;
/// Most snapshots at a time.
const MOST: usize = 3;

/// The snapshots that an image has, or may have.
#[derive(Default)]
pub struct Kept(Vec<Known>);

struct Known {
    id: String,
    bytes: Bytes,
    /// It is there, durably.
    certain: bool,
}

enum Bytes {
    These(Vec<u8>),
    /// Any state since then.
    Since(Covered),
}

impl Kept {
    /// Those that an image has at first.
    pub fn of(found: Vec<(String, Vec<u8>)>) -> Self {
        let known = |(id, bytes)| Known { id, bytes: Bytes::These(bytes), certain: true };
        Self(found.into_iter().map(known).collect())
    }
}

impl Model {
    /// What is wrong with the snapshots that were found.
    pub fn check_snapshots(&self, found: &[(String, Vec<u8>)]) -> Result<(), String> {
        for known in self.kept.0.iter().filter(|known| known.certain) {
            if found.iter().all(|(id, _)| *id != known.id) {
                return Err(format!("snapshot {} is not there", known.id));
            }
        }
        for (id, bytes) in found {
            let outcomes =
                self.kept.0.iter().filter(|known| known.id == *id).map(|known| match &known.bytes {
                    Bytes::These(these) if these == bytes => Ok(()),
                    Bytes::These(_) => Err("it holds something else".to_owned()),
                    Bytes::Since(covered) => self.check_since(covered, bytes),
                });
            let nobody = Err("nobody has made it".to_owned());
            let outcome = outcomes.reduce(Result::or).unwrap_or(nobody);
            outcome.map_err(|wrong| format!("snapshot {id}: {wrong}"))?;
        }
        Ok(())
    }
}

/// Changes snapshots again and again; while one is made or deleted clients write.
pub async fn take_snapshots(stage: &Stage<'_>) {
    work(stage, false).await;
}

/// The same; about half of what they write is compressed.
pub async fn take_compressed_snapshots(stage: &Stage<'_>) {
    work(stage, true).await;
}

/// The same as the first, beside one that a guest's state is stored with: as long as it is there, that stays as it is.
pub async fn take_snapshots_beside_a_guest(stage: &Stage<'_>) {
    let guests = reader::guests(&stage.lab.world.disk()).unwrap();
    assert!(guests.iter().any(|(_, state)| state.iter().any(|byte| *byte != 0)));
    stage.promise("the guest", move |disk| {
        let found = reader::guests(disk)?;
        match found.iter().find(|guest| !guests.contains(guest)) {
            Some((snapshot, _)) => Err(format!("the guest of snapshot {snapshot} has changed")),
            None => Ok(()),
        }
    });
    work(stage, false).await;
}

async fn work(stage: &Stage<'_>, compress: bool) {
    let view = &stage.tree.view();
    let mut taker = Taker { stage, view, rng: Rng::new(stage.seed) };
    for _ in 0..ROUNDS {
        let part = SECTORS / 3;
        let clients: Vec<_> = (0..3)
            .map(|number| {
                let part = number * part..(number + 1) * part;
                Client::of_part(stage, view, taker.rng.fork(), part).compressing(compress).work_for(4)
            })
            .collect();
        join(join_all(clients), taker.edit()).await;
        if taker.rng.chance(0.3) {
            taker.apply().await;
        }
    }
    if !stage.fails {
        flush(view).await;
    }
}

/// Who changes snapshots.
struct Taker<'a> {
    stage: &'a Stage<'a>,
    view: &'a View,
    rng: Rng,
}

impl Taker<'_> {
    async fn edit(&mut self) {
        let count = self.stage.model.borrow().kept.0.len();
        match self.rng.below(3) {
            1 | 2 if count < MOST => self.create().await,
            _ if count == 0 => self.create().await,
            _ => {
                let at = self.rng.index(count);
                self.delete(at).await;
            }
        }
    }

    fn power(&self) -> (&dyn Snapshots, Next<'_>) {
        seam::snapshots(self.view).unwrap()
    }

    /// Whether it has gone well; on a disk that may fail it may not have.
    fn is_well(&self, outcome: block::Result<()>) -> bool {
        assert!(outcome.is_ok() || self.stage.fails, "{outcome:?}");
        outcome.is_ok()
    }

    fn found(&self) -> Vec<(String, Vec<u8>)> {
        reader::snapshots(&self.stage.lab.world.disk()).unwrap()
    }

    async fn create(&self) {
        let model = self.stage.model;
        let last = self.found().iter().map(|(id, _)| id.parse().unwrap()).max().unwrap_or(0u64);
        let (id, bytes) = ((last + 1).to_string(), Bytes::Since(model.borrow().begin_flush()));
        model.borrow_mut().kept.0.push(Known { id: id.clone(), bytes, certain: false });
        let new = NewSnapshot { name: "of the test".to_owned(), ..NewSnapshot::default() };
        let (power, next) = self.power();
        if !self.is_well(power.create(new, next).await) {
            return;
        }
        // From now on it is what it is.
        let found = self.found();
        model.borrow().check_snapshots(&found).unwrap();
        let mut model = model.borrow_mut();
        // It is not one of that id whose making has failed.
        let (last, kept) = (model.kept.0.len() - 1, &mut model.kept.0);
        let is_older = |at: usize, known: &Known| at < last && known.id == id;
        let mut at = 0..;
        kept.retain(|known| !is_older(at.next().unwrap(), known));
        let (found, known) = (found.into_iter().next_back().unwrap(), model.kept.0.last_mut().unwrap());
        assert_eq!(found.0, id);
        (known.bytes, known.certain) = (Bytes::These(found.1), true);
    }

    async fn delete(&self, at: usize) {
        let id = {
            let known = &mut self.stage.model.borrow_mut().kept.0[at];
            known.certain = false;
            known.id.clone()
        };
        let (power, next) = self.power();
        let deleted = power.delete(&id, next).await;
        if self.is_well(deleted) {
            self.stage.model.borrow_mut().kept.0.retain(|known| known.id != id);
        }
    }

    /// Nobody writes meanwhile: the present state is lost.
    async fn apply(&mut self) {
        let these = |known: &Known| match &known.bytes {
            Bytes::These(bytes) if known.certain => Some((known.id.clone(), bytes.clone())),
            _ => None,
        };
        let kept: Vec<_> = self.stage.model.borrow().kept.0.iter().filter_map(these).collect();
        if kept.is_empty() {
            return;
        }
        let (id, bytes) = &kept[self.rng.index(kept.len())];
        self.stage.model.borrow_mut().begin_apply(bytes.clone());
        let (power, next) = self.power();
        let applied = power.apply(id, next).await;
        if self.is_well(applied) {
            self.stage.model.borrow_mut().end_apply();
            let found = seam::read(self.view, ByteRange::new(0, SIZE)).await;
            let same = found.is_ok_and(|found| found[..] == bytes[..]);
            assert!(same || self.stage.fails, "snapshot {id} is not what was gone back to");
        }
    }
}
