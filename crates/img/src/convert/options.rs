//! What a command line asks of `convert`, checked in qemu-img's order.

use graph::Demand;
use io::file::Offload;

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::given::Given;
use crate::image::SECTOR;
use crate::numbers::{self, Range};
use crate::session::{How, Source};
use crate::{option_list, snapshot_table};

/// Longest run of zeros that `-S` may ask for.
const SPARSE_MAX: u64 = 16 << 20;
/// Shortest run of zeros that becomes a hole unless `-S` says otherwise.
const SPARSE: u64 = 4096;
/// Most requests at a time.
const PARALLEL_MAX: u64 = 16;
const PARALLEL: u64 = 8;
/// The cache mode that is meant where none is given; millpond's own.
const AUTO: &str = "auto";

/// The options of one call.
#[derive(Clone, Debug)]
pub(super) struct Options<'a> {
    pub(super) sources: &'a [String],
    pub(super) target: &'a str,
    pub(super) source_format: Option<&'a str>,
    pub(super) source_image_opts: bool,
    pub(super) source_cache: Cache,
    pub(super) force_share: bool,
    pub(super) snapshot: Option<&'a str>,
    pub(super) target_format: &'a str,
    pub(super) target_image_opts: bool,
    /// Whether the format of the target was given.
    pub(super) names_format: bool,
    pub(super) target_cache: Cache,
    /// The values of `-o`.
    pub(super) settings: Vec<&'a str>,
    pub(super) compress: bool,
    pub(super) backing: Option<&'a str>,
    pub(super) backing_format: Option<&'a str>,
    pub(super) no_create: bool,
    pub(super) target_is_zero: bool,
    pub(super) sparse: u64,
    pub(super) bitmaps: bool,
    pub(super) skips_broken: bool,
    pub(super) rate: Option<u64>,
    pub(super) parallel: usize,
    pub(super) any_order: bool,
    pub(super) offload: Option<Offload>,
    pub(super) salvage: bool,
    pub(super) quiet: bool,
}

/// The list of options, where that is asked for.
pub(super) fn help(given: &Given) -> Result<Option<String>> {
    if !given.lists("target-options")?.into_iter().any(option_list::asks_for_help) {
        return Ok(None);
    }
    excluded(given)?;
    let format = given.value("target-format").unwrap_or("raw");
    option_list::shown(format, given.operands.len() > 1).map(Some)
}

impl<'a> Options<'a> {
    pub(super) fn parse(given: &'a Given) -> Result<Self> {
        let sparse = given.value("sparse-size").map(sparse).transpose()?;
        let parallel = given.count("parallel", "number of coroutines", Range(1, PARALLEL_MAX))?;
        let rate = given.bytes("rate", "rate limit", numbers::ANY)?;
        excluded(given)?;
        let (target, sources) = match given.operands.split_last() {
            Some((target, sources)) if !sources.is_empty() => (target, sources),
            _ => return Err(Failure::new("Must specify image file name")),
        };
        let mode = |name| given.value(name).filter(|mode| *mode != AUTO);
        let (source_cache, target_cache) = (mode("source-cache"), mode("target-cache"));
        let source_cache = Cache::named(source_cache, "source cache", Cache::WRITEBACK.transient())?;
        let target_cache = Cache::named(target_cache, "cache", Cache::UNSAFE.transient())?;
        Ok(Self {
            sources,
            target,
            source_format: given.value("source-format"),
            source_image_opts: given.has("image-opts") || given.has("source-image-opts"),
            source_cache,
            force_share: given.has("force-share"),
            snapshot: given.value("source-snapshot"),
            target_format: given.value("target-format").unwrap_or("raw"),
            target_image_opts: given.has("target-image-opts"),
            names_format: given.has("target-format"),
            target_cache,
            settings: given.lists("target-options")?,
            compress: given.has("compress"),
            backing: given.value("backing"),
            backing_format: given.value("backing-format"),
            no_create: given.has("no-create"),
            target_is_zero: given.has("target-is-zero"),
            sparse: sparse.unwrap_or(SPARSE),
            bitmaps: given.has("bitmaps"),
            skips_broken: given.has("skip-broken-bitmaps"),
            rate,
            // At most 16.
            parallel: parallel.unwrap_or(PARALLEL) as usize,
            offload: offload(given),
            any_order: given.has("oob-writes"),
            salvage: given.has("salvage"),
            quiet: given.has("quiet"),
        })
    }

    /// The source of that name.
    pub(super) fn source(&self, name: &'a str) -> Source<'a> {
        Source { name, format: self.source_format, image_opts: self.source_image_opts }
    }

    /// How sources are opened.
    pub(super) fn how(&self) -> How<'a> {
        How {
            cache: self.source_cache,
            force_share: self.force_share,
            demand: Some(Demand::STILL),
            snapshot: self.snapshot.filter(|_| self.sources.len() == 1),
            salvage: self.salvage,
            ..How::READ
        }
    }

    /// The failure of a source that has no such snapshot in qemu-img's words.
    pub(super) fn explained(&self, failure: Failure) -> Failure {
        snapshot_table::missing(failure, self.snapshot)
    }
}

/// What the kernel may do: it looks for no zeros, packs nothing, and does not pass over what cannot be read. Storage is
/// shared unless one of that is asked for.
fn offload(given: &Given) -> Option<Offload> {
    match () {
        () if given.has("compress") || given.has("salvage") => None,
        () if given.has("copy-range-offloading") => Some(Offload::Copy),
        () if given.value("sparse-size").is_some() => None,
        () if may_have_storage(given) => None,
        () => Some(Offload::Share),
    }
}

/// Whether the target has storage of its own by now or is to get it, which it would lose by sharing another's.
fn may_have_storage(given: &Given) -> bool {
    let full = |item: &str| matches!(item, "preallocation=falloc" | "preallocation=full");
    given.has("no-create") || given.values("target-options").any(|text| text.split(',').any(full))
}

/// What cannot be asked for together.
fn excluded(given: &Given) -> Result<()> {
    let has = |flag| given.has(flag);
    let rules = [
        (has("copy-range-offloading") && has("compress"), "Cannot enable copy offloading when -c is used"),
        (has("copy-range-offloading") && has("sparse-size"), "Cannot enable copy offloading when -S is used"),
        (has("copy-range-offloading") && has("salvage"), "Cannot use copy offloading in salvaging mode"),
        (has("skip-broken-bitmaps") && !has("bitmaps"), "Use of --skip-broken-bitmaps requires --bitmaps"),
        (has("target-image-opts") && !has("no-create"), "--target-image-opts requires use of -n flag"),
        (has("no-create") && has("target-options"), "-o has no effect when skipping image creation"),
        (has("target-is-zero") && !has("no-create"), "--target-is-zero requires use of -n flag"),
        (
            has("target-is-zero") && has("backing"),
            "Cannot use --target-is-zero when the destination image has a backing file",
        ),
    ];
    match rules.iter().find(|(broken, _)| *broken) {
        Some((_, why)) => Err(Failure::new(*why)),
        None => Ok(()),
    }
}

fn sparse(text: &str) -> Result<u64> {
    let what = "buffer size for sparse output";
    let value = numbers::bytes(text, what, numbers::ANY)?;
    if !value.is_multiple_of(SECTOR) || value > SPARSE_MAX {
        return Err(Failure::new(format!(
            "Invalid {what} specified. Valid sizes are multiples of {SECTOR} up to {SPARSE_MAX}. Select 0 to disable sparse detection (fully allocates output)."
        )));
    }
    Ok(value)
}
