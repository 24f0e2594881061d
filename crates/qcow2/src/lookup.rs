//! From guest bytes to their place: first which slice of which L2 table, then what it says.
//!
//! Lengths of files are arguments, since files grow: pass the current ones.

use std::sync::atomic::Ordering;

use block::{BlockError, ByteRange, ErrorKind, Mapping, Place};

use crate::l2_entry::{self, COPIED, Cluster, Fault, OFFSET, Subclusters};
use crate::{CompressedCluster, Geometry, HostOffset, L1Table, L2Slice, Lie, SliceAddress};

/// Most L1 entries that one lookup walks over while they are empty: so few that this is no trouble where the next byte
/// is looked up, too.
const MAX_EMPTY_RUN: usize = 1 << 12;

/// Where to look on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Located {
    /// This slice knows: read it unless it is cached, then [`Geometry::map`].
    Slice(SliceAddress),
    /// No L2 table: the bytes are [`Place::Unallocated`].
    Unallocated {
        /// How many from the first byte asked for; at least 1, never more than asked for.
        len: u64,
    },
}

impl Geometry {
    /// Which slice maps the first bytes of `range`. `file_len` is the length of the image file.
    ///
    /// Errors: `OutOfRange` where the range is empty or starts beyond the L1 table, `Corrupt` where the L1
    /// entry lies (reserved bits, unaligned, an L2 table that is not wholly inside the file; see
    /// [`Geometry::salvaging`]).
    #[inline]
    pub fn locate(&self, l1: &L1Table, range: ByteRange, file_len: u64) -> Result<Located, BlockError> {
        let index = (range.start() >> self.table_span_bits()) as usize;
        let entry = match l1.get(index) {
            Some(entry) if !range.is_empty() => entry.load(Ordering::Acquire),
            _ => return Err(out_of_range(range)),
        };
        let table = HostOffset(entry & OFFSET);
        let lie = if entry & !(OFFSET | COPIED) != 0 && !self.salvaging {
            "reserved bits are set"
        } else if table.0 == 0 {
            return Ok(Located::Unallocated { len: self.empty_run(l1, index, range) });
        } else if !table.is_aligned(self.cluster_bits) {
            "its offset is no multiple of the cluster size"
        } else if table.0 + self.cluster_size() > file_len {
            if self.salvaging {
                return Ok(self.locate_in_part(table, range, file_len));
            }
            "its L2 table leaves the file"
        } else {
            return Ok(Located::Slice(self.slice_of(table, range.start())));
        };
        let is_aligned = table.is_aligned(self.cluster_bits);
        let lie = Lie::of_l1(format!("{lie} (file of {file_len} bytes)"), table, index, is_aligned);
        Err(lie.error(format!("L1 entry {index} ({entry:#018x})")))
    }

    /// Where the first bytes of `range` lie, and how many from there on lie in one run, as far as `slice`
    /// goes. `data_len` is the length of the file that holds guest data: the data file where there is one,
    /// else the image file.
    ///
    /// A data cluster that the end of the file cuts short reads as zeros from there on, as in QEMU. One that
    /// starts beyond the end is `Corrupt`, as are the other lies of L2 entries. `Invalid` where `range` does
    /// not start in the slice.
    #[inline]
    pub fn map(&self, slice: &L2Slice, range: ByteRange, data_len: u64) -> Result<Mapping, BlockError> {
        // A guest offset below the slice wraps to one far above its span.
        let from = range.start().wrapping_sub(slice.address.first_guest);
        if from >= self.slice_span() || range.is_empty() {
            return Err(not_in_slice(slice, range));
        }
        let want = range.len().min(self.slice_span() - from);
        let mut run = match self.piece(slice, from, want, data_len) {
            Ok(piece) => piece,
            Err(fault) => return Err(self.lie(slice, from, fault)),
        };
        while run.len < want {
            match self.piece(slice, from + run.len, want - run.len, data_len) {
                Ok(next) if run.join(next) => {}
                // A lie behind good bytes is reported to whoever asks for it.
                _ => break,
            }
        }
        Ok(run)
    }

    /// The compressed cluster that `guest` lies in, where [`Geometry::map`] answered [`Place::Special`].
    /// `Corrupt` where its descriptor lies, `Invalid` where the cluster is not a compressed one of the slice.
    pub fn compressed(
        &self,
        slice: &L2Slice,
        guest: u64,
        file_len: u64,
    ) -> Result<CompressedCluster, BlockError> {
        let from = guest.wrapping_sub(slice.address.first_guest);
        if from >= self.slice_span() {
            return Err(not_in_slice(slice, ByteRange::between(guest, guest)));
        }
        let range = ByteRange::new(guest & !(self.cluster_size() - 1), self.cluster_size());
        let (entry, _) = self.entry(slice, from);
        CompressedCluster::parse(entry, range, file_len)
            .map_err(|error| error.within(self.name_entry(slice, from)))
    }

    /// Which slice of an L2 table of which the end is missing maps the first bytes of `range`, if any of it is there.
    #[cold]
    fn locate_in_part(&self, table: HostOffset, range: ByteRange, file_len: u64) -> Located {
        let slice = self.slice_of(table, range.start());
        if self.slice_bytes_in(slice, file_len) > 0 {
            return Located::Slice(slice);
        }
        let missing =
            ByteRange::between(range.start(), range.end().min(slice.first_guest + self.slice_span()));
        Located::Unallocated { len: missing.len() }
    }

    /// How many bytes to read of the slice at `address` in a file of `file_len` bytes: all, but for who salvages, who
    /// takes the whole entries that are there.
    pub fn slice_bytes_in(&self, address: SliceAddress, file_len: u64) -> usize {
        if !self.salvaging {
            return self.slice_bytes();
        }
        let there = file_len.saturating_sub(address.host.0).min(self.slice_bytes() as u64);
        there as usize >> self.entry_bits() << self.entry_bits()
    }

    fn slice_of(&self, table: HostOffset, guest: u64) -> SliceAddress {
        let first_guest = guest >> self.slice_span_bits() << self.slice_span_bits();
        let in_table = (first_guest & (self.table_span() - 1)) >> self.slice_span_bits();
        SliceAddress { host: HostOffset(table.0 + in_table * self.slice_bytes() as u64), first_guest }
    }

    /// How many bytes of `range` empty L1 entries from `index` on map.
    fn empty_run(&self, l1: &L1Table, index: usize, range: ByteRange) -> u64 {
        let last = ((range.end() - 1) >> self.table_span_bits()) as usize;
        let entries = (index..=last).map_while(|index| l1.get(index));
        let empty = entries
            .take(MAX_EMPTY_RUN)
            .take_while(|entry| entry.load(Ordering::Acquire) & !COPIED == 0)
            .count();
        let end = (index + empty) as u64 * self.table_span();
        ByteRange::between(range.start(), end.min(range.end())).len()
    }

    /// The entry of the cluster `from` bytes into the slice's span, and its bitmap where entries have one.
    #[inline]
    pub(crate) fn entry(&self, slice: &L2Slice, from: u64) -> (u64, u64) {
        let index = (from >> self.cluster_bits) as usize;
        if self.extended { slice.pair(index) } else { (slice.word(index), 0) }
    }

    /// The part of the run at `from` that lies in one cluster.
    #[inline]
    fn piece(&self, slice: &L2Slice, from: u64, want: u64, data_len: u64) -> Result<Mapping, Fault> {
        let (entry, bitmap) = self.entry(slice, from);
        let cluster = l2_entry::cluster(entry, self.cluster_bits, self.reserved, self.external)?;
        let at = from & (self.cluster_size() - 1);
        let (cluster, len) = match cluster {
            Cluster::Data { .. } | Cluster::Unallocated if self.extended => {
                self.in_subclusters(cluster, bitmap, at)?
            }
            other => (other, self.cluster_size() - at),
        };
        let len = len.min(want);
        Ok(match cluster {
            Cluster::Unallocated => Mapping::new(Place::Unallocated, len),
            Cluster::Zero => Mapping::new(Place::Zero, len),
            Cluster::Compressed => Mapping::new(Place::Special, len),
            Cluster::Data { host, exclusive } => {
                let guest = slice.address.first_guest + from - at;
                if self.external && host != guest {
                    return Err(Fault::NotGuestOffset);
                }
                if host >= data_len {
                    return Err(Fault::BeyondEnd);
                }
                self.in_file(host + at, len, exclusive, data_len)
            }
        })
    }

    /// What the subclusters from byte `at` of `cluster` on are, and how many bytes share that.
    fn in_subclusters(&self, cluster: Cluster, bitmap: u64, at: u64) -> Result<(Cluster, u64), Fault> {
        let index = (at >> self.subcluster_bits()) as u32;
        let has_cluster = matches!(cluster, Cluster::Data { .. });
        let (state, count) = l2_entry::subclusters(bitmap, index, has_cluster)?;
        let len = (u64::from(index + count) << self.subcluster_bits()) - at;
        let place = match state {
            Subclusters::Allocated => cluster,
            Subclusters::Zero => Cluster::Zero,
            Subclusters::Unallocated => Cluster::Unallocated,
        };
        Ok((place, len))
    }

    /// A run of data, cut where the file ends.
    #[inline]
    fn in_file(&self, offset: u64, len: u64, exclusive: bool, data_len: u64) -> Mapping {
        match data_len.checked_sub(offset) {
            None | Some(0) => Mapping::new(Place::Zero, len),
            Some(left) => {
                Mapping::new(Place::Data { child: self.data_child(), offset, exclusive }, len.min(left))
            }
        }
    }

    #[cold]
    pub(crate) fn lie(&self, slice: &L2Slice, from: u64, fault: Fault) -> BlockError {
        let (index, guest) = (from >> self.cluster_bits, slice.address.first_guest + from);
        let table = HostOffset(slice.address.host.0 & !(self.cluster_size() - 1));
        let in_table = ((slice.address.host.0 - table.0) >> self.entry_bits()) + index;
        let guest = guest & !(self.cluster_size() - 1);
        let lie = Lie::of_l2(self, self.entry(slice, from).0, fault, (table, in_table), guest);
        lie.error(self.name_entry(slice, from))
    }

    fn name_entry(&self, slice: &L2Slice, from: u64) -> String {
        let index = from >> self.cluster_bits;
        let host = HostOffset(slice.address.host.0 + (index << self.entry_bits()));
        let guest = slice.address.first_guest + (index << self.cluster_bits);
        let (entry, bitmap) = self.entry(slice, from);
        let bitmap = if self.extended { format!(", bitmap {bitmap:#018x}") } else { String::new() };
        format!("L2 entry at {host} for guest offset {guest:#x} ({entry:#018x}{bitmap})")
    }
}

#[cold]
fn out_of_range(range: ByteRange) -> BlockError {
    BlockError::new(ErrorKind::OutOfRange, format!("{range}: not in the virtual disk"))
}

#[cold]
fn not_in_slice(slice: &L2Slice, range: ByteRange) -> BlockError {
    let first = slice.address.first_guest;
    BlockError::new(ErrorKind::Invalid, format!("{range}: not in the L2 slice for guest offset {first:#x}"))
}
