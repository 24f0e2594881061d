//! Zeroing and discarding. Whole clusters change their entries; what is left of a zeroing at its ends is written.
//!
//! The core holds the range lock of all clusters concerned.
//!
//! Invariant: no cluster becomes unallocated again. Requests that began before the backing child was taken away go on
//! with it: they would find its bytes there, and copy-on-read would store them.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use block::{ByteRange, Result};
use flow::{Flags, Format, Next, Op, Request};
use io::Lease;

use super::clusters::push_cluster;
use super::table::{self, Entry};
use super::{FILE, MemoryFormat};

impl MemoryFormat {
    /// Drops the whole clusters inside the range.
    pub(super) async fn discard(&self, rq: Request, next: Next<'_>) -> Result<()> {
        let (_, whole, _) = self.split(rq.range);
        self.replace(whole, Entry::Zero, next).await;
        Ok(())
    }

    /// Makes the range read as zeros.
    pub(super) async fn zero(&self, rq: Request, next: Next<'_>) -> Result<()> {
        let (head, whole, tail) = self.split(rq.range);
        self.zero_part(rq, head, next).await?;
        self.replace(whole, Entry::Zero, next).await;
        self.zero_part(rq, tail, next).await
    }

    /// What lies before, in and behind whole clusters. The last cluster is whole when it is covered to the
    /// virtual end.
    fn split(&self, range: ByteRange) -> (ByteRange, ByteRange, ByteRange) {
        let cluster = self.cluster();
        let start = cluster.up(range.start());
        let end =
            if range.end() >= self.size() { cluster.up(range.end()) } else { cluster.down(range.end()) };
        if start >= end {
            // Within one cluster, or across the border of two.
            let border = start.min(range.end());
            return (
                ByteRange::between(range.start(), border),
                ByteRange::default(),
                ByteRange::between(border, range.end()),
            );
        }
        (
            ByteRange::between(range.start(), start),
            ByteRange::between(start, end),
            ByteRange::between(end, range.end()),
        )
    }

    /// Gives all clusters of `whole` the same entry, which is not data; region by region, so that a large range
    /// keeps nobody from running. What reads as zeros because nothing is there stays so.
    pub(super) async fn replace(&self, whole: ByteRange, entry: Entry, next: Next<'_>) {
        for part in table::by_region(whole) {
            self.replace_now(part, entry, next);
            if part.end() < whole.end() {
                io::yield_now().await;
            }
        }
    }

    fn replace_now(&self, part: ByteRange, entry: Entry, next: Next<'_>) {
        let mut books = self.clusters.books();
        let mut old = Vec::new();
        let backed = self.has_backing(next);
        let nothing_there = |at: &u64| !backed && self.table.get(*at) == Entry::Unallocated;
        for offset in self.each_cluster(part).filter(|at| !nothing_there(at)) {
            if let Entry::Data(cluster) = self.table.set(offset, entry) {
                push_cluster(&mut old, cluster);
            }
        }
        self.table.bump(part);
        books.retire(old, next.reclaim());
    }

    /// Zeroes a part of one cluster.
    pub(super) async fn zero_part(&self, rq: Request, part: ByteRange, next: Next<'_>) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        match self.table.get(part.start()) {
            Entry::Data(host) => self.overwrite(rq, part, host, next).await,
            Entry::Unallocated if next.backing().is_some() => self.copy_around(rq, part, next).await,
            Entry::Unallocated if self.has_backing(next) => {
                self.replace_now(self.around(part), Entry::Zero, next);
                Ok(())
            }
            Entry::Zero | Entry::Unallocated => Ok(()),
        }
    }

    /// Whether a backing child shows where nothing is: to this request, or to one of another view.
    fn has_backing(&self, next: Next<'_>) -> bool {
        if next.backing().is_some() {
            self.backed.store(true, SeqCst);
        }
        self.backed.load(SeqCst)
    }

    /// Writes zeros in place. Written rather than zeroed: an abandoned write holds the cluster until it has landed.
    async fn overwrite(&self, rq: Request, part: ByteRange, host: u64, next: Next<'_>) -> Result<()> {
        let inside = part.start() - self.cluster().down(part.start());
        let mut zeros = Lease::zeroed(part.len() as usize);
        zeros.carry(next.reclaim().waits().enter_owned());
        let at = part.at(host * self.cluster().bytes() + inside);
        next.execute(FILE, plain(rq, Op::Write, at), zeros).await.0
    }

    /// Copies the cluster from the backing child with `part` zeroed.
    async fn copy_around(&self, rq: Request, part: ByteRange, next: Next<'_>) -> Result<()> {
        let Some(backing) = next.backing() else { return Ok(()) };
        let whole = self.around(part);
        let guest = self.clipped(whole);
        let mut bytes = Lease::zeroed(whole.len() as usize);
        let old = bytes.split_to(guest.len() as usize);
        let (result, mut old) = next.execute(backing, plain(rq, Op::Read, guest), old).await;
        result?;
        old.join(bytes);
        let from = (part.start() - whole.start()) as usize;
        old[from..from + part.len() as usize].fill(0);
        let room = Arc::new(self.take(1, next).await?);
        old.carry(room.clone());
        let at = whole.at(room.run.first * self.cluster().bytes());
        next.execute(FILE, plain(rq, Op::Write, at), old).await.0?;
        self.map_absent(whole.start(), &room);
        Ok(())
    }
}

/// A request of our own on behalf of `rq`.
fn plain(rq: Request, op: Op, range: ByteRange) -> Request {
    let mut own = rq.on(range);
    (own.op, own.flags) = (op, Flags::NONE);
    own
}
