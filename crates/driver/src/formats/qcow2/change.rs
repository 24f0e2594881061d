//! Writing to new clusters, zeroing and discarding: how entries change in memory.
//!
//! The core holds the range lock of all clusters concerned.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{Alignment, BlockError, ByteRange, ErrorKind, Result};
use flow::{Flags, Next, Op, Prepared, Reclaim, Request};
use io::Lease;
use qcow2::{Entry, FILE_CHILD, HostOffset, Located, NewEntry};

use super::allocate::Room;
use super::books::{Books, Pin, Pressure};
use super::freed::push_hosts;
use super::image::Image;

/// Most bytes prepared at a time.
const ROOM_MAX: u64 = 2 << 20;

/// What commit needs.
struct Token {
    room: Arc<Room>,
    pin: Pin,
}

impl Image {
    pub(super) fn cluster(&self) -> Alignment {
        Alignment::new(self.geometry.cluster_size()).unwrap_or_default()
    }

    /// Room for the first clusters of `range`; `None` when the first can be written in place by now.
    pub(super) async fn make_room(
        self: &Arc<Self>,
        range: ByteRange,
        next: Next<'_>,
    ) -> Result<Option<Prepared>> {
        self.begin_change(next).await?;
        let Some(pin) = self.pin(range.start(), true, next).await? else { return Ok(None) };
        let wanted = self.absent(&pin, range);
        if wanted.is_empty() {
            return Ok(None);
        }
        let room = self.take(wanted.len() / self.geometry.cluster_size(), next).await?;
        let whole = wanted.head(room.run.count * self.geometry.cluster_size());
        let guest = whole.intersection(ByteRange::new(0, self.geometry.virtual_size()));
        let offset = self.host(room.run.first).0;
        let tail = ByteRange::between(guest.end(), whole.end());
        self.zero_room(&room, tail.at(offset + guest.len()), next).await?;
        Ok(Some(Prepared { guest, child: FILE_CHILD, offset, token: Box::new(Token { room, pin }) }))
    }

    /// What every change of this image waits for first.
    pub(super) async fn begin_change(self: &Arc<Self>, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        if !writer.is_changing() {
            self.in_background(next, |image, next| Box::pin(image.clear_autoclear(next))).await?;
        }
        self.wait_for_flush(next).await
    }

    /// The clusters in front of `range` that cannot be written in place, as far as the slice goes.
    fn absent(&self, pin: &Pin, range: ByteRange) -> ByteRange {
        let step = self.geometry.cluster_size();
        let slice_end = pin.slice.address().first_guest + self.geometry.slice_span();
        let whole = self.cluster().around(range).head(ROOM_MAX.max(step));
        let whole = ByteRange::between(whole.start(), whole.end().min(slice_end));
        let in_place = |guest: &u64| {
            // A lie behind the first cluster concerns who writes there.
            let entry = self.geometry.entry_of(&pin.slice, *guest);
            matches!(entry, Ok(Entry::Data { exclusive: true, .. }) | Err(_))
        };
        let end = (whole.start()..whole.end()).step_by(step as usize).find(in_place);
        ByteRange::between(whole.start(), end.unwrap_or(whole.end()))
    }

    /// Zeroes a part of new room. The room stays taken until the I/O has ended, whatever becomes of us.
    async fn zero_room(&self, room: &Arc<Room>, at: ByteRange, next: Next<'_>) -> Result<()> {
        if at.is_empty() {
            return Ok(());
        }
        let mut zeros = Lease::zeroed(at.len() as usize);
        zeros.carry(room.clone());
        self.write_file(at.start(), zeros, next).await
    }

    /// Pins the slice that maps `guest`; its table is made where there is none, or the answer is `None`.
    pub(super) async fn pin(self: &Arc<Self>, guest: u64, make: bool, next: Next<'_>) -> Result<Option<Pin>> {
        let (writer, range) = (self.writer()?, ByteRange::new(guest, 1));
        loop {
            match self.locate(range)? {
                Located::Slice(_) if !self.l1.is_exclusive(&self.geometry, guest) => {
                    return Err(shared(guest));
                }
                Located::Slice(address) => match writer.books.pin(address, &self.slices) {
                    Some(pin) => return Ok(Some(pin)),
                    None => self.load_slice(range, next).await?,
                },
                Located::Unallocated { .. } if !make => return Ok(None),
                Located::Unallocated { .. } => self.make_table(guest, next).await?,
            }
        }
    }

    /// Makes an empty L2 table, on disk before anybody knows of it.
    async fn make_table(self: &Arc<Self>, guest: u64, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        let _alone = writer.tables.exclusive(ByteRange::new(guest / self.geometry.table_span(), 1)).await;
        if let Located::Slice(_) = self.locate(ByteRange::new(guest, 1))? {
            return Ok(());
        }
        let room = self.take(1, next).await?;
        let at = ByteRange::new(self.host(room.run.first).0, self.geometry.cluster_size());
        self.zero_room(&room, at, next).await?;
        let mut books = writer.books.lock();
        let piece = self.l1.publish(&self.geometry, guest, HostOffset(at.start()));
        books.l1_dirty.extend(piece);
        room.map();
        Ok(())
    }

    /// Maps what was prepared.
    pub(super) fn map_room(self: &Arc<Self>, prepared: Prepared, next: Next<'_>) -> Result<()> {
        let foreign = |_| BlockError::new(ErrorKind::Invalid, "what was prepared belongs to another format");
        let token = prepared.token.downcast::<Token>().map_err(foreign)?;
        let whole = self.cluster().around(prepared.guest);
        let mut hosts = token.room.run.first..;
        let mut entry = |_: &Entry| hosts.next().map(NewEntry::Data);
        self.replace(&token.pin, whole, next.reclaim(), &mut entry)?;
        token.room.map();
        let pressure = {
            let mut books = self.writer()?.books.lock();
            books.mapped(prepared.guest.len());
            books.pressure()
        };
        if pressure != Pressure::Low {
            self.begin_flush(next);
        }
        Ok(())
    }

    /// Replaces the entries of whole clusters of one slice by what `new` says, where it says something.
    fn replace(
        &self,
        pin: &Pin,
        whole: ByteRange,
        reclaim: &Reclaim,
        new: &mut dyn FnMut(&Entry) -> Option<NewEntry>,
    ) -> Result<()> {
        let writer = self.writer()?;
        let mut books = writer.books.lock();
        let mut old = Vec::new();
        let outcome = self.replace_each(pin, whole, &mut old, new, &mut books);
        writer.generations.bump(whole);
        books.retire(old, reclaim);
        outcome
    }

    fn replace_each(
        &self,
        pin: &Pin,
        whole: ByteRange,
        old: &mut Vec<super::refcounts::Run>,
        new: &mut dyn FnMut(&Entry) -> Option<NewEntry>,
        books: &mut Books,
    ) -> Result<()> {
        for guest in (whole.start()..whole.end()).step_by(self.geometry.cluster_size() as usize) {
            let entry = self.geometry.entry_of(&pin.slice, guest)?;
            let Some(next) = new(&entry) else { continue };
            self.geometry.set_entry(&pin.slice, guest, next)?;
            books.mark(&pin.slice);
            if !matches!(next, NewEntry::KeptZero(_)) {
                push_hosts(old, &entry);
            }
        }
        Ok(())
    }

    /// Drops the whole clusters inside the range. None becomes unallocated: a request that began before the backing child
    /// was taken away would see that one's bytes there, which never were this image's.
    pub(super) async fn discard(self: &Arc<Self>, rq: Request, next: Next<'_>) -> Result<()> {
        self.begin_change(next).await?;
        let (_, whole, _) = self.split(rq.range);
        let new = |entry: &Entry| match entry {
            Entry::Unallocated | Entry::Zero { host: None } => None,
            _ => Some(NewEntry::Zero),
        };
        self.replace_all(whole, false, next, new).await
    }

    /// Makes the range read as zeros.
    pub(super) async fn zero(self: &Arc<Self>, rq: Request, next: Next<'_>) -> Result<()> {
        self.begin_change(next).await?;
        let (head, whole, tail) = self.split(rq.range);
        self.zero_part(rq, head, next).await?;
        let (backing, unmap) = (self.has_backing(next), rq.flags.has(Flags::MAY_UNMAP));
        let new = move |entry: &Entry| match entry {
            Entry::Unallocated if !backing => None,
            Entry::Zero { host } if !unmap || host.is_none() => None,
            Entry::Data { host, exclusive: true } if !unmap => Some(NewEntry::KeptZero(*host)),
            _ => Some(NewEntry::Zero),
        };
        self.replace_all(whole, backing, next, new).await?;
        self.zero_part(rq, tail, next).await
    }

    /// Replaces the entries of all clusters of `whole`, slice by slice, so that a large range keeps nobody from running.
    async fn replace_all(
        self: &Arc<Self>,
        whole: ByteRange,
        make: bool,
        next: Next<'_>,
        mut new: impl FnMut(&Entry) -> Option<NewEntry>,
    ) -> Result<()> {
        let mut rest = whole;
        while !rest.is_empty() {
            let span = match make {
                true => self.geometry.slice_span(),
                false => self.unmapped_span(rest)?.unwrap_or(self.geometry.slice_span()),
            };
            let part = rest.head(span - rest.start() % self.geometry.slice_span());
            if let Some(pin) = self.pin(rest.start(), make, next).await? {
                self.replace(&pin, part, next.reclaim(), &mut new)?;
            }
            rest = rest.skip(part.len());
            if !rest.is_empty() {
                io::yield_now().await;
                self.wait_for_flush(next).await?;
            }
        }
        Ok(())
    }

    /// How many bytes from the slice of `range`'s first one on have no table; `None` when it has one.
    fn unmapped_span(&self, range: ByteRange) -> Result<Option<u64>> {
        let from = range.start() % self.geometry.slice_span();
        Ok(match self.locate(range)? {
            Located::Unallocated { len } => Some(len + from),
            Located::Slice(_) => None,
        })
    }

    /// What lies before, in and behind whole clusters. The last cluster is whole when it is covered to the virtual end.
    fn split(&self, range: ByteRange) -> (ByteRange, ByteRange, ByteRange) {
        let cluster = self.cluster();
        let to_the_end = range.end() >= self.geometry.virtual_size();
        let start = cluster.up(range.start());
        let end = if to_the_end { cluster.up(range.end()) } else { cluster.down(range.end()) };
        let (border, whole) = match start < end {
            true => (start, ByteRange::between(start, end)),
            // Within one cluster, or across the border of two.
            false => (start.min(range.end()), ByteRange::default()),
        };
        let behind = if start < end { end.min(range.end()) } else { border };
        (ByteRange::between(range.start(), border), whole, ByteRange::between(behind, range.end()))
    }

    /// Zeroes a part of one cluster.
    async fn zero_part(self: &Arc<Self>, rq: Request, part: ByteRange, next: Next<'_>) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let Some(pin) = self.pin(part.start(), self.has_backing(next), next).await? else { return Ok(()) };
        match self.geometry.entry_of(&pin.slice, part.start())? {
            Entry::Data { host, exclusive: true } => self.overwrite(rq, part, host, next).await,
            Entry::Unallocated if !self.has_backing(next) => Ok(()),
            Entry::Zero { .. } => Ok(()),
            _ => self.copy_around(part, pin, next).await,
        }
    }

    /// Writes zeros in place. Written rather than zeroed: an abandoned write holds the cluster until it has landed.
    async fn overwrite(&self, rq: Request, part: ByteRange, host: u64, next: Next<'_>) -> Result<()> {
        let inside = part.start() - self.cluster().down(part.start());
        let mut zeros = Lease::zeroed(part.len() as usize);
        zeros.carry(next.reclaim().waits().enter_owned());
        let mut write = rq.on(part.at(self.host(host).0 + inside));
        (write.op, write.flags) = (Op::Write, Flags::NONE);
        next.execute(FILE_CHILD, write, zeros).await.0
    }

    /// Copies the cluster with `part` zeroed.
    async fn copy_around(self: &Arc<Self>, part: ByteRange, pin: Pin, next: Next<'_>) -> Result<()> {
        let whole = self.cluster().around(part);
        let guest = whole.intersection(ByteRange::new(0, self.geometry.virtual_size()));
        let mut bytes = self.read_own(guest, next).await?;
        bytes.join(Lease::zeroed((whole.len() - guest.len()) as usize));
        let from = (part.start() - whole.start()) as usize;
        bytes[from..from + part.len() as usize].fill(0);
        let room = self.take(1, next).await?;
        bytes.carry(room.clone());
        self.write_file(self.host(room.run.first).0, bytes, next).await?;
        self.replace(&pin, whole, next.reclaim(), &mut |_| Some(NewEntry::Data(room.run.first)))?;
        room.map();
        self.writer()?.books.lock().mapped(whole.len());
        Ok(())
    }

    /// Whether another image shows where this one holds nothing: to this request, to one of another view, or to whoever
    /// opens it by its header.
    fn has_backing(&self, next: Next<'_>) -> bool {
        let Some(writer) = &self.writer else { return false };
        if next.backing().is_some() {
            writer.backed.store(true, Ordering::SeqCst);
        }
        writer.backed.load(Ordering::SeqCst)
    }
}

#[cold]
fn shared(guest: u64) -> BlockError {
    let context = format!(
        "the L2 table for guest offset {guest:#x} is marked as shared, but there is no snapshot: repair it with 'qemu-img check -r all'"
    );
    BlockError::new(ErrorKind::Corrupt, context)
}
