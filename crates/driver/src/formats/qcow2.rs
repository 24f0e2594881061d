//! `qcow2`: QEMU's copy-on-write images, read-only.
//!
//! The format itself is the crate `qcow2`; this driver reads its tables when they are needed and keeps them: the
//! L1 table whole, L2 tables in slices within a budget, and the last few clusters that were decompressed.
//!
//! Invariants: nothing is written; the image's own names are answered as wishes and opened by nobody here; a lie
//! in a table is an error of those who read there and of nobody else.

mod inflated;
mod slices;

use std::path::PathBuf;
use std::sync::Arc;

use block::{BlockError, ByteRange, ErrorKind, Mapping, Place, Result};
use flow::{Body, Changes, Format, Limits, Next, Op, Request, Role, View, ZeroCost, seam};
use io::{Lease, LocalFut};
use qcow2::{CompressedCluster, FILE_CHILD, Geometry, Header, L1Table, L2Slice, Located, SliceAddress};
use serde::Deserialize;

use crate::context::{OpenContext, Opened, Reference, Wanted};
use inflated::Inflated;
use slices::Slices;

/// Memory for L2 tables unless the options say otherwise, in bytes (QEMU's default).
const L2_CACHE: u64 = 32 << 20;

/// Options of a qcow2 node; those that only concern writing are taken and have no effect yet.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Options {
    /// Most bytes of L2 tables in memory; default 32 MiB.
    l2_cache_size: Option<u64>,
    /// The same for all tables.
    cache_size: Option<u64>,
    /// Bytes of an L2 table that are read at a time, 512 to the cluster size; default 4096.
    l2_cache_entry_size: Option<u64>,
    #[serde(rename = "refcount-cache-size")]
    _refcount_cache_size: Option<u64>,
    #[serde(rename = "lazy-refcounts")]
    _lazy_refcounts: Option<bool>,
    #[serde(rename = "overlap-check")]
    _overlap_check: Option<serde_json::Value>,
    #[serde(rename = "cache-clean-interval")]
    _cache_clean_interval: Option<u64>,
    #[serde(rename = "pass-discard-request")]
    _pass_discard_request: Option<bool>,
    #[serde(rename = "pass-discard-snapshot")]
    _pass_discard_snapshot: Option<bool>,
    #[serde(rename = "pass-discard-other")]
    _pass_discard_other: Option<bool>,
    #[serde(rename = "discard-no-unref")]
    _discard_no_unref: Option<bool>,
}

/// Opens a `qcow2` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let name = context.node_name.clone();
        if !context.read_only {
            let text =
                format!("node '{name}': qcow2 images are opened read-only for now: add 'read-only=on'");
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        let file = context.child(Role::File)?.clone();
        let image = base(&context, &file);
        let opened = open_image(&context, &options, &file).await;
        opened.map_err(|error| error.within(format_args!("image '{image}'")))
    })
}

async fn open_image(context: &OpenContext, options: &Options, file: &View) -> Result<Opened> {
    let file_len = file.size();
    let header = read_header(file, file_len).await?;
    let entry = options.l2_cache_entry_size.and_then(|bytes| usize::try_from(bytes).ok());
    let geometry = match entry {
        Some(bytes) => Geometry::new(&header).with_slice_bytes(bytes),
        None => Geometry::new(&header),
    };
    let l1 = seam::read(file, geometry.l1_range(file_len)?).await?;
    let wants = wants(context, &header)?;
    let data_len = match context.child(Role::DataFile) {
        Ok(data) if header.data_file.is_some() => data.size(),
        // Opened after us: what it does not hold reads as zeros.
        _ if header.data_file.is_some() => u64::MAX,
        _ => file_len,
    };
    let budget = options.l2_cache_size.or(options.cache_size).unwrap_or(L2_CACHE);
    let image = Qcow2 {
        l1: L1Table::parse(&geometry, &l1)?,
        slices: Slices::new(&geometry, budget),
        inflated: Inflated::new(header.compression),
        geometry,
        file_len,
        data_len,
    };
    Ok(Opened { body: Body::Maps(Arc::new(image)), wants })
}

async fn read_header(file: &View, file_len: u64) -> Result<Header> {
    let prefix = seam::read(file, ByteRange::between(0, file_len.min(Header::PREFIX as u64))).await?;
    let needed = Header::needed(&prefix)? as u64;
    let first = seam::read(file, ByteRange::between(0, file_len.min(needed))).await?;
    Header::parse(&first)
}

/// The other images that the header names, unless the options named theirs.
fn wants(context: &OpenContext, header: &Header) -> Result<Vec<Wanted>> {
    let mut wants = Vec::new();
    let given = |role| context.children.iter().any(|(r, _)| *r == role);
    if let Some(data) = header.data_file.as_ref().filter(|_| !given(Role::DataFile)) {
        let missing =
            || BlockError::new(ErrorKind::Invalid, "it names no data file: add the option 'data-file'");
        let name = data.name.as_deref().ok_or_else(missing)?;
        // As QEMU takes it: relative to the working directory.
        let reference = refer(name, "", Some("raw"))?;
        wants.push(Wanted { role: Role::DataFile, reference });
    }
    if let Some(backing) = header.backing.as_ref().filter(|_| !given(Role::Backing) && !context.no_backing) {
        let base =
            context.base.as_deref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let reference = refer(&backing.name, &base, backing.format.as_deref())?;
        wants.push(Wanted { role: Role::Backing, reference });
    }
    Ok(wants)
}

fn refer(name: &str, base: &str, format: Option<&str>) -> Result<Reference> {
    let format = format.map(str::to_owned);
    Ok(match qcow2::resolve(name, base)? {
        qcow2::Target::Path(path) => Reference::File { path: PathBuf::from(path), format },
        qcow2::Target::Protocol { name, .. } => Reference::Protocol { name, format },
        qcow2::Target::Options(options) => match options.nested()? {
            serde_json::Value::Object(map) => Reference::Options(map),
            _ => return Err(BlockError::new(ErrorKind::Corrupt, "a json: name holds no options")),
        },
    })
}

fn base(context: &OpenContext, file: &View) -> String {
    match &context.base {
        Some(path) => path.display().to_string(),
        None => file.root().name().to_string(),
    }
}

struct Qcow2 {
    geometry: Geometry,
    l1: L1Table,
    slices: Slices,
    inflated: Inflated,
    file_len: u64,
    data_len: u64,
}

impl Qcow2 {
    /// Reads the slice that maps the first byte of `range`, if there is one and it is not there yet.
    async fn load_slice(&self, range: ByteRange, next: Next<'_>) -> Result<()> {
        let Located::Slice(address) = self.geometry.locate(&self.l1, range, self.file_len)? else {
            return Ok(());
        };
        if self.slices.find(address, |_| ()).is_some() {
            return Ok(());
        }
        let bytes = self.read_file(address.host.0, self.geometry.slice_bytes(), next).await?;
        self.slices.keep(Arc::new(L2Slice::parse(&self.geometry, address, &bytes)?));
        Ok(())
    }

    async fn read_file(&self, offset: u64, len: usize, next: Next<'_>) -> Result<Lease> {
        let rq = Request::new(Op::Read, ByteRange::new(offset, len as u64));
        let (result, bytes) = next.execute(FILE_CHILD, rq, Lease::new(len)).await;
        result.map(|()| bytes)
    }

    async fn compressed(&self, guest: u64, next: Next<'_>) -> Result<CompressedCluster> {
        loop {
            let range = ByteRange::new(guest, 1);
            let address = match self.geometry.locate(&self.l1, range, self.file_len)? {
                Located::Slice(address) => address,
                Located::Unallocated { .. } => return Err(not_compressed(guest)),
            };
            if let Some(found) =
                self.slices.find(address, |s| self.geometry.compressed(s, guest, self.file_len))
            {
                return found;
            }
            self.load_slice(range, next).await?;
        }
    }

    async fn inflate(&self, range: ByteRange, lease: &mut Lease, next: Next<'_>) -> Result<()> {
        let mut done = 0;
        while done < lease.len() {
            let at = range.start() + done as u64;
            let cluster = at - at % self.geometry.cluster_size();
            let bytes = match self.inflated.find(cluster) {
                Some(bytes) => bytes,
                None => {
                    let place = self.compressed(at, next).await?;
                    let packed = self.read_file(place.host.0, place.len, next).await?;
                    self.inflated.inflate(&place, &packed)?
                }
            };
            let from = (at - cluster) as usize;
            let len = (bytes.len() - from).min(lease.len() - done);
            lease[done..done + len].copy_from_slice(&bytes[from..from + len]);
            done += len;
        }
        Ok(())
    }
}

#[cold]
fn not_compressed(guest: u64) -> BlockError {
    BlockError::new(ErrorKind::Corrupt, format!("guest offset {guest:#x} is not compressed"))
}

impl Format for Qcow2 {
    fn size(&self) -> u64 {
        self.geometry.virtual_size()
    }

    fn limits(&self) -> Limits {
        Limits { granule: self.geometry.cluster_size(), zeroing: ZeroCost::Free, ..Limits::NONE }
    }

    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>> {
        match self.geometry.locate(&self.l1, range, self.file_len)? {
            Located::Unallocated { len } => Ok(Some(Mapping::new(Place::Unallocated, len))),
            Located::Slice(address) => {
                self.slices.find(address, |slice| self.geometry.map(slice, range, self.data_len)).transpose()
            }
        }
    }

    fn load<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(self.load_slice(range, next))
    }

    fn read_special<'a>(
        &'a self,
        range: ByteRange,
        mut lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move { (self.inflate(range, &mut lease, next).await, lease) })
    }

    fn changes(&self) -> Option<&dyn Changes> {
        None
    }
}

/// The key of a slice in the cache.
fn same(slice: &L2Slice, address: SliceAddress) -> bool {
    slice.address() == address
}
