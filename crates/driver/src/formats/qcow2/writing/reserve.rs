//! Room for guest data before there is any (preallocation): every cluster gets its place in the file at once.
//!
//! Order: a cluster is counted, reads as zeros in the file, and is mapped then; a flush makes it durable as it does
//! with data. What reads as zeros over a backing image keeps saying so where only tables are made.
//!
//! Invariant: what is reserved reads as before: zeros. Nobody allocates or drops anything meanwhile
//! ([`Next::lock_all`]).

use std::sync::Arc;

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{Flags, Next, Op, Preallocation, Request};
use io::Lease;
use qcow2::{Entry, NewEntry, Parts};

use super::super::image::Image;
use super::super::space::freed::Why;
use super::allocate::Room;
use super::books::Pin;

/// Most bytes that are written before a flush is waited for.
const WRITTEN_MAX: u64 = 64 << 20;
/// Bytes of zeros that are written at a time.
const ZEROES: u64 = 1 << 20;

impl Image {
    /// Gives each cluster of `range` that has none its place, and makes room there.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        range: ByteRange,
        how: Preallocation,
        next: Next<'_>,
    ) -> Result<()> {
        if how == Preallocation::Off {
            return Ok(());
        }
        let whole = self.cluster().around(range);
        // The first one may be new only in part. What a backing image shows in the other goes on showing.
        let first = if next.backing().is_none() { whole.start() } else { self.cluster().up(range.start()) };
        let mut rest = ByteRange::between(first, whole.end().max(first));
        while !rest.is_empty() {
            let (at, span) = (rest.start(), self.geometry.slice_span());
            let most = if how == Preallocation::Full { WRITTEN_MAX } else { span };
            let part = rest.head((span - at % span).min(most));
            let Some(pin) = self.pin(at, true, next).await? else {
                return Err(BlockError::new(ErrorKind::Corrupt, "no L2 table can be made"));
            };
            let done = self.reserve_part(&pin, part, how, next).await?;
            rest = rest.skip(done);
            self.wait_for_flush(next).await?;
        }
        Ok(())
    }

    /// The first clusters of a part of one slice; answers how many bytes of it are dealt with.
    async fn reserve_part(
        self: &Arc<Self>,
        pin: &Pin,
        part: ByteRange,
        how: Preallocation,
        next: Next<'_>,
    ) -> Result<u64> {
        let cluster = self.geometry.cluster_size();
        let is_vacant = |guest| {
            let entry = self.own(self.geometry.entry_of(&pin.slice, guest))?;
            Ok::<_, BlockError>(matches!(entry, Entry::Plain { host: None, .. }))
        };
        let mut vacant = 0;
        while vacant < part.len() && is_vacant(part.start() + vacant)? {
            vacant += cluster;
        }
        if vacant == 0 {
            return Ok(cluster);
        }
        let (first, len, room) = match self.is_apart() {
            true => (part.start() >> self.geometry.cluster_bits(), vacant, None),
            false => {
                let room = self.take(vacant >> self.geometry.cluster_bits(), next).await?;
                (room.run.first, room.run.count << self.geometry.cluster_bits(), Some(room))
            }
        };
        let whole = part.head(len);
        self.clear_room(first, whole, how, next).await?;
        self.map_reserved(pin, whole, (first, room.as_ref()), how, next)?;
        Ok(len)
    }

    /// Makes the place read as zeros, and take space if it shall.
    async fn clear_room(
        &self,
        first_host: u64,
        whole: ByteRange,
        how: Preallocation,
        next: Next<'_>,
    ) -> Result<()> {
        let child = self.geometry.data_child();
        let mut range = ByteRange::new(self.host(first_host).0, whole.len());
        if self.is_apart() {
            // It ends with the disk.
            range = range.intersection(ByteRange::new(0, self.bound()));
        }
        let zeroed = Request::new(Op::WriteZeroes, range);
        match how {
            Preallocation::Off => Ok(()),
            Preallocation::Metadata => {
                let holes = zeroed.with_flags(Flags::MAY_UNMAP);
                next.execute(child, holes, Lease::empty()).await.0
            }
            Preallocation::Falloc => next.execute(child, zeroed, Lease::empty()).await.0,
            Preallocation::Full => {
                while !range.is_empty() {
                    let piece = range.head(ZEROES);
                    self.write_data(piece.start(), Lease::zeroed(piece.len() as usize), next).await?;
                    range = range.skip(piece.len());
                }
                Ok(())
            }
        }
    }

    fn map_reserved(
        &self,
        pin: &Pin,
        whole: ByteRange,
        (first_host, room): (u64, Option<&Arc<Room>>),
        how: Preallocation,
        next: Next<'_>,
    ) -> Result<()> {
        let all = self.geometry.all_parts();
        let (only_tables, has_subclusters) = (how == Preallocation::Metadata, all.count_ones() > 1);
        let mut new = |guest: u64, entry: &Entry| {
            let host = first_host + ((guest - whole.start()) >> self.geometry.cluster_bits());
            let parts = match entry {
                // Subclusters that hold nothing say so, as QEMU's do, and so do zeros.
                Entry::Plain { parts, .. } if has_subclusters || only_tables && parts.zero != 0 => *parts,
                _ => Parts { allocated: all, zero: 0 },
            };
            Some(NewEntry::Plain { host: Some(host), parts })
        };
        self.replace(pin, whole, (Why::Other, next.reclaim()), &mut new)?;
        if let Some(room) = room {
            room.keep();
        }
        Ok(())
    }
}
