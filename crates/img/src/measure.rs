//! `measure`: how large the file of an image would be.

use block::ByteRange;
use flow::{Root, seam};
use graph::Demand;
use qcow2::Version;

use crate::failure::{Failure, Result};
use crate::flags;
use crate::foreign;
use crate::given::{Flag, Given};
use crate::image::Image;
use crate::json as printed;
use crate::luks;
use crate::numbers::ANY;
use crate::option_list;
use crate::session::{How, Session, Source};
use crate::settings::Settings;
use crate::snapshot_table;
use crate::verbs::{Call, Verb};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "measure",
    about: "tell how large the file of a new image would be",
    operands: "[FILENAME]",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    Flag::with('O', "target-format", "FMT", "format of the new image (raw)"),
    Flag::with('o', "options", "OPTIONS", "options of the format"),
    Flag::long_with("size", "SIZE", "size of the new image, in place of FILENAME"),
    flags::FORMAT,
    Flag::with('l', "snapshot", "SNAPSHOT", "take this snapshot of FILENAME"),
    flags::OUTPUT,
    flags::FORCE_SHARE,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

/// Longest L1 table in bytes.
const L1_MAX: u64 = 32 << 20;

/// Bytes of a bitmap's entry in the directory before its name.
const DIRECTORY_ENTRY: u64 = 24;

/// What was measured, in bytes.
struct Measured {
    required: u64,
    fully_allocated: u64,
    /// Of persistent bitmaps, where the source could have some.
    bitmaps: Option<u64>,
}

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let json = given.json()?;
    given.lists("options")?;
    snapshot_table::check_param(&session, given.value("snapshot"))?;
    let size = given.bytes("size", "image size", ANY)?;
    let filename = match &given.operands[..] {
        [] => None,
        [one] => Some(one.as_str()),
        _ => return Err(Failure::new("At most one filename argument is allowed.")),
    };
    let of_file = given.has("image-opts") || given.has("format") || given.has("snapshot");
    if filename.is_none() && of_file {
        return Err(Failure::new("--image-opts, -f, and -l require a filename argument."));
    }
    match (filename, size) {
        (None, None) => return Err(Failure::new("Either --size N or one filename must be specified.")),
        (Some(_), Some(_)) => {
            return Err(Failure::new("--size N cannot be used together with a filename."));
        }
        _ => {}
    }
    let source = match filename {
        Some(name) => Some(Opened::named(&session, &given, name).await?),
        None => None,
    };
    let format = given.value("target-format").unwrap_or("raw");
    let settings = settings(&session, &given, format)?;
    let measured = measure(&session, (format, &settings), size.unwrap_or(0), source.as_ref()).await?;
    session.listener.say(&if json { measured.json() } else { measured.text() });
    if let Some(source) = source {
        source.close().await?;
    }
    Ok(0)
}

/// What is measured.
struct Opened {
    image: Image,
    /// What has the bitmaps where `image` is a snapshot.
    present: Option<Image>,
}

impl Opened {
    async fn named(session: &Session, given: &Given, name: &str) -> Result<Self> {
        let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
        let snapshot = given.value("snapshot");
        let how = How { force_share: given.has("force-share"), snapshot, ..How::READ };
        let opened = session.open(source, how).await;
        let image = opened.map_err(|failure| snapshot_table::missing(failure, snapshot))?;
        Ok(Self { image, present: session.open_present(source, how).await? })
    }

    async fn close(self) -> Result<()> {
        if let Some(present) = self.present {
            present.close().await?;
        }
        self.image.close().await
    }
}

fn settings(session: &Session, given: &Given, format: &str) -> Result<Settings> {
    if foreign::is_foreign(format) && format != "luks" {
        let text = format!("Block driver '{format}' does not support size measurement");
        return Err(Failure::new(text));
    }
    let mut settings = Settings::new(option_list::measurable(format)?);
    for text in given.values("options") {
        if let Err(failure) = settings.parse(text) {
            session.listener.complain(&failure.text.unwrap_or_default());
            return Err(Failure::new(format!("Invalid options for file format '{format}'")));
        }
    }
    Ok(settings)
}

async fn measure(
    session: &Session,
    (format, settings): (&str, &Settings),
    size: u64,
    source: Option<&Opened>,
) -> Result<Measured> {
    let size = match source {
        Some(source) => source.image.size_in_sectors()?,
        None => size,
    };
    if format == "raw" {
        let size = size.next_multiple_of(512);
        return Ok(Measured { required: size, fully_allocated: size, bitmaps: None });
    }
    if format == "luks" {
        let size = size.checked_add(luks::payload_offset(session, "", settings)?).ok_or_else(too_large)?;
        return Ok(Measured { required: size, fully_allocated: size, bitmaps: None });
    }
    let plan = Plan::new(settings)?;
    let luks = match settings.text("encrypt.format") {
        Some("luks") => luks::payload_offset(session, "encrypt.", settings)?.next_multiple_of(plan.cluster),
        _ => 0,
    };
    let whole = size.checked_next_multiple_of(plan.cluster).ok_or_else(too_large)?;
    let tables = (whole / plan.cluster).div_ceil(plan.cluster / plan.entry);
    if tables * 8 > L1_MAX {
        return Err(too_large());
    }
    let reserved = matches!(settings.text("preallocation"), Some("falloc" | "full"));
    let data = match source {
        _ if reserved => whole,
        None => 0,
        Some(_) if settings.text("backing_file").is_some() => whole,
        Some(Opened { image, .. }) => {
            let user = image.attach(Demand::LOOK)?;
            let data = data_of(&user.root, plan.cluster).await;
            user.end().await?;
            data?
        }
    };
    let fully_allocated = plan.file(whole) + luks;
    let bitmaps = match source {
        Some(Opened { image, present }) if plan.version == Version::V3 => {
            bitmaps(present.as_ref().unwrap_or(image), plan.cluster).await?
        }
        _ => None,
    };
    Ok(Measured { required: fully_allocated - whole + data, fully_allocated, bitmaps })
}

/// Bytes that the persistent bitmaps of a source would take, each of them all allocated.
async fn bitmaps(image: &Image, cluster: u64) -> Result<Option<u64>> {
    if image.header.as_ref().is_none_or(|header| header.version == Version::V2) {
        return Ok(None);
    }
    let (size, mut bytes, mut directory) = (image.size()?, 0, 0);
    for bitmap in image.bitmaps().await? {
        let clusters = size.div_ceil(bitmap.granularity).div_ceil(8).div_ceil(cluster);
        bytes += clusters * cluster + (clusters * 8).next_multiple_of(cluster);
        directory += (DIRECTORY_ENTRY + bitmap.name.len() as u64).next_multiple_of(8);
    }
    Ok(Some(bytes + directory.next_multiple_of(cluster)))
}

fn too_large() -> Failure {
    Failure::new("The image size is too large (try using a larger cluster size)")
}

/// Bytes of whole clusters that have data.
async fn data_of(root: &Root, cluster: u64) -> Result<u64> {
    let size = root.view().size();
    let (mut at, mut data, mut counted) = (0, 0, 0);
    while at < size {
        for extent in seam::extents(&root.view(), ByteRange::between(at, size)).await? {
            let end = extent.range.end();
            if !extent.state.reads_zero() {
                let start = (extent.range.start() / cluster * cluster).max(counted);
                let stop = end.next_multiple_of(cluster);
                data += stop.saturating_sub(start);
                counted = stop.max(counted);
            }
            at = at.max(end);
        }
    }
    Ok(data)
}

/// What decides how large a qcow2 file gets.
struct Plan {
    cluster: u64,
    entry: u64,
    refcount_bits: u64,
    version: Version,
}

impl Plan {
    fn new(settings: &Settings) -> Result<Self> {
        let cluster = settings.number("cluster_size").unwrap_or(65536);
        if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
            return Err(Failure::new("Cluster size must be a power of two between 512 and 2048k"));
        }
        let modes = ["off", "metadata", "falloc", "full"];
        if let Some(other) = settings.text("preallocation").filter(|mode| !modes.contains(mode)) {
            return Err(Failure::new(format!("invalid parameter value: {other}")));
        }
        let version = match settings.text("compat") {
            None | Some("1.1") => Version::V3,
            Some("0.10") => Version::V2,
            Some(other) => return Err(Failure::new(format!("Invalid compatibility level: '{other}'"))),
        };
        let extended = settings.is_on("extended_l2");
        if extended && cluster < 16384 {
            return Err(Failure::new(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            ));
        }
        let refcount_bits = settings.number("refcount_bits").unwrap_or(16);
        if !refcount_bits.is_power_of_two() || refcount_bits > 64 {
            return Err(Failure::new("Refcount width must be a power of two and may not exceed 64 bits"));
        }
        if version == Version::V2 && refcount_bits != 16 {
            return Err(Failure::new(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
            ));
        }
        Ok(Self { cluster, entry: if extended { 16 } else { 8 }, refcount_bits, version })
    }

    /// Length of the file of an image of `whole` bytes that has all its data.
    fn file(&self, whole: u64) -> u64 {
        let per_table = self.cluster / self.entry;
        let l2 = (whole / self.cluster).next_multiple_of(per_table) * self.entry;
        let l1 = (l2 / self.cluster).next_multiple_of(self.cluster / 8) * 8;
        let meta = self.cluster + l2 + l1;
        meta + self.refcounts((meta + whole) / self.cluster) + whole
    }

    /// Bytes of refcount blocks and table that account for so many clusters and themselves.
    fn refcounts(&self, clusters: u64) -> u64 {
        let per_block = self.cluster * 8 / self.refcount_bits;
        let (mut table, mut blocks) = (0, 0);
        loop {
            let more = (clusters + table + blocks).div_ceil(per_block);
            let longer = more.div_ceil(self.cluster / 8);
            if (more, longer) == (blocks, table) {
                return (blocks + table) * self.cluster;
            }
            (blocks, table) = (more, longer);
        }
    }
}

impl Measured {
    fn text(&self) -> String {
        let bitmaps = self.bitmaps.map(|bytes| format!("bitmaps size: {bytes}\n")).unwrap_or_default();
        format!("required size: {}\nfully allocated size: {}\n{bitmaps}", self.required, self.fully_allocated)
    }

    fn json(&self) -> String {
        let mut members = serde_json::Map::new();
        if let Some(bitmaps) = self.bitmaps {
            members.insert("bitmaps".to_owned(), bitmaps.into());
        }
        members.insert("required".to_owned(), self.required.into());
        members.insert("fully-allocated".to_owned(), self.fully_allocated.into());
        printed::pretty(&serde_json::Value::Object(members))
    }
}
