//! `qcow2`: QEMU's copy-on-write images, read-only.
//!
//! The format itself is the crate `qcow2`; this driver reads its tables when they are needed and keeps them: the
//! L1 table whole, L2 tables in slices within a budget, and the last few clusters that were decompressed.
//!
//! Invariants: nothing is written; the image's own names are answered as wishes and opened by nobody here; a lie
//! in a table is an error of those who read there and of nobody else; a table that could not be read is read again
//! when it is next needed.

mod inflated;
mod options;
mod slices;
mod wants;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ByteRange, ErrorKind, Mapping, Place, Result};
use flow::{Body, Changes, Format, Limits, Next, Op, RangeLocks, Request, Role, View, ZeroCost, seam};
use io::{Lease, LocalFut};
use qcow2::{
    CompressedCluster, DATA_FILE_CHILD, FILE_CHILD, Geometry, Header, L1Table, L2Slice, Located, SliceAddress,
};

use crate::context::{OpenContext, Opened};
use inflated::Inflated;
pub use options::Options;
use slices::Slices;

/// Opens a `qcow2` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let file = context.child(Role::File)?.clone();
        let image = name(&context, &file);
        let opened = match context.read_only {
            true => open_image(&context, &options, &file, &image).await,
            false => Err(BlockError::new(
                ErrorKind::Unsupported,
                "qcow2 images are opened read-only for now: add 'read-only=on' (-r)",
            )),
        };
        opened.map_err(|error| error.within(format_args!("image '{image}'")))
    })
}

async fn open_image(context: &OpenContext, options: &Options, file: &View, name: &str) -> Result<Opened> {
    let budget = options.l2_budget()?;
    let file_len = file.size();
    let header = read_header(file, file_len).await?;
    let geometry = options.geometry(&header)?;
    let l1 = seam::read(file, geometry.l1_range(file_len)?).await?;
    let image = Qcow2 {
        name: name.into(),
        l1: L1Table::parse(&geometry, &l1)?,
        slices: Slices::new(&geometry, budget),
        loads: RangeLocks::default(),
        inflated: Inflated::new(header.compression, context.world.clone()),
        geometry,
        file_len,
        data_len: AtomicU64::new(if header.data_file.is_some() { u64::MAX } else { file_len }),
    };
    Ok(Opened { body: Body::Maps(Arc::new(image)), wants: wants::wants(context, &header)? })
}

async fn read_header(file: &View, file_len: u64) -> Result<Header> {
    let prefix = seam::read(file, ByteRange::between(0, file_len.min(Header::PREFIX as u64))).await?;
    let needed = Header::needed(&prefix)? as u64;
    let first = seam::read(file, ByteRange::between(0, file_len.min(needed))).await?;
    Header::parse(&first)
}

/// What messages call the image: its path, else the node that it lies on.
fn name(context: &OpenContext, file: &View) -> String {
    match &context.base {
        Some(path) => path.display().to_string(),
        None => file.root().name().to_string(),
    }
}

struct Qcow2 {
    name: Box<str>,
    geometry: Geometry,
    l1: L1Table,
    slices: Slices,
    /// Held while a slice is read, so that those who need it too wait for it.
    loads: RangeLocks,
    inflated: Inflated,
    file_len: u64,
    /// Length of the file that holds guest data. A data file is opened after us: nothing is known of it before the
    /// first slice is loaded, and nothing is mapped before that.
    data_len: AtomicU64,
}

impl Qcow2 {
    /// Reads the slice that maps the first byte of `range`, if there is one and it is not there yet.
    async fn load_slice(&self, range: ByteRange, next: Next<'_>) -> Result<()> {
        let Located::Slice(address) = self.geometry.locate(&self.l1, range, self.file_len)? else {
            return Ok(());
        };
        let _alone = self.loads.exclusive(ByteRange::new(address.first_guest, 1)).await;
        if self.slices.find(address, |_| ()).is_some() {
            return Ok(());
        }
        if self.geometry.data_child() == DATA_FILE_CHILD {
            self.data_len.store(next.size(DATA_FILE_CHILD)?, Ordering::Release);
        }
        let bytes = self.read_file(address.host.0, self.geometry.slice_bytes(), next).await;
        let bytes = bytes.map_err(|error| unreadable(error, address))?;
        self.slices.keep(Arc::new(L2Slice::parse(&self.geometry, address, &bytes)?));
        Ok(())
    }

    async fn read_file(&self, offset: u64, len: usize, next: Next<'_>) -> Result<Lease> {
        let rq = Request::new(Op::Read, ByteRange::new(offset, len as u64));
        let (result, bytes) = next.execute(FILE_CHILD, rq, Lease::new(len)).await;
        result.map(|()| bytes)
    }

    /// Where the compressed cluster is that holds `guest`.
    async fn compressed(&self, guest: u64, next: Next<'_>) -> Result<CompressedCluster> {
        let range = ByteRange::new(guest, 1);
        loop {
            let address = match self.geometry.locate(&self.l1, range, self.file_len)? {
                Located::Slice(address) => address,
                Located::Unallocated { .. } => return Err(not_compressed(guest)),
            };
            let found = self.slices.find(address, |s| self.geometry.compressed(s, guest, self.file_len));
            if let Some(found) = found {
                return found;
            }
            self.load_slice(range, next).await?;
        }
    }

    /// Fills the lease with the bytes of `range`, which lie in compressed clusters.
    async fn inflate(&self, range: ByteRange, lease: &mut Lease, next: Next<'_>) -> Result<()> {
        let mut done = 0;
        while done < lease.len() {
            let at = range.start() + done as u64;
            let first = at - at % self.geometry.cluster_size();
            let bytes = match self.inflated.find(first) {
                Some(bytes) => bytes,
                None => self.unpack(at, next).await?,
            };
            let from = (at - first) as usize;
            let len = (bytes.len() - from).min(lease.len() - done);
            lease[done..done + len].copy_from_slice(&bytes[from..from + len]);
            done += len;
        }
        Ok(())
    }

    async fn unpack(&self, guest: u64, next: Next<'_>) -> Result<Arc<Vec<u8>>> {
        let cluster = self.compressed(guest, next).await?;
        let _turn = self.inflated.turn(&cluster).await?;
        if let Some(bytes) = self.inflated.find(cluster.guest.start()) {
            return Ok(bytes);
        }
        let packed = self.read_file(cluster.host.0, cluster.len, next).await?;
        self.inflated.inflate(cluster, packed).await
    }

    #[cold]
    fn named(&self, error: BlockError) -> BlockError {
        error.within(format_args!("image '{}'", self.name))
    }
}

#[cold]
fn not_compressed(guest: u64) -> BlockError {
    BlockError::new(ErrorKind::Corrupt, format!("guest offset {guest:#x} is not compressed"))
}

#[cold]
fn unreadable(error: BlockError, address: SliceAddress) -> BlockError {
    let SliceAddress { host, first_guest } = address;
    error.within(format_args!("cannot read the L2 table at {host} for guest offset {first_guest:#x}"))
}

impl Format for Qcow2 {
    fn size(&self) -> u64 {
        self.geometry.virtual_size()
    }

    fn limits(&self) -> Limits {
        Limits { granule: self.geometry.cluster_size(), zeroing: ZeroCost::Free, ..Limits::NONE }
    }

    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>> {
        let mapped = match self.geometry.locate(&self.l1, range, self.file_len) {
            Ok(Located::Slice(address)) => {
                let map = |slice: &_| self.geometry.map(slice, range, self.data_len.load(Ordering::Relaxed));
                self.slices.find(address, map).transpose()
            }
            Ok(Located::Unallocated { len }) => Ok(Some(Mapping::new(Place::Unallocated, len))),
            Err(error) => Err(error),
        };
        mapped.map_err(|error| self.named(error))
    }

    fn load<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move { self.load_slice(range, next).await.map_err(|error| self.named(error)) })
    }

    fn read_special<'a>(
        &'a self,
        range: ByteRange,
        mut lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move {
            let done = self.inflate(range, &mut lease, next).await;
            (done.map_err(|error| self.named(error)), lease)
        })
    }

    fn changes(&self) -> Option<&dyn Changes> {
        None
    }
}
