//! Zeroing and discarding: how entries change in memory.
//!
//! The core holds the range lock of all clusters concerned.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{Alignment, BlockError, ByteRange, ErrorKind, Place, Result};
use flow::{Flags, Next, Op, Reclaim, Request};
use io::Lease;
use qcow2::{DATA_FILE_CHILD, Entry, NewEntry, Parts};

use super::super::image::Image;
use super::super::space::Run;
use super::super::space::freed::{Why, push_hosts};
use super::books::{Books, Pin};

impl Image {
    /// What every change of this image waits for first.
    pub(crate) async fn begin_change(self: &Arc<Self>, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        writer.check_known()?;
        writer.check_sound()?;
        if !writer.is_changing() {
            self.in_background(next, |image, next| Box::pin(image.begin_changing(next))).await?;
        }
        self.wait_for_flush(next).await
    }

    /// Replaces the entries of whole clusters of one slice by what `new` says (of the first guest byte and the entry),
    /// where it says something.
    pub(crate) fn replace(
        &self,
        pin: &Pin,
        whole: ByteRange,
        (why, reclaim): (Why, &Reclaim),
        new: &mut dyn FnMut(u64, &Entry) -> Option<NewEntry>,
    ) -> Result<()> {
        let writer = self.writer()?;
        let mut books = writer.books.lock();
        let mut old = Vec::new();
        let outcome = self.replace_each(pin, whole, &mut old, new, &mut books);
        writer.generations.bump(whole);
        books.retire(old, why, reclaim);
        outcome
    }

    fn replace_each(
        &self,
        pin: &Pin,
        whole: ByteRange,
        old: &mut Vec<Run>,
        new: &mut dyn FnMut(u64, &Entry) -> Option<NewEntry>,
        books: &mut Books,
    ) -> Result<()> {
        for guest in (whole.start()..whole.end()).step_by(self.geometry.cluster_size() as usize) {
            let entry = self.entry_to_change(pin, guest, books)?;
            let Some(next) = new(guest, &entry) else { continue };
            self.geometry.set_entry(&pin.slice, guest, next)?;
            books.mark(&pin.slice);
            let is_kept = matches!(
                (&entry, next),
                (Entry::Plain { host: Some(old), .. }, NewEntry::Plain { host: Some(new), .. }) if *old == new
            );
            // Nobody counts the clusters of a data file.
            if !is_kept && !self.is_apart() {
                push_hosts(old, &entry);
            }
        }
        Ok(())
    }

    /// What the entry for `guest` holds, which is about to be changed.
    pub(crate) fn entry_to_change(&self, pin: &Pin, guest: u64, books: &Books) -> Result<Entry> {
        let entry = self.own(self.geometry.entry_of(&pin.slice, guest))?;
        // Those of a data file are not in this one.
        if !self.is_apart() {
            self.own(books.check_hosts(&entry))?;
        }
        Ok(entry)
    }

    /// Drops the whole clusters inside the range. None becomes unallocated where a backing image would show: nor for a
    /// request that began before the backing child was taken away, since its bytes there never were this image's.
    pub(crate) async fn discard(self: &Arc<Self>, rq: Request, next: Next<'_>) -> Result<()> {
        if !self.writer()?.takes_discards {
            return Ok(());
        }
        self.begin_change(next).await?;
        if self.writer()?.raw_data {
            // What was dropped reads as zeros, as in all images.
            let zeroed = Request { op: Op::WriteZeroes, flags: Flags::MAY_UNMAP, ..rq };
            return self.pass_to_data(zeroed, next).await;
        }
        let (_, whole, _) = self.split(rq.range, self.cluster());
        let dropped = self.dropped();
        if dropped == NewEntry::UNALLOCATED && self.has_backing(next) {
            return Ok(());
        }
        let (keeps, all) = (self.writer()?.keeps_discarded, self.geometry.all_parts());
        let new = |entry: &Entry| match entry {
            Entry::Plain { host: None, .. } => None,
            Entry::Plain { host, exclusive: true, .. } if keeps => {
                Some(NewEntry::Plain { host: *host, parts: Parts { allocated: 0, zero: all } })
            }
            _ => Some(dropped),
        };
        self.replace_all(whole, (Why::Request, false), next, new).await?;
        self.pass_to_plain_data(rq, whole, next).await
    }

    /// Gives what was dropped from a data file back to what it lies on, if that is wanted. Its place there belongs to
    /// nothing else, whatever becomes of the tables.
    async fn pass_to_plain_data(&self, rq: Request, whole: ByteRange, next: Next<'_>) -> Result<()> {
        let writer = self.writer()?;
        let range = whole.intersection(ByteRange::new(0, self.bound()));
        if !self.is_apart() || !writer.passes.request || range.is_empty() {
            return Ok(());
        }
        let _alone = writer.kept.exclusive(whole).await;
        // Zeroed rather than discarded: the tables on disk may point there still.
        let zeroed = Request { op: Op::WriteZeroes, flags: Flags::MAY_UNMAP, ..rq.on(range) };
        next.execute(DATA_FILE_CHILD, zeroed, Lease::empty()).await.0
    }

    /// What an entry becomes that is to read as zeros, without a host cluster: in version 2 only where no backing image
    /// shows.
    fn dropped(&self) -> NewEntry {
        match self.geometry.has_zeros() {
            true => {
                NewEntry::Plain { host: None, parts: Parts { allocated: 0, zero: self.geometry.all_parts() } }
            }
            false => NewEntry::UNALLOCATED,
        }
    }

    /// Makes the range read as zeros.
    pub(crate) async fn zero(self: &Arc<Self>, rq: Request, next: Next<'_>) -> Result<()> {
        self.begin_change(next).await?;
        if self.writer()?.raw_data {
            return self.pass_to_data(rq, next).await;
        }
        let writer = self.writer()?;
        // In version 2 there is no place that reads as zeros.
        let may = rq.flags.has(Flags::MAY_UNMAP) && (writer.takes_discards || !self.geometry.has_zeros());
        let unmap = may && !writer.keeps_discarded;
        let by_writing = !self.geometry.has_zeros() && (!unmap || self.has_backing(next));
        if by_writing && rq.flags.has(Flags::FAST_ZERO) {
            // Before any byte is: who is refused takes all to be as it was.
            let context = "images of version 2 are zeroed by writing zeros, which is not fast";
            return Err(BlockError::new(ErrorKind::Unsupported, context));
        }
        let (head, whole, tail) = self.split(rq.range, self.cluster());
        self.zero_part(head, next).await?;
        if self.geometry.has_zeros() {
            let (all, dropped) = (self.geometry.all_parts(), self.dropped());
            let new = move |entry: &Entry| match entry {
                Entry::Plain { host: None, parts, .. } if parts.zero == all => None,
                Entry::Plain { parts, exclusive: true, .. } if !unmap && parts.zero == all => None,
                Entry::Plain { host, exclusive: true, .. } if !unmap => {
                    Some(NewEntry::Plain { host: *host, parts: Parts { allocated: 0, zero: all } })
                }
                _ => Some(dropped),
            };
            // Said also where nothing else would show: the image may get a backing image later.
            self.replace_all(whole, (Why::Request, true), next, new).await?;
        } else if !by_writing {
            let new = |entry: &Entry| match entry {
                Entry::Plain { host: None, .. } => None,
                _ => Some(NewEntry::UNALLOCATED),
            };
            self.replace_all(whole, (Why::Request, false), next, new).await?;
        } else {
            self.zero_each(whole, next).await?;
        }
        if unmap {
            self.pass_to_plain_data(rq, whole, next).await?;
        }
        self.zero_part(tail, next).await
    }

    /// A raw data file reads as the disk by itself: it is what is changed.
    async fn pass_to_data(&self, rq: Request, next: Next<'_>) -> Result<()> {
        let _alone = self.writer()?.kept.exclusive(self.cluster().around(rq.range)).await;
        next.execute(DATA_FILE_CHILD, rq, Lease::empty()).await.0
    }

    /// Replaces the entries of all clusters of `whole`, slice by slice, so that a large range keeps nobody from
    /// running; where there is no table, one is made if `make` says so.
    pub(crate) async fn replace_all(
        self: &Arc<Self>,
        whole: ByteRange,
        (why, make): (Why, bool),
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
                self.replace(&pin, part, (why, next.reclaim()), &mut |_, entry| new(entry))?;
            }
            rest = rest.skip(part.len());
            if !rest.is_empty() {
                io::yield_now().await;
                self.wait_for_flush(next).await?;
            }
        }
        Ok(())
    }

    /// Writes zeros to whole clusters whose entries cannot say so, as far as they do not read as zeros.
    async fn zero_each(self: &Arc<Self>, whole: ByteRange, next: Next<'_>) -> Result<()> {
        let (mut rest, step) = (whole, self.geometry.cluster_size());
        while !rest.is_empty() {
            let unmapped = if self.has_backing(next) { None } else { self.unmapped_span(rest)? };
            let part = match unmapped {
                Some(span) => rest.head(span - rest.start() % self.geometry.slice_span()),
                None => rest.head(step),
            };
            if unmapped.is_none() {
                self.zero_part(part.intersection(ByteRange::new(0, self.bound())), next).await?;
                self.wait_for_flush(next).await?;
            }
            rest = rest.skip(part.len());
        }
        Ok(())
    }

    /// What lies before, in and behind whole units. The last one is whole when it is covered to the virtual end.
    fn split(&self, range: ByteRange, unit: Alignment) -> (ByteRange, ByteRange, ByteRange) {
        let to_the_end = range.end() >= self.bound();
        let start = unit.up(range.start());
        let end = if to_the_end { unit.up(range.end()) } else { unit.down(range.end()) };
        let (border, whole) = match start < end {
            true => (start, ByteRange::between(start, end)),
            // Within one unit, or across the border of two.
            false => (start.min(range.end()), ByteRange::default()),
        };
        let behind = if start < end { end.min(range.end()) } else { border };
        (ByteRange::between(range.start(), border), whole, ByteRange::between(behind, range.end()))
    }

    /// Zeroes a part of one cluster: subclusters by their bits, what is left by writing.
    async fn zero_part(self: &Arc<Self>, part: ByteRange, next: Next<'_>) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let (backing, has_bits) = (self.has_backing(next), self.geometry.has_zeros());
        let Some(pin) = self.pin(part.start(), backing || has_bits, next).await? else { return Ok(()) };
        let unit = if has_bits { self.subcluster() } else { self.cluster() };
        let (head, whole, tail) = self.split(part, unit);
        let by_bits = has_bits && self.zero_subclusters(&pin, whole, next)?;
        let written = if by_bits { [head, tail] } else { [part, ByteRange::default()] };
        for piece in written.into_iter().filter(|piece| !piece.is_empty()) {
            if self.shows(&pin, piece, backing)? {
                self.zero_bytes(&pin, piece, next).await?;
            } else if has_bits {
                // All around it reads as zeros, too.
                self.zero_subclusters(&pin, unit.around(piece), next)?;
            }
        }
        Ok(())
    }

    /// Marks whole subclusters of one cluster as zero; false where its bytes are not ours alone.
    fn zero_subclusters(&self, pin: &Pin, whole: ByteRange, next: Next<'_>) -> Result<bool> {
        let around = self.cluster().around(whole);
        if whole.is_empty() {
            return Ok(true);
        }
        let zeroed = self.geometry.parts_of(whole);
        let mut is_ours = true;
        let mut new = |_, entry: &Entry| match entry {
            Entry::Plain { host, exclusive, parts } if *exclusive || host.is_none() => {
                let new = parts.with_zero(zeroed);
                (new != *parts).then_some(NewEntry::Plain { host: *host, parts: new })
            }
            _ => {
                is_ours = false;
                None
            }
        };
        self.replace(pin, around, (Why::Request, next.reclaim()), &mut new)?;
        Ok(is_ours)
    }

    /// Whether anything but zeros may show in `piece` of one cluster.
    fn shows(&self, pin: &Pin, piece: ByteRange, backing: bool) -> Result<bool> {
        let asked = self.geometry.parts_of(piece);
        Ok(match self.own(self.geometry.entry_of(&pin.slice, piece.start()))? {
            Entry::Compressed { .. } => true,
            Entry::Plain { parts, .. } => {
                parts.allocated & asked != 0 || backing && asked & !(parts.allocated | parts.zero) != 0
            }
        })
    }

    /// Writes zeros to a part of one cluster.
    async fn zero_bytes(self: &Arc<Self>, pin: &Pin, part: ByteRange, next: Next<'_>) -> Result<()> {
        let mut rest = part;
        while !rest.is_empty() {
            let done = match self.place(pin, rest, next).await? {
                None => self.write_in_place(pin, rest, Lease::zeroed, next).await?,
                Some(placed) => {
                    let mut bytes = self.read_own(placed.guest, next).await?;
                    let zeroed = rest.intersection(placed.guest);
                    let from = (zeroed.start() - placed.guest.start()) as usize;
                    bytes[from..from + zeroed.len() as usize].fill(0);
                    self.write_placed(placed.offset, bytes, &placed.token, next).await?;
                    self.map_placed(&placed.token, placed.guest, next)?;
                    zeroed.len()
                }
            };
            rest = rest.skip(done);
        }
        Ok(())
    }

    /// Writes in place; answers how many of the first bytes. Written also where it is zeros: an abandoned write holds
    /// the cluster until it has landed.
    pub(crate) async fn write_in_place(
        &self,
        pin: &Pin,
        part: ByteRange,
        bytes: impl FnOnce(usize) -> Lease,
        next: Next<'_>,
    ) -> Result<u64> {
        let guard = next.reclaim().writes().enter_owned();
        let mapping = self.geometry.map(&pin.slice, part, self.data_len.load(Ordering::Acquire));
        let mapping = self.own(mapping)?;
        let mut bytes = bytes(mapping.len as usize);
        // Beyond the end of the file there is nothing.
        let Place::Data { offset, .. } = mapping.place else { return Ok(mapping.len) };
        bytes.carry(guard);
        self.write_data(offset, bytes, next).await.map(|()| mapping.len)
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
