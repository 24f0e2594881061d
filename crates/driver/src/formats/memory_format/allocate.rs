//! Room for new clusters: prepared here, mapped by commit.

use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{Next, Op, Prepared, Request};
use io::Lease;

use super::clusters::{Full, Room, push_cluster};
use super::table::Entry;
use super::{FILE, MemoryFormat};

/// Most bytes prepared at a time.
const ROOM_MAX: u64 = 2 << 20;
/// How long a full file waits for the readers of freed clusters. It has to end: the reader may be waiting for us.
const PATIENCE: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

impl MemoryFormat {
    /// Room for the first clusters of `range`; `None` when the first is there by now.
    pub(super) async fn make_room(&self, range: ByteRange, next: Next<'_>) -> Result<Option<Prepared>> {
        if self.misses.strikes() {
            io::yield_now().await;
        }
        let wanted = self.absent(self.around(range).head(ROOM_MAX.max(self.cluster().bytes())));
        if wanted.is_empty() {
            return Ok(None);
        }
        let room = Arc::new(self.take(wanted.len() / self.cluster().bytes(), next).await?);
        let whole = wanted.head(room.run.count * self.cluster().bytes());
        let guest = self.clipped(whole);
        if guest.is_empty() {
            return Ok(None);
        }
        let tail = ByteRange::between(guest.end(), whole.end());
        let offset = room.run.first * self.cluster().bytes();
        self.zero_tail(&room, tail.at(offset + guest.len()), next).await?;
        Ok(Some(Prepared { guest, child: FILE, offset, token: Box::new(room) }))
    }

    /// The clusters in front of `range` (whole clusters) up to the first that has data.
    fn absent(&self, range: ByteRange) -> ByteRange {
        let step = self.cluster().bytes();
        let mut offsets = (range.start()..range.end()).step_by(step as usize);
        let end = offsets.find(|at| matches!(self.table.get(*at), Entry::Data(_)));
        ByteRange::between(range.start(), end.unwrap_or(range.end()))
    }

    /// Takes a run of up to `count` clusters.
    pub(super) async fn take(&self, count: u64, next: Next<'_>) -> Result<Room> {
        let mut tries = 0;
        loop {
            let end = match next.grows(FILE)? {
                true => u64::MAX / self.cluster().bytes(),
                false => next.size(FILE)? / self.cluster().bytes(),
            };
            match self.clusters.take(count, end, next.reclaim()) {
                Ok(room) => return Ok(room),
                Err(Full::Waiting) if tries < PATIENCE => {
                    tries += 1;
                    io::sleep(PAUSE).await;
                }
                Err(why) => return Err(self.full(why)),
            }
        }
    }

    #[cold]
    fn full(&self, why: Full) -> BlockError {
        let context = match why {
            Full::Quota => format!("the quota of {} bytes is used up", self.clusters.quota().unwrap_or(0)),
            Full::File => "the file child is full: discard something or give it a larger one".to_owned(),
            Full::Waiting => "the file child is full, and what was freed is still being read".to_owned(),
        };
        BlockError::new(ErrorKind::NoSpace, context)
    }

    /// Zeroes what lies between the virtual end and the end of its cluster, so that growing need not.
    async fn zero_tail(&self, room: &Arc<Room>, tail: ByteRange, next: Next<'_>) -> Result<()> {
        if tail.is_empty() {
            return Ok(());
        }
        let mut zeros = Lease::zeroed(tail.len() as usize);
        // The room stays taken until this buffer's I/O has ended, whatever becomes of us.
        zeros.carry(room.clone());
        next.execute(FILE, Request::new(Op::Write, tail), zeros).await.0
    }

    /// Maps what was prepared.
    pub(super) fn map_room(&self, prepared: Prepared, next: Next<'_>) -> Result<()> {
        let room = prepared.token.downcast::<Arc<Room>>().map_err(|_| {
            BlockError::new(ErrorKind::Invalid, "what was prepared belongs to another format")
        })?;
        self.map_clusters(prepared.guest.start(), &room, next);
        Ok(())
    }

    /// Points the clusters from the one at `guest` on to `room`.
    fn map_clusters(&self, guest: u64, room: &Room, next: Next<'_>) {
        let step = self.cluster().bytes();
        let whole = ByteRange::new(self.cluster().down(guest), room.run.count * step);
        let mut books = self.clusters.books();
        let mut old = Vec::new();
        for (guest, host) in self.each_cluster(whole).zip(room.run.first..) {
            if let Entry::Data(cluster) = self.table.set(guest, Entry::Data(host)) {
                push_cluster(&mut old, cluster);
            }
        }
        self.table.bump(whole);
        room.map(&mut books);
        books.retire(old, next.reclaim());
    }

    /// Points the unallocated cluster at `guest` to `room`; nothing happens when it is not unallocated any more.
    pub(super) fn map_absent(&self, guest: u64, room: &Room) {
        let mut books = self.clusters.books();
        if self.table.get(guest) == Entry::Unallocated {
            self.table.set(guest, Entry::Data(room.run.first));
            self.table.bump(ByteRange::new(guest, 1));
            room.map(&mut books);
        }
    }

    /// Offsets of the clusters around `range`.
    pub(super) fn each_cluster(&self, range: ByteRange) -> impl Iterator<Item = u64> + use<> {
        let whole = self.around(range);
        (whole.start()..whole.end()).step_by(self.cluster().bytes() as usize)
    }
}
