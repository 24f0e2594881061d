//! New images from their settings, in whole: every mistake is found before a file is touched.

use qcow2::{Backing, BackingMark, Compression, DataFile, Version, cache};

use crate::backing_mark;
use crate::failure::{Failure, Result};
use crate::foreign;
use crate::image::SECTOR;
use crate::new_file::{NewFile, Room};
use crate::option_list::QUOTA;
use crate::session::Session;
use crate::settings::Settings;

/// An image that can be made.
#[derive(Clone, Debug)]
pub(crate) enum NewImage {
    /// Bytes as they are.
    Raw {
        /// Its length.
        size: u64,
        /// Room for it.
        room: Room,
    },
    /// Of the format qcow2.
    Qcow2 {
        /// What it is like.
        image: qcow2::NewImage,
        /// Room for its data.
        room: Room,
    },
}

/// What comes into a new image next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    /// Nothing that we know of.
    Nothing,
    /// Data: its tables fill their clusters from the start. The page in which a file ends comes back into the page
    /// cache when something is written behind it.
    Data,
}

/// Longest disk that QEMU's block layer has.
const LENGTH_MAX: u64 = (i64::MAX as u64) & !((1 << 30) - 1);

const CLUSTERS: &str = "Cluster size must be a power of two between 512 and 2048k";

impl NewImage {
    /// The image that the settings describe; its size is among them.
    pub(crate) fn new(format: &str, settings: &Settings) -> Result<Self> {
        let size = settings.number("size").unwrap_or(0);
        let rounded = size.checked_next_multiple_of(SECTOR);
        let size = rounded.filter(|size| *size <= i64::MAX as u64).ok_or_else(|| negative(format))?;
        match format {
            "raw" => raw(size, settings),
            "qcow2" => qcow2(size, settings),
            _ => Err(foreign::not_made_yet(format)),
        }
    }

    /// Makes its file, and its data file if it has one. Answers whether the image reads as zeros: files do, devices may
    /// not.
    pub(crate) async fn create(self, session: &Session, name: &str, then: Then) -> Result<bool> {
        match self {
            Self::Raw { size, room } => {
                let file = NewFile::create(session, name).await?;
                file.fill(size, room).await?;
                let zero = file.reads_zero;
                file.close().await?;
                Ok(zero)
            }
            Self::Qcow2 { image, room } => {
                let image = marked(session, image, name).await;
                let mut fresh = image.bytes()?;
                if then == Then::Data {
                    fresh.len = fresh.len.max(fresh.tables_len);
                }
                let file = NewFile::create(session, name).await?;
                // What is not allocated does, and preallocated clusters are in new files.
                let mut zero = file.reads_zero || !image.preallocated;
                let data = image.data_file.as_ref().and_then(|data| data.name.as_deref());
                if let Some(data) = data {
                    let data = NewFile::create(session, data).await?;
                    let filled = data.fill(image.size, room).await;
                    filled.map_err(|failure| failure.doing("Could not resize image"))?;
                    zero = data.reads_zero;
                    data.close().await?;
                }
                file.put(fresh, if data.is_some() { Room::Later } else { room }).await?;
                file.close().await?;
                Ok(zero)
            }
        }
    }
}

/// The same image with a note of what its backing file is now, where that can be said and there is room for it.
async fn marked(session: &Session, image: qcow2::NewImage, name: &str) -> qcow2::NewImage {
    let Some(backing) = image.backing.as_ref().filter(|_| image.version == Version::V3) else { return image };
    let Some(mark) = backing_mark::of(session, backing, name).await else { return image };
    let mut marked = image.clone();
    marked.extensions.push(mark.extension(backing));
    marked.autoclear |= BackingMark::AUTOCLEAR;
    if marked.bytes().is_ok() { marked } else { image }
}

fn raw(size: u64, settings: &Settings) -> Result<NewImage> {
    let room = match settings.text("preallocation") {
        None | Some("off") => Room::Later,
        Some("falloc") => Room::Reserved,
        Some("full") => Room::Written,
        Some("metadata") => return Err(Failure::new("Unsupported preallocation mode: metadata")),
        Some(other) => return Err(no_value("preallocation", other)),
    };
    Ok(NewImage::Raw { size, room })
}

fn no_value(name: &str, value: &str) -> Failure {
    Failure::new(format!("Parameter '{name}' does not accept value '{value}'"))
}

fn qcow2(size: u64, settings: &Settings) -> Result<NewImage> {
    let encryption = ["encrypt.format", "encrypt.key-secret", "encrypt.cipher-alg", "encrypt.cipher-mode"];
    if settings.is_on("encryption") || settings.any_of(&encryption).is_some() {
        return Err(Failure::new("Encryption is not yet supported: make the image without it"));
    }
    let (preallocated, room) = preallocation(settings)?;
    let (version, compression) = (version(settings)?, compression(settings)?);
    let cluster = settings.number("cluster_size").unwrap_or(65536);
    if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
        return Err(Failure::new(CLUSTERS));
    }
    let raw = settings.is_on("data_file_raw");
    let backing = settings.text("backing_file").map(|name| Backing {
        name: name.to_owned(),
        format: settings.text("backing_fmt").map(str::to_owned),
    });
    let quota = settings.number(QUOTA);
    let cache = quota.map(|quota| cache::extension(&cache::with_quota(quota))).transpose()?;
    let image = qcow2::NewImage {
        version,
        refcount_bits: u32::try_from(settings.number("refcount_bits").unwrap_or(16)).unwrap_or(u32::MAX),
        lazy_refcounts: settings.is_on("lazy_refcounts"),
        extended_l2: settings.is_on("extended_l2"),
        compression,
        data_file: settings.text("data_file").map(|name| DataFile { name: Some(name.to_owned()), raw }),
        // Else what is not allocated would not be in the raw file.
        preallocated: preallocated || raw,
        autoclear: if cache.is_some() { cache::AUTOCLEAR } else { 0 },
        extensions: cache.into_iter().collect(),
        backing,
        ..qcow2::NewImage::new(size, cluster.ilog2())
    };
    check(&image, settings, preallocated)?;
    let fits = image.bytes();
    let fits = fits.map_err(|error| match error.to_string().contains("too large") {
        true if size > LENGTH_MAX => {
            let text = format!("Could not resize image: offset({size}) exceeds maximum({LENGTH_MAX})");
            Failure::new(text)
        }
        true => Failure::new(
            "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
        ),
        false => Failure::from(error),
    })?;
    check_quota(&image, quota, fits.tables_len)?;
    Ok(NewImage::Qcow2 { image, room })
}

/// Of a size that is none any more in whole sectors.
fn negative(format: &str) -> Failure {
    Failure::new(match format {
        "qcow2" => "Could not resize image: Image size cannot be negative",
        _ => "Could not resize file: Invalid argument",
    })
}

fn version(settings: &Settings) -> Result<Version> {
    match settings.text("compat") {
        None | Some("1.1" | "v3") => Ok(Version::V3),
        Some("0.10" | "v2") => Ok(Version::V2),
        Some(other) => Err(no_value("version", other)),
    }
}

fn compression(settings: &Settings) -> Result<Compression> {
    match settings.text("compression_type") {
        None | Some("zlib") => Ok(Compression::Deflate),
        Some("zstd") => Ok(Compression::Zstd),
        Some(other) => Err(no_value("compression-type", other)),
    }
}

/// A bound has to bound something: the image file, of which `len` bytes are taken from the start.
fn check_quota(image: &qcow2::NewImage, quota: Option<u64>, len: u64) -> Result<()> {
    let Some(quota) = quota else { return Ok(()) };
    let why = if image.backing.is_none() {
        "needs a backing file that is cached: add -b FILE -F FORMAT".to_owned()
    } else if image.version == Version::V2 {
        "needs compatibility level 1.1: leave out compat".to_owned()
    } else if image.data_file.is_some() {
        "bounds the image file, and the data would be in another: leave out data_file".to_owned()
    } else if quota < len {
        format!("is {quota} bytes, less than the {len} of an empty image: choose a larger one")
    } else {
        return Ok(());
    };
    Err(Failure::new(format!("{QUOTA} {why}")))
}

/// Whether every cluster has its place from the start, and whether there is room for it.
fn preallocation(settings: &Settings) -> Result<(bool, Room)> {
    match settings.text("preallocation") {
        None | Some("off") => Ok((false, Room::Later)),
        Some("metadata") => Ok((true, Room::Later)),
        Some("falloc") => Ok((true, Room::Reserved)),
        Some("full") => Ok((true, Room::Written)),
        Some(other) => Err(no_value("preallocation", other)),
    }
}

/// What cannot be had together, in the order and the words of qemu-img.
fn check(image: &qcow2::NewImage, settings: &Settings, preallocated: bool) -> Result<()> {
    let old = image.version == Version::V2;
    let above = |what: &str| {
        format!("{what} only supported with compatibility level 1.1 and above (use version=v3 or greater)")
    };
    let has_backing = image.backing.is_some();
    let refused = [
        (old && image.extended_l2, above("Extended L2 entries are")),
        (
            image.extended_l2 && image.cluster_bits < 14,
            "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes".to_owned(),
        ),
        (
            has_backing && preallocated && !image.extended_l2,
            "Backing file and preallocation can only be used at the same time if extended_l2 is on"
                .to_owned(),
        ),
        (
            !has_backing && settings.text("backing_fmt").is_some(),
            "Backing format cannot be used without backing file".to_owned(),
        ),
        (old && image.lazy_refcounts, above("Lazy refcounts")),
        (
            !image.refcount_bits.is_power_of_two() || image.refcount_bits > 64,
            "Refcount width must be a power of two and may not exceed 64 bits".to_owned(),
        ),
        (
            old && image.refcount_bits != 16,
            "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)"
                .to_owned(),
        ),
        (
            settings.is_on("data_file_raw") && image.data_file.is_none(),
            "data-file-raw requires data-file".to_owned(),
        ),
        (
            settings.is_on("data_file_raw") && has_backing,
            "Backing file and data-file-raw cannot be used at the same time".to_owned(),
        ),
        (old && image.data_file.is_some(), above("External data files are")),
        (old && image.compression != Compression::Deflate, above("Non-zlib compression type is")),
    ];
    match refused.into_iter().find(|(refused, _)| *refused) {
        Some((_, why)) => Err(Failure::new(why)),
        None => Ok(()),
    }
}
