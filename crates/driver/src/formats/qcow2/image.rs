//! An open image: its tables as far as they are in memory, and how they get there.
//!
//! Invariants: a lie in a table is an error of those who read there and of nobody else; a table that could not be read
//! is read again when it is next needed; an image that is only read has no [`Writer`] and pays nothing for one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use block::{BlockError, ByteRange, ErrorKind, Mapping, Place, Result};
use flow::events::NodeEvents;
use flow::{Next, NodeId, Op, RangeLocks, Request, SnapshotInfo};
use io::Lease;
use qcow2::{
    CompressedCluster, DATA_FILE_CHILD, FILE_CHILD, Geometry, Header, HostOffset, L1Table, L2Slice, Located,
    SliceAddress,
};

use super::bitmaps::Bitmaps;
use super::inflated::Inflated;
use super::slices::Slices;
use super::writing::writer::Writer;

pub(super) struct Image {
    pub(super) name: Box<str>,
    pub(super) geometry: Geometry,
    pub(super) l1: L1Table,
    /// Where it lies in the file. Changes under the turn of those who write tables.
    pub(super) l1_offset: AtomicU64,
    /// Virtual size in bytes; and up to where entries are changed, which is more while it grows or shrinks.
    pub(super) size: AtomicU64,
    pub(super) bound: AtomicU64,
    pub(super) slices: Slices,
    /// Held while a slice is read, so that those who need it too wait for it.
    pub(super) loads: RangeLocks,
    pub(super) inflated: Inflated,
    /// Length of the image file as far as tables may point into it. Grows before they do.
    pub(super) file_len: AtomicU64,
    /// The same of the file that holds guest data. A data file is opened after us: nothing is known of it (`u64::MAX`)
    /// before the first slice is loaded, and nothing is mapped before that.
    pub(super) data_len: AtomicU64,
    pub(super) writer: Option<Writer>,
    pub(super) bitmaps: Bitmaps,
    /// The snapshots as they were read, or changed, last; in an image whose present state is open.
    pub(super) snapshots: Mutex<Vec<SnapshotInfo>>,
    /// The header as it was read, or written, last.
    pub(super) known_header: ArcSwap<Header>,
    /// The ends of the chain that its file is.
    pub(super) home: Vec<NodeId>,
    /// Where it is told what its tables turn out to be.
    pub(super) events: NodeEvents,
    /// Whether it was told that a reader has met a lie.
    pub(super) lied: AtomicBool,
    /// Whether it was open for reading only: its bytes may be on their way from where they lie.
    pub(super) lent: AtomicBool,
}

impl Image {
    /// Where the first bytes of `range` lie; `None` when a slice has to be loaded first.
    #[inline]
    pub(super) fn map(&self, range: ByteRange) -> Result<Option<Mapping>> {
        let file_len = self.file_len.load(Ordering::Acquire);
        let data_len = self.data_len.load(Ordering::Acquire);
        let mapped = match self.geometry.locate(&self.l1, range, file_len) {
            Ok(Located::Slice(address)) => {
                self.slices.find(address, |slice| self.geometry.map(slice, range, data_len)).transpose()
            }
            Ok(Located::Unallocated { len }) => Ok(Some(Mapping::new(Place::Unallocated, len))),
            Err(error) => Err(error),
        };
        match (mapped, &self.writer) {
            (mapped, None) => mapped,
            // What was mapped meanwhile lies behind the end that we knew.
            (Err(_), Some(_)) if self.has_grown(file_len, data_len) => self.map(range),
            (mapped, Some(writer)) => Ok(mapped?.map(|mapping| writer.hold_back(mapping))),
        }
    }

    /// Where room is kept for the first bytes of `run`, which holds nothing, and how many share the answer.
    pub(super) fn kept_room(&self, run: ByteRange) -> Result<(Option<u64>, u64)> {
        let found = match self.locate(run)? {
            Located::Slice(address) => {
                self.slices.find(address, |slice| self.geometry.kept_room(slice, run)).transpose()?
            }
            Located::Unallocated { .. } => None,
        };
        Ok(found.unwrap_or((None, run.len())))
    }

    fn has_grown(&self, file_len: u64, data_len: u64) -> bool {
        (self.file_len.load(Ordering::Acquire), self.data_len.load(Ordering::Acquire)) != (file_len, data_len)
    }

    /// Which slice maps the first byte of `range`.
    pub(super) fn locate(&self, range: ByteRange) -> Result<Located> {
        loop {
            let file_len = self.file_len.load(Ordering::Acquire);
            match self.geometry.locate(&self.l1, range, file_len) {
                Err(_) if self.file_len.load(Ordering::Acquire) != file_len => {}
                located => return located,
            }
        }
    }

    /// Reads the slice that maps the first byte of `range`, if there is one and it is not there yet.
    pub(super) async fn load_slice(&self, range: ByteRange, next: Next<'_>) -> Result<()> {
        let Located::Slice(address) = self.locate(range)? else { return Ok(()) };
        let _alone = self.loads.exclusive(ByteRange::new(address.first_guest, 1)).await;
        if self.slices.find(address, |_| ()).is_some() || self.cache(address, None, range) {
            return Ok(());
        }
        if self.is_apart() {
            self.grow_data(next.size(DATA_FILE_CHILD)?);
        }
        let bytes = self.read_slice(address, next).await.map_err(|error| unreadable(error, address))?;
        self.cache(address, Some(Arc::new(L2Slice::parse(&self.geometry, address, &bytes)?)), range);
        Ok(())
    }

    /// The bytes of a slice. What the end of the file has cut off maps nothing.
    async fn read_slice(&self, address: SliceAddress, next: Next<'_>) -> Result<Lease> {
        let len = self.geometry.slice_bytes_in(address, self.file_len.load(Ordering::Acquire));
        let bytes = self.read_file(address.host.0, len, next).await?;
        if len == self.geometry.slice_bytes() {
            return Ok(bytes);
        }
        let mut whole = Lease::zeroed(self.geometry.slice_bytes());
        whole[..len].copy_from_slice(&bytes);
        Ok(whole)
    }

    /// The file that holds guest data is at least that long.
    pub(super) fn grow_data(&self, len: u64) {
        let first = self.data_len.compare_exchange(u64::MAX, len, Ordering::AcqRel, Ordering::Acquire);
        if first.is_err() {
            self.data_len.fetch_max(len, Ordering::AcqRel);
        }
    }

    /// Puts a slice into the cache that maps `range`: the one that writers have of it, else `read`, unless another
    /// table has taken its place meanwhile.
    fn cache(&self, address: SliceAddress, read: Option<Arc<L2Slice>>, range: ByteRange) -> bool {
        let current = || matches!(self.locate(range), Ok(Located::Slice(now)) if now == address);
        match &self.writer {
            Some(writer) => writer.books.cache(address, (&self.slices, &self.geometry), read, current),
            None => read.map(|slice| self.slices.keep(slice)).is_some(),
        }
    }

    pub(super) async fn read_file(&self, offset: u64, len: usize, next: Next<'_>) -> Result<Lease> {
        let rq = Request::new(Op::Read, ByteRange::new(offset, len as u64));
        let (result, bytes) = next.execute(FILE_CHILD, rq, Lease::new(len)).await;
        result.map(|()| bytes)
    }

    pub(super) async fn write_file(&self, offset: u64, bytes: Lease, next: Next<'_>) -> Result<()> {
        let rq = Request::new(Op::Write, ByteRange::new(offset, bytes.len() as u64));
        next.execute(FILE_CHILD, rq, bytes).await.0
    }

    /// Writes where guest data lies.
    pub(super) async fn write_data(&self, offset: u64, bytes: Lease, next: Next<'_>) -> Result<()> {
        let rq = Request::new(Op::Write, ByteRange::new(offset, bytes.len() as u64));
        next.execute(self.geometry.data_child(), rq, bytes).await.0
    }

    /// Where the compressed cluster is that holds `guest`, as far as tables in memory say so.
    fn compressed_now(&self, guest: u64) -> Option<CompressedCluster> {
        let Ok(Located::Slice(address)) = self.locate(ByteRange::new(guest, 1)) else { return None };
        let file_len = self.file_len.load(Ordering::Acquire);
        self.slices.find(address, |slice| self.geometry.compressed(slice, guest, file_len).ok()).flatten()
    }

    /// Where the compressed cluster is that holds `guest`; `None` when it is not compressed (any more).
    async fn compressed(&self, guest: u64, next: Next<'_>) -> Result<Option<CompressedCluster>> {
        let range = ByteRange::new(guest, 1);
        loop {
            let Located::Slice(address) = self.locate(range)? else { return Ok(None) };
            let file_len = self.file_len.load(Ordering::Acquire);
            let find = |slice: &_| match self.geometry.map(slice, range, u64::MAX)?.place {
                Place::Special => self.geometry.compressed(slice, guest, file_len).map(Some),
                _ => Ok(None),
            };
            if let Some(found) = self.slices.find(address, find) {
                return found;
            }
            self.load_slice(range, next).await?;
        }
    }

    /// Fills the lease with the bytes of `range`, which lie in compressed clusters.
    pub(super) async fn inflate(&self, range: ByteRange, lease: &mut Lease, next: Next<'_>) -> Result<()> {
        let mut done = 0;
        while done < lease.len() {
            let at = range.start() + done as u64;
            let first = at - at % self.geometry.cluster_size();
            let len = ((first + self.geometry.cluster_size() - at) as usize).min(lease.len() - done);
            match self.unpacked(at, next).await? {
                Some(bytes) => {
                    let from = (at - first) as usize;
                    lease[done..done + len].copy_from_slice(&bytes[from..from + len]);
                }
                // Written to since it was mapped.
                None => {
                    let bytes = self.read_own(ByteRange::new(at, len as u64), next).await?;
                    lease[done..done + len].copy_from_slice(&bytes);
                }
            }
            done += len;
        }
        Ok(())
    }

    async fn unpacked(&self, guest: u64, next: Next<'_>) -> Result<Option<Arc<Lease>>> {
        let first = guest - guest % self.geometry.cluster_size();
        if let Some(bytes) = self.inflated.find(first) {
            return Ok(Some(bytes));
        }
        let Some(cluster) = self.compressed(guest, next).await? else { return Ok(None) };
        let _turn = self.inflated.turn(&cluster).await?;
        if let Some(bytes) = self.inflated.find(first) {
            return Ok(Some(bytes));
        }
        let packed = self.read_file(cluster.host.0, cluster.len, next).await?;
        let current = || self.compressed_now(guest).is_some_and(|now| now.host == cluster.host);
        self.inflated.inflate(cluster, packed, current).await.map(Some)
    }

    /// The bytes of `range` as this image reads, its backing image included.
    pub(super) async fn read_own(&self, range: ByteRange, next: Next<'_>) -> Result<Lease> {
        let mut rest = Lease::zeroed(range.len() as usize);
        let mut whole = rest.split_to(0);
        let mut at = range;
        while !at.is_empty() {
            let Some(mapping) = self.map(at)? else {
                self.load_slice(at, next).await?;
                continue;
            };
            let here = at.head(mapping.len);
            let mut part = rest.split_to(here.len() as usize);
            let below = match mapping.place {
                Place::Data { child, offset, .. } => Some((child, here.at(offset))),
                Place::Unallocated => next.backing().map(|backing| (backing, here)),
                Place::Zero => None,
                Place::Special => {
                    Box::pin(self.inflate(here, &mut part, next)).await?;
                    None
                }
            };
            if let Some((child, place)) = below {
                let (result, read) = next.execute(child, Request::new(Op::Read, place), part).await;
                result?;
                part = read;
            }
            whole.join(part);
            at = at.skip(here.len());
        }
        Ok(whole)
    }

    /// Up to where the disk has bytes for those who change it.
    pub(super) fn bound(&self) -> u64 {
        self.bound.load(Ordering::Acquire)
    }

    /// Offset of a host cluster.
    pub(super) fn host(&self, cluster: u64) -> HostOffset {
        HostOffset(cluster << self.geometry.cluster_bits())
    }

    #[cold]
    pub(super) fn named(&self, error: BlockError) -> BlockError {
        error.within(format_args!("image '{}'", self.name))
    }

    /// What makes an image writable, where it is.
    pub(super) fn writer(&self) -> Result<&Writer> {
        self.writer
            .as_ref()
            .ok_or_else(|| BlockError::new(ErrorKind::ReadOnly, "the image is open read-only"))
    }
}

#[cold]
fn unreadable(error: BlockError, address: SliceAddress) -> BlockError {
    let SliceAddress { host, first_guest } = address;
    error.within(format_args!("cannot read the L2 table at {host} for guest offset {first_guest:#x}"))
}
