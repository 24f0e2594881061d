//! Internal snapshots: listed, made, gone back to, and deleted.
//!
//! Order: all that changes is made anew beside what is there ([`renew`], [`recount`]): the active L1 table, L2 tables
//! that own more or less than they say, the snapshot table, refcount blocks and their table; a barrier; then one sector
//! of the header points to all of it; a barrier. Before that write nothing refers to what is new, and behind it nothing
//! to what is old: a crash leaves the one or the other, whole.
//!
//! Invariants: nobody changes anything meanwhile ([`still`]); what is in memory afterwards is what the header points
//! to; whatever of the file is free by now is used again only when nobody reads it any more. Where nobody knows whether
//! the header points to the new tables, nothing is written any more.

mod give_back;
pub(super) mod open;
mod recount;
mod renew;
mod still;
pub(super) mod stored;

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use block::{BlockError, ByteRange, ErrorKind, NewSnapshot, Result};
use flow::sabotage::Rule;
use flow::{Next, SnapshotInfo};
use io::LocalFut;
use qcow2::{
    BackingMark, FILE_CHILD, Header, HeaderEdit, Snapshot, SnapshotList, SnapshotTable, Switch, cache,
    word_bytes,
};

use super::Qcow2;
use super::image::Image;
use super::opening::survey;
use super::space::Run;
use super::space::refcounts::NewTables;
use super::space::structures::Structures;
use super::writing::writer::Turn;
use recount::{Change, Recount, Recounted};
use renew::{L1, Renewal};
pub use stored::snapshots;
use stored::{Stored, info};

/// A change of the list of snapshots.
enum Edit {
    Create(NewSnapshot),
    /// The id or the name of one.
    Apply(String),
    /// Its id.
    Delete(String),
}

/// The tables that an edit has left, written but for the header.
struct Edited {
    switch: Switch,
    l1: Vec<u64>,
    refcounts: Recounted,
    list: Vec<SnapshotInfo>,
}

impl flow::Snapshots for Qcow2 {
    fn list<'a>(&'a self, next: Next<'a>) -> LocalFut<'a, Result<Vec<SnapshotInfo>>> {
        Box::pin(async move {
            let stored = async { self.image.stored_snapshots(&self.image.header(next).await?, next).await };
            let stored = stored.await.map_err(|error| self.image.named(error))?;
            Ok(stored.list.all().iter().map(info).collect())
        })
    }

    fn create<'a>(&'a self, new: NewSnapshot, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        self.edit(Edit::Create(new), next)
    }

    fn apply<'a>(&'a self, wanted: &'a str, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        self.edit(Edit::Apply(wanted.to_owned()), next)
    }

    fn delete<'a>(&'a self, id: &'a str, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        self.edit(Edit::Delete(id.to_owned()), next)
    }
}

impl Qcow2 {
    fn edit<'a>(&'a self, edit: Edit, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            if !self.changing {
                let context = "the image is open read-only";
                return Err(self.image.named(BlockError::new(ErrorKind::ReadOnly, context)));
            }
            let work = self.image.in_background(next, move |image, next| {
                Box::pin(async move { image.edit_snapshots(edit, next).await })
            });
            work.await.map_err(|error| self.image.refused(error, next))
        })
    }
}

/// Autoclear bits that no image with snapshots has: QEMU 10.0 clears what it does not know before it reads the list of
/// snapshots, and where that is for a repair, it writes that there are none.
pub(super) const OF_OURS: u64 = cache::AUTOCLEAR | BackingMark::AUTOCLEAR;

impl Image {
    async fn edit_snapshots(self: &Arc<Self>, edit: Edit, next: Next<'_>) -> Result<()> {
        if self.is_apart() {
            let context = "an image with a data file has no internal snapshots: its data lies outside";
            return Err(BlockError::new(ErrorKind::Unsupported, context));
        }
        let _alone = next.lock_all().await;
        self.check_wanted(&edit, next).await?;
        if matches!(edit, Edit::Apply(_)) {
            check_bitmaps(&self.header(next).await?)?;
        }
        self.begin_change(next).await?;
        // Those who store bitmaps take clusters, too.
        let _hand = self.bitmaps.hand().await?;
        let still = self.keep_still(next).await?;
        self.alone(async |turn| {
            self.flush_once(turn, next).await?;
            // What is freed for it may have turned out to be free.
            self.writer()?.check_sound()?;
            let before = self.header(next).await?;
            let edited = self.write_edited(&before, edit, turn, next).await;
            // Whatever becomes of it, what lies there now is not zeros.
            let written = next.size(FILE_CHILD)?.div_ceil(self.geometry.cluster_size());
            self.writer()?.books.lock().refcounts.soil(written);
            let edited = edited?;
            self.barrier(Rule::SwitchBarrier, next).await?;
            if edited.switch.snapshots.count > 0 {
                let edit = HeaderEdit::ClearAutoclear(before.features.autoclear & OF_OURS);
                self.write_header(&edit, Rule::HeaderBarrier, turn, next).await?;
            }
            let structures = self.structures_of(before, &edited, next).await?;
            let edit = HeaderEdit::Switch(edited.switch);
            if self.write_header(&edit, Rule::LastBarrier, turn, next).await.is_err() {
                still.for_ever();
                return Err(unknown());
            }
            self.install(&edited, structures, next);
            if self.writer()?.passes.snapshot {
                // It is done; what stays in the file is free there.
                let _ = self.give_back(&edited.refcounts, next).await;
            }
            Ok(())
        })
        .await
    }

    /// Fails where the snapshot that is wanted has no table of its own, before anything is changed because of that.
    async fn check_wanted(&self, edit: &Edit, next: Next<'_>) -> Result<()> {
        let list = self.stored_snapshots(&self.header(next).await?, next).await?.list;
        let wanted = match edit {
            Edit::Create(_) => None,
            Edit::Apply(wanted) => list.find(wanted).map(|index| &list.all()[index]),
            Edit::Delete(id) => list.all().iter().find(|snapshot| snapshot.id == id.as_bytes()),
        };
        wanted.map_or(Ok(()), |snapshot| snapshot.check_l1(self.geometry.cluster_bits()))
    }

    /// Writes all that the edit makes new.
    async fn write_edited(&self, header: &Header, edit: Edit, turn: &Turn, next: Next<'_>) -> Result<Edited> {
        let (from, blocks_max) = {
            let books = self.writer()?.books.lock();
            (books.refcounts.search_from(), books.refcounts.blocks_max())
        };
        let Stored { mut list, run } = self.stored_snapshots(header, next).await?;
        let counts = Recount::new(self, header.refcount_table, from, blocks_max, (turn, next)).await?;
        let mut renewal = Renewal { image: self, counts, turn, next };
        let active = renewal.read_l1(header.l1_offset, header.l1_entries).await?;
        let (l1, virtual_size) = match edit {
            Edit::Create(new) => {
                (renewal.create(&active, &mut list, &new, header).await?, header.virtual_size)
            }
            Edit::Apply(wanted) => {
                let snapshot = &list.all()[list.find(&wanted).ok_or_else(|| none(&wanted))?];
                renewal.apply(&active, snapshot, header).await?
            }
            Edit::Delete(id) => {
                let index = list.all().iter().position(|s| s.id == id.as_bytes()).ok_or_else(|| none(&id))?;
                (renewal.delete(&active, &list.remove(index)).await?, header.virtual_size)
            }
        };
        let table = renewal.store(&list.bytes()).await?;
        renewal.counts.change_run(run, Change::Less).await?;
        let refcounts = renewal.counts.finish().await?;
        let switch = Switch {
            virtual_size,
            l1_offset: l1.offset,
            l1_entries: l1.words.len() as u32,
            refcount_table: refcounts.place,
            snapshots: SnapshotTable { offset: table, count: list.all().len() as u32 },
        };
        let list = list.all().iter().map(info).collect();
        Ok(Edited { switch, l1: l1.words, refcounts, list })
    }

    /// Where the structures are that the header is about to point to.
    async fn structures_of(&self, before: Header, edited: &Edited, next: Next<'_>) -> Result<Structures> {
        let Switch { virtual_size, l1_offset, l1_entries, refcount_table, snapshots } = edited.switch;
        let header = Header { virtual_size, l1_offset, l1_entries, refcount_table, snapshots, ..before };
        let tables = (&word_bytes(&edited.l1)[..], &word_bytes(&edited.refcounts.table)[..]);
        let watched = self.writer()?.books.lock().refcounts.structures.watched();
        let file_len = next.size(FILE_CHILD)?;
        let mut found = survey::of_tables(&header, file_len, tables, watched);
        let read = async |range: ByteRange| self.read_file(range.start(), range.len() as usize, next).await;
        // What cannot be read is not looked after.
        let _ = survey::add_snapshots(&header, file_len, &mut found, read).await;
        Ok(found)
    }

    pub(super) fn listed(&self) -> MutexGuard<'_, Vec<SnapshotInfo>> {
        // It is replaced as a whole.
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in memory is what the header points to.
    fn install(&self, edited: &Edited, structures: Structures, next: Next<'_>) {
        let Some(writer) = &self.writer else { return };
        self.listed().clone_from(&edited.list);
        let Switch { virtual_size, l1_offset, .. } = edited.switch;
        let end = self.host(edited.refcounts.end).0;
        self.file_len.fetch_max(end, Ordering::SeqCst);
        self.data_len.fetch_max(end, Ordering::SeqCst);
        let l1 = L1 { offset: l1_offset, words: edited.l1.clone() };
        let mut books = writer.books.lock();
        self.l1.replace(&l1.words);
        self.l1_offset.store(l1_offset.0, Ordering::Release);
        self.size.store(virtual_size, Ordering::Release);
        self.bound.store(virtual_size, Ordering::Release);
        self.slices.forget_all();
        self.inflated.forget_all();
        writer.generations.bump_all();
        let Recounted { place, table, end, .. } = &edited.refcounts;
        let place =
            Run { first: place.offset.0 >> self.geometry.cluster_bits(), count: place.clusters.into() };
        let l1 = l1.run(&self.geometry);
        books.switch(NewTables { table: table.clone(), place, l1, end: *end, structures }, next.reclaim());
    }

    /// The snapshots as the file with that header has them.
    async fn stored_snapshots(&self, header: &Header, next: Next<'_>) -> Result<Stored> {
        let read = async |range: ByteRange| self.read_file(range.start(), range.len() as usize, next).await;
        stored::stored(header, next.size(FILE_CHILD)?, read).await
    }
}

impl Renewal<'_> {
    /// The present state is referred to twice. The snapshot keeps the L1 table; the active one is new.
    async fn create(
        &mut self,
        active: &L1,
        list: &mut SnapshotList,
        new: &NewSnapshot,
        header: &Header,
    ) -> Result<L1> {
        list.add(new, header.virtual_size, active.offset, active.words.len() as u32)?;
        self.count(active, Change::More).await?;
        let words = self.renew(active).await?;
        Ok(L1 { offset: self.store_l1(&words).await?, words })
    }

    /// The snapshot's state is referred to twice, the present one no more. Answers also how large the disk is then.
    async fn apply(&mut self, active: &L1, snapshot: &Snapshot, header: &Header) -> Result<(L1, u64)> {
        let size = self.image.geometry.of_snapshot(snapshot)?.virtual_size();
        let size = snapshot.disk_size.map_or(header.virtual_size, |_| size);
        let mut l1 = self.read_l1(snapshot.l1_offset, snapshot.l1_entries).await?;
        self.count(&l1, Change::More).await?;
        self.count(active, Change::Less).await?;
        self.counts.change_run(active.run(&self.image.geometry), Change::Less).await?;
        // The table in memory only ever gets longer.
        l1.words.resize(l1.words.len().max(active.words.len()), 0);
        let words = self.renew(&l1).await?;
        Ok((L1 { offset: self.store_l1(&words).await?, words }, size))
    }

    /// The snapshot's state is referred to no more.
    async fn delete(&mut self, active: &L1, snapshot: &Snapshot) -> Result<L1> {
        let l1 = self.read_l1(snapshot.l1_offset, snapshot.l1_entries).await?;
        self.count(&l1, Change::Less).await?;
        self.counts.change_run(l1.run(&self.image.geometry), Change::Less).await?;
        let words = self.renew(active).await?;
        if words == active.words {
            return Ok(active.clone());
        }
        self.counts.change_run(active.run(&self.image.geometry), Change::Less).await?;
        Ok(L1 { offset: self.store_l1(&words).await?, words })
    }

    async fn store_l1(&mut self, words: &[u64]) -> Result<qcow2::HostOffset> {
        self.store(&word_bytes(words)).await
    }
}

/// Bitmaps would not say what has changed.
fn check_bitmaps(header: &Header) -> Result<()> {
    match header.bitmaps {
        Some(bitmaps) if bitmaps.count > 0 => {
            let context = "it has dirty bitmaps, which would not say what has changed: remove them first";
            Err(BlockError::new(ErrorKind::Busy, context))
        }
        _ => Ok(()),
    }
}

#[cold]
fn none(wanted: &str) -> BlockError {
    BlockError::new(ErrorKind::NotFound, format!("it has no internal snapshot '{wanted}'"))
}

#[cold]
fn unknown() -> BlockError {
    let context = "its header could not be made durable, so nobody knows which tables it points to: look after its storage, then close the image and open it again";
    BlockError::new(ErrorKind::Io, context)
}
