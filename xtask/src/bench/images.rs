//! The files that are served: raw, fully allocated qcow2, and qcow2 chains.
//!
//! Invariant: all of them are in the page cache and on disk before the first measurement, and gone afterwards.

use super::fio::Test;
use super::report::Report;
use super::rows;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Format of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Qcow2,
}

impl Format {
    /// As QEMU names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What an image is like.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) format: Format,
    /// The kind whose figures the same server's are compared with.
    pub(super) compared_with: Option<&'static str>,
    /// Layers of a chain with all data in the lowest; 0 for an image that is not measured as one.
    layers: usize,
}

impl Kind {
    /// Whether it is measured for its layers.
    pub(super) fn is_chain(&self) -> bool {
        self.layers > 0
    }
}

/// All kinds; the only list of them.
pub(super) const IMAGES: &[Kind] = &[
    Kind { name: "raw", format: Format::Raw, compared_with: None, layers: 0 },
    Kind { name: "qcow2", format: Format::Qcow2, compared_with: Some("raw"), layers: 0 },
    Kind { name: "chain1", format: Format::Qcow2, compared_with: None, layers: 1 },
    Kind { name: "chain8", format: Format::Qcow2, compared_with: Some("chain1"), layers: 8 },
    Kind { name: "chain64", format: Format::Qcow2, compared_with: Some("chain1"), layers: 64 },
];

/// Data in the lowest layer of a chain: the working set.
pub(super) const CHAIN_MIB: u64 = 64;
/// The one test that chains take.
const CHAIN_TEST: &str = "rr4k-d16";

/// An image on disk.
pub(super) struct Image {
    pub(super) kind: &'static Kind,
    pub(super) path: PathBuf,
    /// The same bytes as a raw file.
    pub(super) raw: PathBuf,
}

impl Image {
    /// Whether `test` is run on it. qcow2 is only read for now.
    pub(super) fn takes(&self, test: &Test) -> bool {
        let can_be_written = self.kind.format == Format::Raw;
        (test.is_read() || can_be_written) && (!self.kind.is_chain() || test.name == CHAIN_TEST)
    }

    /// Whether it is served read-only in `test`, by every row alike.
    pub(super) fn is_read_only(&self, test: &Test) -> bool {
        test.read_only || self.kind.format == Format::Qcow2
    }

    /// The folder for sockets and logs.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Writes back what a test left dirty, so that the next row does not pay for it.
    pub(super) fn sync(&self) -> Result<(), String> {
        [&self.path, &self.raw]
            .into_iter()
            .try_for_each(|path| flush(path).map_err(|error| naming(path, &error)))
    }
}

/// The folder with all images; removed when dropped.
pub(super) struct Images {
    folder: PathBuf,
    images: Vec<Image>,
}

impl Images {
    /// Makes `kinds` in `folder`, whatever was there before; kinds that need a missing qemu-img are skipped by name.
    pub(super) fn make(
        folder: &Path,
        kinds: &[&'static Kind],
        mib: u64,
        report: &mut Report,
    ) -> Result<Self, String> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).map_err(|error| naming(folder, &error))?;
        let mut made = Self { folder: folder.to_owned(), images: Vec::new() };
        for &kind in kinds {
            if kind.format == Format::Raw || report.skipped.keep_if(kind.name, rows::find("qemu-img")) {
                made.images.push(made.image(kind, mib)?);
            }
        }
        Ok(made)
    }

    /// The images, in the order of [`IMAGES`].
    pub(super) fn all(&self) -> &[Image] {
        &self.images
    }

    fn image(&self, kind: &'static Kind, mib: u64) -> Result<Image, String> {
        let mib = if kind.is_chain() { CHAIN_MIB } else { mib };
        let raw = self.folder.join(format!("{mib}.raw"));
        if !raw.exists() {
            write_noise(&raw, mib).map_err(|error| naming(&raw, &error))?;
        }
        let path = match kind.format {
            Format::Raw => raw.clone(),
            Format::Qcow2 => chain(&self.folder, kind.name, kind.layers, &raw)?,
        };
        Ok(Image { kind, path, raw })
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("{}", naming(&self.folder, &error));
        }
    }
}

pub(super) fn naming(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

pub(super) fn flush(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.sync_all()
}

/// A qcow2 `name` with the bytes of `raw`, below as many empty layers as it has more than one.
pub(super) fn chain(folder: &Path, name: &str, layers: usize, raw: &Path) -> Result<PathBuf, String> {
    let layer = |n: usize| folder.join(format!("{name}-{n}.qcow2"));
    let mut top = layer(1);
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2"], &[raw, &top])?;
    for n in 2..=layers {
        let (below, overlay) = (top, layer(n));
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"], &[&below, &overlay])?;
        top = overlay;
    }
    flush(&layer(1)).map_err(|error| naming(&top, &error))?;
    Ok(top)
}

/// Fills a new file with bytes that no format can shorten.
pub(super) fn write_noise(path: &Path, mib: u64) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut noise = Noise::new();
    let mut block = vec![0; 1 << 20];
    for _ in 0..mib {
        noise.fill(&mut block);
        file.write_all(&block)?;
    }
    file.sync_all()
}

/// Numbers that look random, and are the same in every run (xorshift).
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Fills a block whose length is a multiple of 8.
    pub(super) fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&self.number().to_le_bytes());
        }
    }
}

pub(super) fn qemu_img(arguments: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new("qemu-img").args(arguments).args(paths).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("qemu-img: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("qemu-img: {error}")),
    }
}
