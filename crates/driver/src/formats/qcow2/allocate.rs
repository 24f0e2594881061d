//! Taking host clusters, and giving them back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::Next;
use qcow2::FILE_CHILD;

use super::books::{Books, Locked};
use super::image::Image;
use super::refcounts::{Run, Took};

/// How often a file that cannot grow is looked through again after a flush, for what readers have left meanwhile.
const PATIENCE: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// Clusters that are counted and that nothing points to yet. Dropped before something does, they are given back.
pub(super) struct Room {
    pub(super) run: Run,
    /// It reads as zeros where nobody has written yet.
    pub(super) clean: bool,
    books: Arc<Locked>,
    mapped: AtomicBool,
}

impl Room {
    /// Notes that a table points here now.
    pub(super) fn map(&self) {
        self.mapped.store(true, Ordering::SeqCst);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.mapped.load(Ordering::SeqCst) {
            self.books.lock().abandon(self.run);
        }
    }
}

impl Image {
    /// Takes up to `count` clusters in one run.
    pub(super) async fn take(self: &Arc<Self>, count: u64, next: Next<'_>) -> Result<Arc<Room>> {
        let writer = self.writer()?;
        let cluster_bits = self.geometry.cluster_bits();
        let mut tries = 0;
        loop {
            self.settle(next).await;
            let end = match next.grows(FILE_CHILD)? {
                // Offsets in files are signed, and those of the format have 56 bits.
                true => 1 << (55 - cluster_bits),
                false => next.size(FILE_CHILD)? >> cluster_bits,
            };
            let took = {
                let mut books = writer.books.lock();
                let took = books.refcounts.take(count, end)?;
                if let Took::Run { run, clean } = took {
                    return Ok(self.room(run, clean, &mut books));
                }
                took
            };
            match took {
                Took::Load(block) => self.load_block(block, next).await?,
                _ if tries < PATIENCE && writer.books.lock().freed.waiting() > 0 => {
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
        Arc::new(Room { run, clean, books, mapped: AtomicBool::new(false) })
    }

    /// Frees what nobody can see any more. What cannot be freed because its refcounts cannot be read leaks.
    pub(super) async fn settle(self: &Arc<Self>, next: Next<'_>) {
        let Some(writer) = &self.writer else { return };
        loop {
            let seen = writer.is_seen_unguarded();
            let Some(block) = writer.books.lock().settle(next.reclaim(), seen) else { return };
            if self.load_block(block, next).await.is_err() {
                writer.books.lock().freed.done();
            }
        }
    }

    /// Reads a refcount block, unless it is here.
    async fn load_block(&self, block: u64, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        let _alone = writer.block_loads.exclusive(ByteRange::new(block, 1)).await;
        let file_len = next.size(FILE_CHILD)?;
        let Some(offset) = writer.books.lock().refcounts.to_load(block, file_len)? else { return Ok(()) };
        let cluster = self.geometry.cluster_size() as usize;
        let bytes = self.read_file(offset, cluster, next).await;
        let bytes =
            bytes.map_err(|e| e.within(format_args!("cannot read its refcount block at {offset:#x}")))?;
        writer.books.lock().refcounts.keep(block, &bytes)
    }
}

#[cold]
fn full() -> BlockError {
    let context =
        "no free cluster is left in its file, which cannot grow: discard something or give it a larger one";
    BlockError::new(ErrorKind::NoSpace, context)
}
