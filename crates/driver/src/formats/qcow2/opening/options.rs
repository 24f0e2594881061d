//! Options of a qcow2 node.

use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use qcow2::{Geometry, Header, Version};
use serde::Deserialize;
use serde::de::Error;
use serde_json::{Map, Value};

use super::super::space::freed::Passes;
use super::super::space::structures::Watched;
use super::budgets::Wanted;
use super::overlap::OverlapCheck;
use super::validate::Validation;
use crate::options::{self, Count, Refusal};

/// Smallest slice of an L2 table that is read at a time, in bytes.
const MIN_ENTRY: u64 = 512;

/// Options of a qcow2 node.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Options {
    /// Most bytes of L2 tables in memory; default 32 MiB.
    l2_cache_size: Option<u64>,
    /// The same for all tables.
    cache_size: Option<u64>,
    /// Bytes of an L2 table that are read at a time, 512 to the cluster size; default 4096.
    l2_cache_entry_size: Option<u64>,
    /// Most bytes of refcount blocks in memory; default 2 MiB, and four blocks at the least.
    refcount_cache_size: Option<u64>,
    /// Who opens the image writes nothing to it but what its backing image reads as: what its header says of its
    /// source stays valid (`docs/formats/cache.md`).
    pub(crate) keep_identity: bool,
    /// It is opened to be checked, or repaired, and for nothing else: whatever its tables hold, it opens.
    pub(crate) check_only: bool,
    /// It is opened to save what is left of it: what tables say is taken for what can be made of it.
    pub(crate) salvage: bool,
    /// What becomes of it where its backing file has changed since it was made over it; default `warn`.
    pub(crate) backing_validation: Validation,
    /// Id or name of the internal snapshot that is read in place of the present state.
    pub(crate) snapshot: Option<String>,
    /// Whether it is marked dirty while it is changed; default: what its header says.
    lazy_refcounts: Option<bool>,
    /// Which structures of the image nothing else is written over; default `cached`.
    overlap_check: OverlapCheck,
    /// Seconds after which tables that nobody has looked at leave memory; 0 or none: never.
    cache_clean_interval: Option<Count<u64>>,
    /// Whether clusters that clients discard are given back to the file; default: if discards are passed on
    /// (`discard=unmap`).
    pass_discard_request: Option<bool>,
    /// The same of those that a change of internal snapshots drops; default: if discards are passed on.
    pass_discard_snapshot: Option<bool>,
    /// The same of all others that are dropped; default off.
    pass_discard_other: Option<bool>,
    /// Whether what is discarded keeps its cluster, so that it is written there again; default off.
    discard_no_unref: bool,
}

/// Fails unless these are such options, and do not exclude one another, whatever the image is.
pub fn takes(options: Map<String, Value>) -> std::result::Result<(), Refusal> {
    let options: Options = options::read(options)?;
    options
        .memory()
        .check()
        .and_then(|()| options.watched())
        .and_then(|_| options.clean_interval())
        .map(|_| ())
        .map_err(Refusal::custom)
}

impl Options {
    /// The geometry of the image with slices as long as the options say.
    pub(crate) fn geometry(&self, header: &Header) -> Result<Geometry> {
        let geometry = match self.salvage {
            true => Geometry::new(header).salvaging(),
            false => Geometry::new(header),
        };
        let Some(bytes) = self.l2_cache_entry_size else { return Ok(geometry) };
        let cluster = geometry.cluster_size();
        if !bytes.is_power_of_two() || !(MIN_ENTRY..=cluster).contains(&bytes) {
            return Err(invalid(format!(
                "L2 cache entry size must be a power of two between {MIN_ENTRY} and the cluster size ({cluster})"
            )));
        }
        // At most the cluster size, 2 MiB.
        Ok(geometry.with_slice_bytes(bytes as usize))
    }

    /// How much memory tables may take.
    pub(super) fn memory(&self) -> Wanted {
        Wanted { l2: self.l2_cache_size, refcounts: self.refcount_cache_size, all: self.cache_size }
    }

    /// Whose clusters are given back to the file; `unmap` says whether discards are passed on.
    pub(crate) fn passes(&self, unmap: bool) -> Passes {
        Passes {
            request: self.pass_discard_request.unwrap_or(unmap),
            other: self.pass_discard_other.unwrap_or(false),
            snapshot: self.pass_discard_snapshot.unwrap_or(unmap),
        }
    }

    /// Whether what is discarded keeps its cluster: where entries can say that it reads as zeros.
    pub(crate) fn keeps_discarded(&self, geometry: &Geometry) -> Result<bool> {
        match self.discard_no_unref && !geometry.has_zeros() {
            true => Err(invalid("discard-no-unref is only supported since qcow2 version 3".to_owned())),
            false => Ok(self.discard_no_unref),
        }
    }

    /// Whether the image is marked dirty while it is changed.
    pub(crate) fn lazy(&self, header: &Header) -> Result<bool> {
        let lazy = self.lazy_refcounts.unwrap_or(header.features.lazy_refcounts());
        match lazy && header.version == Version::V2 {
            true => Err(invalid(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level".to_owned(),
            )),
            false => Ok(lazy),
        }
    }

    /// How long tables stay in memory that nobody looks at. At most as long as QEMU can say.
    pub(crate) fn clean_interval(&self) -> Result<Option<Duration>> {
        let Some(Count(seconds)) = self.cache_clean_interval.filter(|count| count.0 > 0) else {
            return Ok(None);
        };
        match u32::try_from(seconds) {
            Ok(_) => Ok(Some(Duration::from_secs(seconds))),
            Err(_) => Err(invalid("Cache clean interval too big".to_owned())),
        }
    }

    /// Which structures of the image nothing else is written over.
    pub(crate) fn watched(&self) -> Result<Watched> {
        self.overlap_check.watched()
    }
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}
