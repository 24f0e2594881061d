//! Making the tables durable.
//!
//! Order: what is to be written is copied first, slices before refcounts; then
//!
//! 1. refcount blocks, barrier: it covers the data (in a data file: a barrier of that) and the new L2 tables as well,
//! 2. entries of the refcount table, where blocks are new, barrier (a table that has moved: header, barrier),
//! 3. slices of L2 tables and entries of the L1 table, barrier.
//!
//! An L1 entry needs no barrier of its own: new L2 tables are on disk, empty or as those that they are copies of, and
//! durably so since the first one.
//!
//! Invariants:
//! * What a copied entry points to was written, and counted, before it was copied. So nothing on disk ever points to
//!   what is not durable, and it does not matter what is changed while a flush is under way.
//! * Flushes run one after the other; those who ask while one runs share the next ([`super::flushes`]).
//! * A flush whose writes failed leaves everything to the next one, and all who asked for it hear of it. After one
//!   whose barrier failed there is no next one ([`super::writer::Writer::lose`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{ChildIndex, Result};
use flow::sabotage::{self, Rule};
use flow::{Next, Request};
use futures_util::{StreamExt, TryStreamExt, stream};
use io::Lease;
use io::sync::oneshot;
use qcow2::{DATA_FILE_CHILD, FILE_CHILD, HeaderEdit};

use super::super::image::Image;
use super::books::{Locked, Pressure, Taken};
use super::flushes::Flushes;
use super::packed::Packed;
use super::writer::{Turn, stopped};

/// Writes of tables that are under way at a time.
const WRITES_MAX: usize = 16;

/// The one who runs flushes. Dropped half-way or before it began (the thread ends), those who wait hear of it and
/// others may go on.
struct Runner {
    image: Arc<Image>,
    /// Nobody wants another one, and whoever does later runs it.
    done: bool,
}

impl Runner {
    fn flushes(&self) -> Option<&Flushes> {
        self.image.writer.as_ref().map(|writer| &writer.flushes)
    }

    /// Who waits for the next one; `None` when nobody wants any.
    fn begin(&mut self) -> Option<Vec<oneshot::Sender<Result<()>>>> {
        let waiting = self.flushes()?.begin();
        self.done = waiting.is_none();
        waiting
    }

    fn end(&self, waiting: Vec<oneshot::Sender<Result<()>>>, result: &Result<()>) {
        if let Some(flushes) = self.flushes() {
            flushes.end(waiting, result);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(flushes) = self.flushes().filter(|_| !self.done) {
            flushes.give_up();
        }
    }
}

/// A flush that has begun. Whatever does not end well, or not at all, is left to the next one.
struct UnderWay<'a> {
    books: &'a Locked,
    taken: Taken,
    well: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.books.lock().end_flush(&self.taken, self.well);
    }
}

impl Image {
    /// Makes all that was acknowledged before durable.
    pub(crate) async fn flush(self: &Arc<Self>, next: Next<'_>) -> Result<()> {
        let (tell, told) = oneshot::channel();
        self.ask_for_flush(Some(tell), next)?;
        told.await.map_err(|_| stopped())?
    }

    /// Begins a flush that nobody waits for, unless one is under way.
    pub(crate) fn begin_flush(self: &Arc<Self>, next: Next<'_>) {
        let busy = self.writer.as_ref().is_none_or(|writer| writer.flushes.is_busy());
        if !busy {
            // It cannot fail: there is a writer.
            let _ = self.ask_for_flush(None, next);
        }
    }

    /// Waits while too much is not durable.
    pub(crate) async fn wait_for_flush(self: &Arc<Self>, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        loop {
            let ended = writer.flushes.next_end();
            let pressure = writer.books.lock().pressure();
            match pressure {
                Pressure::Low => return Ok(()),
                Pressure::High => {
                    self.begin_flush(next);
                    return Ok(());
                }
                Pressure::Full => {}
            }
            if writer.flushes.is_under_way() {
                ended.await;
            } else {
                self.flush(next).await?;
            }
        }
    }

    fn ask_for_flush(
        self: &Arc<Self>,
        who: Option<oneshot::Sender<Result<()>>>,
        next: Next<'_>,
    ) -> Result<()> {
        if self.writer()?.flushes.ask(who) {
            let runner = Runner { image: self.clone(), done: false };
            self.spawn(next, |image, next| Box::pin(async move { image.run_flushes(runner, next).await }));
        }
        Ok(())
    }

    async fn run_flushes(self: &Arc<Self>, mut runner: Runner, next: Next<'_>) {
        while let Some(waiting) = runner.begin() {
            let mut waiting = Some(waiting);
            let result = self.alone(async |turn| {
                self.flush_once(turn, next).await?;
                runner.end(waiting.take().unwrap_or_default(), &Ok(()));
                // What it made durable that was dropped goes now: the next flush may be long in coming.
                self.settle_all(next).await;
                Ok(())
            });
            let result = result.await;
            if let Some(waiting) = waiting {
                runner.end(waiting, &result);
            }
        }
    }

    /// One flush, from what there is now.
    pub(crate) async fn flush_once(self: &Arc<Self>, turn: &Turn, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        self.settle_all(next).await;
        let mut flush =
            UnderWay { books: &writer.books, taken: writer.books.lock().begin_flush(), well: false };
        self.write_tables(&flush.taken, turn, next).await?;
        flush.well = true;
        Ok(())
    }

    async fn write_tables(&self, taken: &Taken, turn: &Turn, next: Next<'_>) -> Result<()> {
        let slice_bytes = self.geometry.slice_bytes();
        let mut tables = Packed::with_capacity(taken.slices.len() * slice_bytes);
        for slice in &taken.slices {
            slice.store(tables.room(slice.address().host.0, slice_bytes));
        }
        for number in &taken.l1 {
            let (at, bytes) = self.l1.piece(*number);
            tables.push(self.l1_offset.load(Ordering::Acquire) + at, &bytes);
        }
        let rule = if tables.is_empty() { Rule::PlainBarrier } else { Rule::DataBarrier };
        self.write_refcounts(rule, turn, next).await?;
        self.write_all(&tables, Rule::LastBarrier, turn, next).await
    }

    /// Writes refcounts, and makes them durable with all that was written before.
    async fn write_refcounts(&self, rule: Rule, turn: &Turn, next: Next<'_>) -> Result<()> {
        let books = &self.writer()?.books;
        let (blocks, table) = books.lock().refcounts.begin_write();
        let mut writes = Packed::default();
        for block in &blocks {
            let stored = books.lock().refcounts.store(*block);
            stored.into_iter().for_each(|(at, bytes)| writes.push(at, &bytes));
        }
        let (mut entries, mut moved_to) = (Packed::default(), None);
        if let Some(table) = table {
            moved_to = table.moved_to;
            // Nothing points to one that has moved yet.
            let with = if moved_to.is_some() { &mut writes } else { &mut entries };
            with.push(table.offset, &table.bytes);
        }
        self.write_each(&writes, turn, next).await?;
        if self.is_apart() {
            self.barrier_of(DATA_FILE_CHILD, Rule::DataFileBarrier, next).await?;
        }
        self.barrier(rule, next).await?;
        self.write_all(&entries, Rule::RefcountBarrier, turn, next).await?;
        let Some(place) = moved_to else { return Ok(()) };
        let clusters = u32::try_from(place.count).unwrap_or(u32::MAX);
        let edit = HeaderEdit::RefcountTable { offset: self.host(place.first), clusters };
        self.write_header(&edit, Rule::TableMoveBarrier, turn, next).await?;
        let mut books = books.lock();
        for before in books.refcounts.moved(place) {
            books.abandon(before);
        }
        Ok(())
    }

    /// Writes these bytes of the file, and makes them durable; without any there is nothing to be done.
    async fn write_all(&self, writes: &Packed, rule: Rule, turn: &Turn, next: Next<'_>) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        self.write_each(writes, turn, next).await?;
        self.barrier(rule, next).await
    }

    async fn write_each(&self, writes: &Packed, turn: &Turn, next: Next<'_>) -> Result<()> {
        let write = |(at, bytes)| self.write_table(at, bytes, turn, next);
        stream::iter(writes.writes().map(write)).buffer_unordered(WRITES_MAX).try_collect::<()>().await
    }

    /// Writes a piece of a table. The turn lasts until it has landed, whatever becomes of us.
    pub(crate) async fn write_table(
        &self,
        at: u64,
        mut bytes: Lease,
        turn: &Turn,
        next: Next<'_>,
    ) -> Result<()> {
        bytes.carry(turn.clone());
        self.write_file(at, bytes, next).await
    }

    /// Makes durable what was written so far; `rule` is what breaks without.
    pub(crate) async fn barrier(&self, rule: Rule, next: Next<'_>) -> Result<()> {
        self.barrier_of(FILE_CHILD, rule, next).await
    }

    /// The same for another file.
    async fn barrier_of(&self, child: ChildIndex, rule: Rule, next: Next<'_>) -> Result<()> {
        if sabotage::broken(rule) {
            return Ok(());
        }
        let writer = self.writer()?;
        writer.check_kept()?;
        let flushed = next.execute(child, Request::flush(), Lease::empty()).await.0;
        flushed.inspect_err(|_| writer.lose())
    }
}
