//! Taking host clusters, and giving them back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{Next, Op, Request};
use futures_util::{StreamExt, stream};
use io::Lease;
use qcow2::FILE_CHILD;

use super::super::image::Image;
use super::super::space::Run;
use super::super::space::refcounts::{Refcounts, Took};
use super::books::{Books, Locked, Settled};

/// How often a file that cannot grow is looked through again after a flush, for what readers have left meanwhile.
const PATIENCE: u32 = 100;
/// Runs that leave the file at a time.
const PUNCHES_MAX: usize = 16;
const PAUSE: Duration = Duration::from_millis(1);

/// Clusters that are counted and that nothing points to, yet or any more. Dropped unless they are kept, they are given
/// back.
pub(crate) struct Room {
    pub(crate) run: Run,
    /// It reads as zeros where nobody has written yet.
    pub(crate) clean: bool,
    books: Arc<Locked>,
    kept: AtomicBool,
}

impl Room {
    /// Notes that somebody else sees to them: a table points here now, or they are free.
    pub(crate) fn keep(&self) {
        self.kept.store(true, Ordering::SeqCst);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::SeqCst) {
            self.books.lock().abandon(self.run);
        }
    }
}

/// Clusters that were dropped and count until their bytes have left the file. Dropped before that, they are freed as if
/// they had never been mapped.
struct Holes {
    books: Arc<Locked>,
    runs: Vec<Run>,
}

impl Holes {
    fn each(mut self) -> Vec<Arc<Room>> {
        let per_block = self.books.lock().refcounts.per_block();
        join(&mut self.runs, per_block);
        let room = |run| Room { run, clean: false, books: self.books.clone(), kept: AtomicBool::new(false) };
        std::mem::take(&mut self.runs).into_iter().map(|run| Arc::new(room(run))).collect()
    }
}

impl Drop for Holes {
    fn drop(&mut self) {
        let mut books = self.books.lock();
        self.runs.iter().for_each(|run| books.abandon(*run));
    }
}

impl Image {
    /// Takes up to `count` clusters in one run.
    pub(crate) async fn take(self: &Arc<Self>, count: u64, next: Next<'_>) -> Result<Arc<Room>> {
        self.take_as(next, |refcounts, end| refcounts.take(count, end)).await
    }

    /// Takes `count` clusters that lie together.
    pub(crate) async fn take_together(self: &Arc<Self>, count: u64, next: Next<'_>) -> Result<Arc<Room>> {
        let take = |refcounts: &mut Refcounts, end| match count < refcounts.per_block() {
            true => refcounts.take_at_least(count, count, end),
            false => refcounts.take_behind(count, end),
        };
        self.take_as(next, take).await
    }

    /// Takes `len` bytes, at most a cluster, for compressed data; answers where they begin.
    pub(crate) async fn take_bytes(self: &Arc<Self>, len: u64, next: Next<'_>) -> Result<(u64, Arc<Room>)> {
        let (mut at, most) = (0, self.geometry.compressed_end() >> self.geometry.cluster_bits());
        let pack = |refcounts: &mut Refcounts, end: u64| {
            let (took, offset) = refcounts.pack(len, end.min(most))?;
            at = offset;
            Ok(took)
        };
        let room = self.take_as(next, pack).await?;
        Ok((at, room))
    }

    /// Takes what `take` asks for; it is told at which cluster the file ends.
    async fn take_as(
        self: &Arc<Self>,
        next: Next<'_>,
        mut take: impl FnMut(&mut Refcounts, u64) -> Result<Took>,
    ) -> Result<Arc<Room>> {
        let writer = self.writer()?;
        writer.check_sound()?;
        let cluster_bits = self.geometry.cluster_bits();
        let mut tries = 0;
        loop {
            match tries {
                0 => self.settle(next).await,
                _ => self.settle_all(next).await,
            }
            let end = match next.grows(FILE_CHILD)? {
                // Offsets in files are signed, and those of the format have 56 bits.
                true => 1 << (55 - cluster_bits),
                false => next.size(FILE_CHILD)? >> cluster_bits,
            };
            let took = {
                let mut books = writer.books.lock();
                let took = self.own(take(&mut books.refcounts, end))?;
                if let Took::Run { run, clean } = took {
                    return Ok(self.room(run, clean, &mut books));
                }
                took
            };
            match took {
                Took::Load(block) => self.load_block(block, next).await?,
                _ if tries < PATIENCE && writer.books.lock().is_waiting() => {
                    match tries {
                        0 => self.flush(next).await?,
                        _ => io::sleep(PAUSE).await,
                    }
                    tries += 1;
                }
                _ => return Err(full()),
            }
        }
    }

    fn room(&self, run: Run, clean: bool, _books: &mut Books) -> Arc<Room> {
        // Tables may point there as soon as anybody knows of it.
        let end = self.host(run.first + run.count).0;
        self.file_len.fetch_max(end, Ordering::SeqCst);
        if !self.is_apart() {
            self.data_len.fetch_max(end, Ordering::SeqCst);
        }
        let books = self.writer.as_ref().map(|writer| writer.books.clone());
        // Only who has a writer takes clusters.
        let books = books.expect("a cluster was taken from the books");
        Arc::new(Room { run, clean, books, kept: AtomicBool::new(false) })
    }

    /// Frees what nobody can see any more, but for what has to leave the file first.
    async fn settle(self: &Arc<Self>, next: Next<'_>) {
        self.free(None, next).await;
    }

    /// Frees what nobody can see any more, and gives the bytes that are wanted no more back to the file. They are
    /// counted until then, so that nobody writes there meanwhile.
    pub(crate) async fn settle_all(self: &Arc<Self>, next: Next<'_>) {
        let Some(writer) = &self.writer else { return };
        let mut holes = Holes { books: writer.books.clone(), runs: Vec::new() };
        self.free(Some(&mut holes.runs), next).await;
        let punch = |hole| self.punch(hole, next);
        stream::iter(holes.each().into_iter().map(punch)).buffer_unordered(PUNCHES_MAX).collect::<()>().await;
    }

    /// What cannot be freed because its refcounts cannot be read leaks.
    async fn free(self: &Arc<Self>, mut holes: Option<&mut Vec<Run>>, next: Next<'_>) {
        let Some(writer) = &self.writer else { return };
        loop {
            let seen = writer.is_seen_unguarded();
            let settled = writer.books.lock().settle(next.reclaim(), seen, holes.as_deref_mut());
            let Settled::Load(block) = settled else { return self.look_at_lies(next) };
            if let Err(error) = self.load_block(block, next).await {
                self.refused(error, next);
                writer.books.lock().leak_in(block, next.reclaim(), seen);
            }
        }
    }

    /// Stops writing where clusters were to be freed that counted as free.
    fn look_at_lies(self: &Arc<Self>, next: Next<'_>) {
        let lie = self.writer.as_ref().and_then(|writer| writer.books.lock().refcounts.take_lie());
        if let Some(lie) = lie {
            self.stop_writing(&lie, next);
        }
    }

    async fn punch(self: &Arc<Self>, hole: Arc<Room>, next: Next<'_>) {
        let (Some(writer), bits) = (&self.writer, self.geometry.cluster_bits()) else { return };
        let run = hole.run;
        let range = ByteRange::new(run.first << bits, run.count << bits);
        let mut lease = Lease::empty();
        // Given up, nobody writes there before the file has done it.
        lease.carry(hole.clone());
        // A file that keeps them takes more space than it has to, that is all.
        let (_, lease) = next.execute(FILE_CHILD, Request::new(Op::Discard, range), lease).await;
        drop(lease);
        loop {
            let settled = writer.books.lock().punched(run);
            let Settled::Load(block) = settled else { break };
            if self.load_block(block, next).await.is_err() {
                // It leaks.
                break;
            }
        }
        hole.keep();
    }

    /// Reads a refcount block, unless it is here.
    pub(crate) async fn load_block(&self, block: u64, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        let _alone = writer.block_loads.exclusive(ByteRange::new(block, 1)).await;
        let file_len = next.size(FILE_CHILD)?;
        let place = writer.books.lock().refcounts.to_load(block, file_len);
        let Some(offset) = self.own(place)? else { return Ok(()) };
        let cluster = self.geometry.cluster_size() as usize;
        let bytes = self.read_file(offset, cluster, next).await;
        let bytes =
            bytes.map_err(|e| e.within(format_args!("cannot read its refcount block at {offset:#x}")))?;
        writer.books.lock().refcounts.keep(block, &bytes)
    }
}

/// Sorts runs and makes one of neighbours that the same refcount block counts.
fn join(runs: &mut Vec<Run>, per_block: u64) {
    runs.sort_unstable_by_key(|run| run.first);
    runs.dedup_by(|next, before| {
        let goes_on = before.first + before.count == next.first && !next.first.is_multiple_of(per_block);
        if goes_on {
            before.count += next.count;
        }
        goes_on
    });
}

#[cold]
pub(crate) fn full() -> BlockError {
    let context =
        "no free cluster is left in its file, which cannot grow: discard something or give it a larger one";
    BlockError::new(ErrorKind::NoSpace, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_leave_the_file_together_as_far_as_a_block_counts_them() {
        let of = |list: &[(u64, u64)]| {
            list.iter().map(|(first, count)| Run { first: *first, count: *count }).collect()
        };
        let mut runs: Vec<Run> = of(&[(5, 1), (16, 2), (9, 1), (6, 3), (14, 2), (20, 1)]);
        join(&mut runs, 16);
        assert_eq!(runs, of(&[(5, 5), (14, 2), (16, 2), (20, 1)]));
    }
}
