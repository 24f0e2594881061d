//! The images that are worked on.
//!
//! Invariant: an image is made once and in the page cache and on disk before anything is measured on it; those that are
//! written to hold the same after each run, or are made anew for it.

use super::super::images::{CHAIN_MIB, Noise, chain, flush, naming, qemu_img, write_noise};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What an image is like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A raw image of data that can be packed to about a half.
    Raw,
    /// The same as qcow2.
    Full,
    /// A qcow2 of the same size without data, made anew for each run.
    Empty,
    /// A qcow2 of 40 GiB without data, made anew for each run.
    Fresh,
    /// A qcow2 of 40 GiB, all of it allocated; what is read of it is written first.
    Wide,
    /// As many layers, all data in the lowest.
    Chain(usize),
    /// A qcow2 with as many clusters as are to be checked, in the same way.
    Many,
}

const CLUSTER: u64 = 64 << 10;
const WIDE: u64 = 40 << 30;

/// Where they are.
pub(super) struct Images {
    folder: PathBuf,
    data_mib: u64,
    clusters: u64,
}

impl Images {
    pub(super) fn new(folder: &Path, data_mib: u64, clusters: u64) -> Self {
        Self { folder: folder.to_owned(), data_mib, clusters }
    }

    /// The folder for whatever else a run leaves.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many bytes of the image there are to work on.
    pub(super) fn size(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Raw | Kind::Full | Kind::Empty => self.data_mib << 20,
            Kind::Fresh | Kind::Wide => WIDE,
            Kind::Chain(_) => CHAIN_MIB << 20,
            Kind::Many => self.clusters * CLUSTER,
        }
    }

    /// Its file.
    pub(super) fn path(&self, kind: Kind) -> PathBuf {
        self.folder.join(match kind {
            Kind::Raw => "data.raw".to_owned(),
            Kind::Full => "data.qcow2".to_owned(),
            Kind::Empty => "empty.qcow2".to_owned(),
            Kind::Fresh => "fresh.qcow2".to_owned(),
            Kind::Wide => "wide.qcow2".to_owned(),
            Kind::Chain(layers) => format!("chain{layers}-{layers}.qcow2"),
            Kind::Many => "many.qcow2".to_owned(),
        })
    }

    /// Makes it, unless it is there.
    pub(super) fn make(&self, kind: Kind) -> Result<(), String> {
        let path = self.path(kind);
        if path.exists() && !matches!(kind, Kind::Empty | Kind::Fresh) {
            return Ok(());
        }
        match kind {
            Kind::Raw => write_data(&path, self.data_mib).map_err(|error| naming(&path, &error))?,
            Kind::Full => {
                self.make(Kind::Raw)?;
                qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[&self.path(Kind::Raw), &path])?;
            }
            Kind::Empty | Kind::Fresh => self.create(&path, kind, "preallocation=off")?,
            Kind::Chain(layers) => self.chain(layers)?,
            Kind::Wide | Kind::Many => self.create(&path, kind, "preallocation=metadata")?,
        }
        flush(&path).map_err(|error| naming(&path, &error))
    }

    /// The file of a disk of the same size without a format, and no less ready.
    pub(super) fn bare(&self, kind: Kind) -> Result<PathBuf, String> {
        let named = |name: &str| self.folder.join(name);
        let (path, is_kept) = match kind {
            Kind::Raw | Kind::Full | Kind::Many => (self.path(Kind::Raw), true),
            Kind::Chain(_) => (named("chain.raw"), true),
            Kind::Wide => (named("bare-wide.raw"), true),
            Kind::Empty | Kind::Fresh => (named("bare-empty.raw"), false),
        };
        if path.exists() && is_kept {
            return Ok(path);
        }
        let made = File::create(&path).and_then(|file| file.set_len(self.size(kind)));
        made.and_then(|()| flush(&path)).map_err(|error| naming(&path, &error))?;
        Ok(path)
    }

    fn chain(&self, layers: usize) -> Result<(), String> {
        let raw = self.folder.join("chain.raw");
        if !raw.exists() {
            write_noise(&raw, CHAIN_MIB).map_err(|error| naming(&raw, &error))?;
        }
        chain(&self.folder, &format!("chain{layers}"), layers, &raw).map(drop)
    }

    fn create(&self, path: &Path, kind: Kind, options: &str) -> Result<(), String> {
        let size = self.size(kind).to_string();
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options], &[path, Path::new(&size)])
    }
}

/// Each page half noise, half zeros.
fn write_data(path: &Path, mib: u64) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let (mut noise, mut block) = (Noise::new(), vec![0; 1 << 20]);
    for _ in 0..mib {
        block.chunks_exact_mut(4096).for_each(|page| noise.fill(&mut page[..2048]));
        file.write_all(&block)?;
    }
    file.sync_all()
}
