//! Becoming an image of another kind: version, width of refcounts, and what single fields of the header say.
//!
//! Invariants: what the new kind has not is refused before anything is written; each step leaves an image of the old or
//! the new kind that reads as before, with leaks at worst.

use block::{BlockError, ErrorKind, Result};
use flow::sabotage::Rule;
use flow::{Amend, Amendment, Next, Repair};
use io::{Lease, LocalFut};
use qcow2::check::{self, Check};
use qcow2::{BackingMark, Compression, Header, HeaderEdit, Version, cache};
use serde_json::{Map, Value};

use super::check::check_only::CheckOnly;
use super::check::image_file::{ImageFile, disarm, edit};
use super::check::{check, run};

/// The width of refcounts in version 2.
const V2_REFCOUNT_BITS: u32 = 16;

impl Amend for CheckOnly {
    fn amend<'a>(&'a self, change: &'a Amendment, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(amend(ImageFile::Below(next), change))
    }
}

async fn amend(file: ImageFile<'_>, change: &Amendment) -> Result<()> {
    let header = Header::parse(&file.first_cluster().await?)?;
    header.writable()?;
    disarm(file, &header).await?;
    match change {
        Amendment::Version(2) => to_version_2(file, &header).await,
        Amendment::Version(3) => to_version_3(file, &header).await,
        Amendment::Version(other) => Err(unsupported(format!("Unknown version {other}"))),
        Amendment::RefcountBits(bits) => refcount_bits(file, &header, *bits).await,
        Amendment::LazyRefcounts(on) => edit(file, &HeaderEdit::LazyRefcounts(*on)).await,
        Amendment::DataFile(name) => edit(file, &HeaderEdit::DataFileName(name.clone())).await,
        Amendment::NotRaw => edit(file, &HeaderEdit::ClearAutoclear(header.features.kept_autoclear())).await,
        Amendment::Quota(quota) => set_quota(file, &header, *quota).await,
        Amendment::NoteBacking(len, modified) => {
            let (modified_s, modified_ns) = (modified.as_secs(), modified.subsec_nanos());
            let mark = BackingMark { len: *len, modified_s, modified_ns };
            note_backing(file, &header, mark).await
        }
    }
}

/// A check that repairs `repair`, not yet begun.
async fn new_check(file: ImageFile<'_>, repair: check::Repair) -> Result<Check> {
    let first: Lease = file.first_cluster().await?;
    Check::new(&first, file.len()?, file.grows()?, repair)
}

/// Carries a check out to its end, which says nothing.
async fn carry_out(file: ImageFile<'_>, mut check: Check) -> Result<Check> {
    run(file, &mut check, Rule::TablesBarrier, &mut |_| ()).await?;
    Ok(check)
}

/// What is seen of the tables, right or wrong.
async fn look_over(file: ImageFile<'_>) -> Result<Check> {
    carry_out(file, new_check(file, check::Repair::Nothing).await?).await
}

/// Fails where something is wrong with them.
fn sound(seen: &Check) -> Result<()> {
    let found = seen.found();
    if found.corruptions + found.check_errors > 0 {
        let context = "it has errors, which have to be mended first: 'img check -r all'";
        return Err(BlockError::new(ErrorKind::Corrupt, context));
    }
    Ok(())
}

async fn refcount_bits(file: ImageFile<'_>, header: &Header, bits: u32) -> Result<()> {
    if header.refcount_table.bits == bits {
        return Ok(());
    }
    if !bits.is_power_of_two() || bits > 64 {
        return Err(unsupported("Refcount width must be a power of two and may not exceed 64 bits"));
    }
    if header.version == Version::V2 {
        return Err(unsupported("Refcount widths other than 16 bits need version 3"));
    }
    let check = new_check(file, check::Repair::Nothing).await?.with_refcount_bits(bits);
    carry_out(file, check).await.map(drop)
}

async fn to_version_3(file: ImageFile<'_>, header: &Header) -> Result<()> {
    if header.version == Version::V3 {
        return Ok(());
    }
    let seen = look_over(file).await?;
    sound(&seen)?;
    if seen.snapshots().iter().any(|snapshot| !snapshot.is_complete()) {
        carry_out(file, new_check(file, check::Repair::All).await?.completing_snapshots()).await?;
    }
    edit(file, &HeaderEdit::Version(Version::V3)).await
}

async fn to_version_2(file: ImageFile<'_>, header: &Header) -> Result<()> {
    if header.version == Version::V2 {
        return Ok(());
    }
    if header.refcount_table.bits != V2_REFCOUNT_BITS {
        return Err(unsupported("compat=0.10 requires refcount_bits=16"));
    }
    if header.data_file.is_some() {
        return Err(unsupported("Cannot downgrade an image with a data file"));
    }
    let seen = look_over(file).await?;
    // No repair mends these; what can be is said after them.
    seen.snapshots().iter().try_for_each(|snapshot| snapshot.check_l1(header.cluster_bits))?;
    sound(&seen)?;
    check_version_2(header, &seen)?;
    match &header.backing {
        _ if seen.zeros() == 0 => {}
        None => drop_zeros(file).await?,
        Some(_) => fill_zeros(file, 1 << header.cluster_bits).await?,
    }
    edit(file, &HeaderEdit::ClearAutoclear(header.features.autoclear)).await?;
    edit(file, &HeaderEdit::Version(Version::V2)).await?;
    if seen.zeros() > 0 {
        // Zeros may have kept their clusters.
        check(file, Repair::Leaks, &mut |_| ()).await?;
    }
    Ok(())
}

/// Without a backing image, what is unallocated reads as zeros, too.
async fn drop_zeros(file: ImageFile<'_>) -> Result<()> {
    let check = new_check(file, check::Repair::Nothing).await?.dropping_zeros();
    carry_out(file, check).await.map(drop)
}

/// Over a backing image zeros become data, of which many share a cluster.
async fn fill_zeros(file: ImageFile<'_>, cluster: usize) -> Result<()> {
    let counted = new_check(file, check::Repair::Nothing).await?.making_zero_clusters();
    let counted = carry_out(file, counted).await?;
    for place in counted.zero_clusters() {
        file.write(vec![(place.offset, vec![0; cluster])]).await?;
    }
    file.flush(Rule::TablesBarrier).await?;
    let check = new_check(file, check::Repair::Nothing).await?;
    carry_out(file, check.filling_zeros(counted.zero_clusters())).await.map(drop)
}

/// Refuses what version 2 has not.
fn check_version_2(header: &Header, seen: &Check) -> Result<()> {
    let others = |snapshot: &qcow2::Snapshot| {
        snapshot.disk_size.is_some_and(|size| size != header.virtual_size)
            || snapshot.vm_state_size > u32::MAX.into()
    };
    if seen.snapshots().iter().any(others) {
        return Err(unsupported("Internal snapshots prevent downgrade of image"));
    }
    // Those of snapshots are not counted.
    let may_be_compressed = seen.found().compressed_clusters > 0 || !seen.snapshots().is_empty();
    if header.compression != Compression::Deflate && may_be_compressed {
        return Err(unsupported(
            "Cannot downgrade an image with zstd compression type and existing compressed clusters",
        ));
    }
    let features = header.features.beyond_version_2();
    if features != 0 {
        let context = format!("Cannot downgrade an image with incompatible features {features:#x} set");
        return Err(unsupported(context));
    }
    if header.bitmaps.is_some() {
        return Err(unsupported(
            "Cannot downgrade an image with persistent bitmaps: remove them first ('img bitmap --remove')",
        ));
    }
    Ok(())
}

/// Has the header state the bound, in a description that is in force or in a new one.
async fn set_quota(file: ImageFile<'_>, header: &Header, quota: Option<u64>) -> Result<()> {
    let mut about = match cache::read(header)? {
        Some(text) => serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default(),
        None => Map::new(),
    };
    match quota {
        Some(_) if header.version == Version::V2 => {
            return Err(unsupported("cache_img_quota needs compatibility level 1.1: add compat=1.1"));
        }
        Some(_) if header.backing.is_none() => {
            return Err(unsupported(
                "cache_img_quota needs a backing file that is cached: 'img rebase' adds one",
            ));
        }
        Some(_) if header.data_file.is_some() => {
            return Err(unsupported(
                "cache_img_quota bounds the image file, and the data of this image is in another",
            ));
        }
        // See `snapshots::OF_OURS`.
        Some(_) if header.snapshots.count > 0 => {
            return Err(unsupported(
                "an image with internal snapshots cannot have cache_img_quota: delete them",
            ));
        }
        Some(quota) => about.insert("quota".to_owned(), quota.into()),
        None => about.remove("quota"),
    };
    match about.is_empty() {
        true => edit(file, &HeaderEdit::ClearAutoclear(header.features.autoclear & cache::AUTOCLEAR)).await,
        false => edit(file, &cache::edit(&Value::Object(about).to_string())?).await,
    }
}

async fn note_backing(file: ImageFile<'_>, header: &Header, mark: BackingMark) -> Result<()> {
    match &header.backing {
        Some(_) if header.snapshots.count > 0 => Err(unsupported("it has internal snapshots")),
        Some(backing) => edit(file, &mark.edit(backing)).await,
        None => Err(unsupported("it has no backing file")),
    }
}

fn unsupported(context: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Unsupported, context)
}
