//! A reference reader: whole chains of images read with plain file I/O through the pure functions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use block::{BlockError, ByteRange, Mapping, Place, Result};
use qcow2::{
    DATA_FILE_CHILD, Decompressor, FILE_CHILD, Geometry, Header, L1Table, L2Slice, Located, SliceAddress,
    Target,
};

/// An opened image, raw or qcow2.
pub(crate) enum Disk {
    Raw(Stored),
    Qcow2(Box<Image>),
}

/// A file and its length.
pub(crate) struct Stored {
    file: File,
    len: u64,
}

pub(crate) struct Image {
    pub(crate) header: Header,
    pub(crate) geometry: Geometry,
    file: Stored,
    data: Option<Stored>,
    l1: L1Table,
    slices: RefCell<HashMap<SliceAddress, Rc<L2Slice>>>,
    decompressor: RefCell<Decompressor>,
    /// The last compressed cluster that was read.
    cluster: RefCell<(u64, Rc<[u8]>)>,
    backing: Option<Disk>,
}

impl Disk {
    /// Opens the image `name`, seen from the working directory `dir`.
    pub(crate) fn open(dir: &Path, name: &str, format: &str) -> Result<Self> {
        let file = Stored::open(dir.join(name))?;
        Ok(match format {
            "raw" => Self::Raw(file),
            "qcow2" => Self::Qcow2(Box::new(Image::open(dir, name, file)?)),
            other => panic!("format {other}"),
        })
    }

    fn open_target(dir: &Path, target: Target, format: Option<&str>) -> Result<Self> {
        match target {
            Target::Path(path) => Self::open(dir, &path, format.expect("a format is named")),
            Target::Options(options) => {
                assert_eq!(options.text("file.driver"), Some("file"));
                let name = options.text("file.filename").expect("a file name");
                Self::open(dir, name, options.text("driver").expect("a driver"))
            }
            Target::Protocol { name, .. } => panic!("{name}: the reference reader opens files only"),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Raw(stored) => stored.len,
            Self::Qcow2(image) => image.geometry.virtual_size(),
        }
    }

    /// Reads from `offset`; zeros beyond the end.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let len = self.size().saturating_sub(offset).min(out.len() as u64) as usize;
        let (inside, outside) = out.split_at_mut(len);
        outside.fill(0);
        match self {
            Self::Raw(stored) => stored.read(offset, inside),
            Self::Qcow2(image) => image.read(offset, inside),
        }
    }

    /// The whole disk, read in pieces of `piece` bytes.
    pub(crate) fn read_all(&self, piece: usize) -> Result<Vec<u8>> {
        let mut all = vec![0xa5; self.size() as usize];
        let mut offset = 0;
        for chunk in all.chunks_mut(piece) {
            self.read(offset, chunk)?;
            offset += chunk.len() as u64;
        }
        Ok(all)
    }

    pub(crate) fn image(&self) -> &Image {
        let Self::Qcow2(image) = self else { panic!("a raw image") };
        image
    }
}

impl Stored {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let failed = |error| BlockError::system(format!("{}", path.display()), error);
        let file = File::open(&path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Ok(Self { file, len })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|error| BlockError::system("read", error))
    }

    fn bytes(&self, range: ByteRange) -> Result<Vec<u8>> {
        let mut bytes = vec![0; range.len() as usize];
        self.read(range.start(), &mut bytes)?;
        Ok(bytes)
    }
}

impl Image {
    fn open(dir: &Path, name: &str, file: Stored) -> Result<Self> {
        let prefix = file.bytes(ByteRange::new(0, file.len.min(Header::PREFIX as u64)))?;
        let first = Header::needed(&prefix)? as u64;
        let header = Header::parse(&file.bytes(ByteRange::new(0, file.len.min(first)))?)?;
        let geometry = Geometry::new(&header);
        let l1 = L1Table::parse(&geometry, &file.bytes(geometry.l1_range(file.len)?)?)?;
        let data = match header.data_file.as_ref().and_then(|data| data.name.as_deref()) {
            None => None,
            Some(data) => match qcow2::resolve(data, "")? {
                Target::Path(path) => Some(Stored::open(dir.join(path))?),
                other => panic!("{other:?}"),
            },
        };
        let backing = match &header.backing {
            None => None,
            Some(backing) => {
                let target = qcow2::resolve(&backing.name, name)?;
                Some(Disk::open_target(dir, target, backing.format.as_deref())?)
            }
        };
        let decompressor = RefCell::new(Decompressor::new(header.compression)?);
        let cluster = RefCell::new((u64::MAX, Rc::from([])));
        Ok(Self {
            header,
            geometry,
            file,
            data,
            l1,
            slices: RefCell::default(),
            decompressor,
            cluster,
            backing,
        })
    }

    /// The mapping of the first bytes of `range`.
    pub(crate) fn map(&self, range: ByteRange) -> Result<Mapping> {
        match self.geometry.locate(&self.l1, range, self.file.len)? {
            Located::Unallocated { len } => Ok(Mapping::new(Place::Unallocated, len)),
            Located::Slice(address) => {
                let slice = self.slice(address)?;
                self.geometry.map(&slice, range, self.data.as_ref().unwrap_or(&self.file).len)
            }
        }
    }

    /// All runs of the disk, as mapped.
    pub(crate) fn runs(&self) -> Result<Vec<(ByteRange, Place)>> {
        let (mut runs, mut rest) = (Vec::new(), ByteRange::new(0, self.geometry.virtual_size()));
        while !rest.is_empty() {
            let run = self.map(rest)?;
            runs.push((rest.head(run.len), run.place));
            rest = rest.skip(run.len);
        }
        Ok(runs)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut range = ByteRange::new(offset, out.len() as u64);
        while !range.is_empty() {
            let run = self.map(range)?;
            assert!(run.len > 0 && run.len <= range.len(), "{run:?} for {range:?}");
            let done = (range.start() - offset) as usize;
            let piece = &mut out[done..done + run.len as usize];
            self.read_run(range.start(), run, piece)?;
            range = range.skip(run.len);
        }
        Ok(())
    }

    fn read_run(&self, guest: u64, run: Mapping, out: &mut [u8]) -> Result<()> {
        match run.place {
            Place::Zero => out.fill(0),
            Place::Unallocated => match &self.backing {
                Some(backing) => backing.read(guest, out)?,
                None => out.fill(0),
            },
            Place::Data { child: FILE_CHILD, offset, .. } => self.file.read(offset, out)?,
            Place::Data { child: DATA_FILE_CHILD, offset, .. } => {
                self.data.as_ref().expect("a data file").read(offset, out)?;
            }
            Place::Data { child, .. } => panic!("{child:?}"),
            Place::Special => {
                let at = (guest % self.geometry.cluster_size()) as usize;
                out.copy_from_slice(&self.cluster(guest)?[at..at + out.len()]);
            }
        }
        Ok(())
    }

    /// The compressed cluster that holds `guest`.
    fn cluster(&self, guest: u64) -> Result<Rc<[u8]>> {
        let first = guest - guest % self.geometry.cluster_size();
        if self.cluster.borrow().0 == first {
            return Ok(self.cluster.borrow().1.clone());
        }
        let located = self.geometry.locate(&self.l1, ByteRange::new(guest, 1), self.file.len)?;
        let Located::Slice(address) = located else { panic!("{located:?}") };
        let compressed = self.geometry.compressed(&*self.slice(address)?, guest, self.file.len)?;
        let bytes = self.file.bytes(ByteRange::new(compressed.host.0, compressed.len as u64))?;
        let mut cluster = vec![0; self.geometry.cluster_size() as usize];
        self.decompressor.borrow_mut().decompress(&compressed, &bytes, &mut cluster)?;
        *self.cluster.borrow_mut() = (first, cluster.into());
        Ok(self.cluster.borrow().1.clone())
    }

    fn slice(&self, address: SliceAddress) -> Result<Rc<L2Slice>> {
        if let Some(slice) = self.slices.borrow().get(&address) {
            return Ok(slice.clone());
        }
        let range = ByteRange::new(address.host.0, self.geometry.slice_bytes() as u64);
        let slice = Rc::new(L2Slice::parse(&self.geometry, address, &self.file.bytes(range)?)?);
        self.slices.borrow_mut().insert(address, slice.clone());
        Ok(slice)
    }
}
