//! Where new bytes go: room that is prepared, written, and mapped.
//!
//! A cluster that is ours alone is written where it is, also where its bytes are not mapped yet: in subclusters that
//! are not allocated, in a cluster that reads as zeros, in a data file. All others get new host clusters.
//!
//! Invariants: the core holds the range lock of all clusters concerned; what is prepared covers all that an entry would
//! lose by pointing elsewhere; room is given back, and what is kept may be dropped by others, only when the I/O that
//! goes there has ended.

use std::sync::Arc;

use block::{Alignment, BlockError, ByteRange, ErrorKind, Result};
use flow::guard::OwnedGuard;
use flow::{Next, Prepared, RangeGuard};
use io::Lease;
use qcow2::{DATA_FILE_CHILD, Entry, NewEntry, Parts};

use super::super::image::Image;
use super::super::space::freed::Why;
use super::allocate::Room;
use super::books::{Pin, Pressure};

/// Most bytes prepared at a time.
const ROOM_MAX: u64 = 2 << 20;

/// Room for new bytes.
pub(crate) struct Placed {
    /// Which guest bytes: whole subclusters, clipped to the virtual size.
    pub(crate) guest: ByteRange,
    /// Where the first of them goes in the child that holds guest data.
    pub(crate) offset: u64,
    pub(crate) token: Arc<Token>,
}

/// What commit needs. Travels with the buffers that are written.
pub(crate) struct Token {
    pin: Pin,
    first_host: u64,
    /// The new clusters, if they are.
    room: Option<Arc<Room>>,
    /// Held where bytes go to a place that is not new: what was given up has landed before others write there.
    _alone: Option<RangeGuard>,
    /// Clusters that are kept are not used for anything else meanwhile, whoever drops them.
    _guard: OwnedGuard,
}

/// Where the entry for a cluster is to point.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    /// To this host cluster, where it points already or (in a data file) can only point.
    Kept(u64),
    /// To one that has to be taken.
    New,
}

/// A run of subclusters to be written, and where the first cluster of them goes.
struct Wanted {
    guest: ByteRange,
    home: Home,
}

impl Image {
    pub(crate) fn cluster(&self) -> Alignment {
        Alignment::new(self.geometry.cluster_size()).unwrap_or_default()
    }

    pub(crate) fn subcluster(&self) -> Alignment {
        Alignment::new(self.geometry.subcluster_size()).unwrap_or_default()
    }

    /// Whether guest data lies in a file of its own.
    pub(crate) fn is_apart(&self) -> bool {
        self.geometry.data_child() == DATA_FILE_CHILD
    }

    /// Room for the first bytes of `range`; `None` when the first can be written in place by now.
    pub(crate) async fn make_room(
        self: &Arc<Self>,
        range: ByteRange,
        next: Next<'_>,
    ) -> Result<Option<Prepared>> {
        self.begin_change(next).await?;
        let Some(pin) = self.pin(range.start(), true, next).await? else { return Ok(None) };
        let Some(placed) = self.place(&pin, range, next).await? else { return Ok(None) };
        let Placed { guest, offset, token } = placed;
        Ok(Some(Prepared { guest, child: self.geometry.data_child(), offset, token: Box::new(token) }))
    }

    /// The same in a slice that is pinned.
    pub(crate) async fn place(
        self: &Arc<Self>,
        pin: &Pin,
        range: ByteRange,
        next: Next<'_>,
    ) -> Result<Option<Placed>> {
        // Older than our look at the entries.
        let guard = next.reclaim().writes().enter_owned();
        let Some(Wanted { mut guest, home }) = self.wanted(pin, range)? else { return Ok(None) };
        let first = self.cluster().down(guest.start());
        let (first_host, room, alone) = match home {
            Home::Kept(host) => (host, None, Some(self.writer()?.kept.exclusive(guest).await)),
            Home::New => {
                let clusters = self.cluster().around(guest).len() >> self.geometry.cluster_bits();
                let room = self.take(clusters, next).await?;
                let end = first + (room.run.count << self.geometry.cluster_bits());
                guest = guest.intersection(ByteRange::between(first, end));
                (room.run.first, Some(room), None)
            }
        };
        let token = Arc::new(Token { pin: pin.clone(), first_host, room, _alone: alone, _guard: guard });
        let offset = self.host(first_host).0 + (guest.start() - first);
        let inside = guest.intersection(ByteRange::new(0, self.bound()));
        let tail = ByteRange::between(inside.end(), guest.end());
        if !tail.is_empty() && !self.is_apart() {
            self.write_placed(offset + inside.len(), Lease::zeroed(tail.len() as usize), &token, next)
                .await?;
        }
        Ok(Some(Placed { guest: inside, offset, token }))
    }

    /// The first subclusters of `range` that cannot be written in place, and what has to be written with them, as far
    /// as the slice goes.
    fn wanted(&self, pin: &Pin, range: ByteRange) -> Result<Option<Wanted>> {
        let step = self.geometry.cluster_size();
        let slice_end = pin.slice.address().first_guest + self.geometry.slice_span();
        let around = self.cluster().around(range).head(ROOM_MAX.max(step));
        let around = ByteRange::between(around.start(), around.end().min(slice_end));
        let mut run: Option<Wanted> = None;
        let books = self.writer()?.books.lock();
        for (number, first) in (around.start()..around.end()).step_by(step as usize).enumerate() {
            let entry = match (self.entry_to_change(pin, first, &books), &run) {
                (Err(error), None) => return Err(error),
                // A lie behind the first cluster concerns who writes there.
                (Err(_), Some(_)) => break,
                (Ok(entry), _) => entry,
            };
            let home = self.home(first, &entry);
            let part = range.intersection(ByteRange::new(first, step));
            let Some(here) = self.missing(home, &entry, part) else { break };
            match &mut run {
                None => run = Some(Wanted { guest: here, home }),
                Some(run) if run.guest.end() == here.start() && run.home.continues(home, number) => {
                    run.guest = ByteRange::between(run.guest.start(), here.end());
                }
                Some(_) => break,
            }
        }
        Ok(run)
    }

    fn home(&self, first: u64, entry: &Entry) -> Home {
        match entry {
            _ if self.is_apart() => Home::Kept(first >> self.geometry.cluster_bits()),
            Entry::Plain { host: Some(host), exclusive: true, .. } => Home::Kept(*host),
            _ => Home::New,
        }
    }

    /// What has to be written of one cluster so that the front of `part` is mapped: subclusters from the first one that
    /// is not writable in place on; with those that would be lost where the cluster moves. `None`: the first is
    /// writable.
    fn missing(&self, home: Home, entry: &Entry, part: ByteRange) -> Option<ByteRange> {
        let asked = self.geometry.parts_of(part);
        let (allocated, exclusive) = match entry {
            Entry::Plain { exclusive, parts, .. } => (parts.allocated, *exclusive),
            Entry::Compressed { .. } => (self.geometry.all_parts(), false),
        };
        let from = asked.trailing_zeros();
        let (from, end) = match home {
            Home::Kept(_) => {
                let missing = if exclusive { asked & !allocated } else { asked };
                (from, from + (missing.checked_shr(from)?).trailing_ones())
            }
            Home::New => {
                let all = asked | allocated;
                (all.trailing_zeros(), u32::BITS - all.leading_zeros())
            }
        };
        let step = self.geometry.subcluster_size();
        let first = self.cluster().down(part.start());
        let range = ByteRange::between(first + u64::from(from) * step, first + u64::from(end) * step);
        (!range.is_empty()).then_some(range)
    }

    /// Whether what was prepared reads as zeros where nobody has written yet.
    pub(crate) fn is_clean(prepared: &Prepared) -> bool {
        let token = prepared.token.downcast_ref::<Arc<Token>>();
        token.and_then(|token| token.room.as_ref()).is_some_and(|room| room.clean)
    }

    /// Maps what was prepared.
    pub(crate) fn map_room(self: &Arc<Self>, prepared: Prepared, next: Next<'_>) -> Result<()> {
        let foreign = |_| BlockError::new(ErrorKind::Invalid, "what was prepared belongs to another format");
        let token = prepared.token.downcast::<Arc<Token>>().map_err(foreign)?;
        self.map_placed(&token, prepared.guest, next)
    }

    /// Maps `guest`, which has been written to the room of `token`.
    pub(crate) fn map_placed(
        self: &Arc<Self>,
        token: &Token,
        guest: ByteRange,
        next: Next<'_>,
    ) -> Result<()> {
        let whole = self.cluster().around(guest);
        let mut new = |first: u64, entry: &Entry| {
            let host = token.first_host + ((first - whole.start()) >> self.geometry.cluster_bits());
            let old = match entry {
                Entry::Plain { parts, .. } => *parts,
                Entry::Compressed { .. } => Parts::NONE,
            };
            let here = guest.intersection(ByteRange::new(first, self.geometry.cluster_size()));
            let parts = old.with_allocated(self.geometry.parts_of(here));
            Some(NewEntry::Plain { host: Some(host), parts })
        };
        self.replace(&token.pin, whole, (Why::Other, next.reclaim()), &mut new)?;
        if let Some(room) = &token.room {
            room.keep();
        }
        let pressure = {
            let mut books = self.writer()?.books.lock();
            books.mapped(guest.len());
            books.pressure()
        };
        if pressure != Pressure::Low {
            self.begin_flush(next);
        }
        Ok(())
    }

    /// Writes to room that is not mapped yet.
    pub(crate) async fn write_placed(
        &self,
        at: u64,
        mut bytes: Lease,
        token: &Arc<Token>,
        next: Next<'_>,
    ) -> Result<()> {
        bytes.carry(token.clone());
        self.write_data(at, bytes, next).await
    }
}

impl Home {
    /// Whether the cluster that is `number` behind the first one of a run goes there, too.
    fn continues(self, other: Self, number: usize) -> bool {
        match (self, other) {
            (Self::New, Self::New) => true,
            (Self::Kept(first), Self::Kept(host)) => first + number as u64 == host,
            _ => false,
        }
    }
}
