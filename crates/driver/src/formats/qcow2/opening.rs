//! Opening an image, for the first time or again.
//!
//! Invariants: an image that is opened for writing is one that is written here, or it is refused by what it has; of
//! an image that is being written there is one set of tables in memory, also when its node is reopened.

mod budgets;
mod options;
mod overlap;
pub(super) mod survey;
mod validate;
mod wants;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{Body, Node, NodeId, RangeLocks, Role, SnapshotInfo, View, seam};
use io::LocalFut;
use qcow2::{BackingMark, Features, Geometry, Header, L1Table, cache};

use super::Qcow2;
use super::bitmaps::Bitmaps;
use super::check;
use super::idle;
use super::image::Image;
use super::inflated::Inflated;
use super::slices::Slices;
use super::snapshots;
use super::writing::writer::{Start, Writer};
use crate::context::{OpenContext, Opened};
use budgets::Budgets;
pub use options::{Options, takes};

/// Opens a `qcow2` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let file = context.child(Role::File)?.clone();
        let image = name(&context, &file);
        let opened = open_image(&context, &options, &file, &image).await;
        opened.map_err(|error| error.within(format_args!("image '{image}'")))
    })
}

async fn open_image(context: &OpenContext, options: &Options, file: &View, name: &str) -> Result<Opened> {
    let kept = context.kept.clone().and_then(|kept| kept.downcast::<Image>().ok());
    let mut header = read_header(file).await?;
    let wants = wants::wants(context, &header)?;
    validate::backing(context, options.backing_validation, &header, &wants).await?;
    if options.check_only {
        let body = Arc::new(check::check_only::CheckOnly::new(name, &header));
        return Ok(Opened { wants, ..Opened::new(Body::Maps(body)) });
    }
    if header.refcount_table.clusters == 0 {
        // In QEMU's words.
        let context = "Image does not contain a reference count table: 'millpond img check -r all' makes one";
        return Err(BlockError::new(ErrorKind::Corrupt, context));
    }
    if options.salvage && !context.read_only {
        let context = "what is left of a broken image is only read: add read-only=on";
        return Err(BlockError::new(ErrorKind::Invalid, context));
    }
    let is_written = kept.as_ref().is_some_and(|image| image.writer.is_some());
    if header.features.dirty() && !header.features.corrupt() && !context.read_only && !is_written {
        check::repair_dirty(file, &context.events).await?;
        header = read_header(file).await?;
    }
    let lent = kept.as_ref().is_some_and(|image| image.lent.load(Ordering::SeqCst));
    let image = match kept {
        Some(image) if image.writer.is_some() => again(image, file)?,
        kept => {
            let image = fresh(context, options, file, name, &header, kept).await?;
            if let Some(interval) = options.clean_interval()? {
                idle::watch(&image, interval);
            }
            image
        }
    };
    let unguarded = match &image.writer {
        Some(writer) if context.read_only => Some(writer.let_unguarded_in()?),
        _ => None,
    };
    match &image.writer {
        _ if context.read_only => image.lent.store(true, Ordering::SeqCst),
        Some(writer) if lent => writer.books.lock().refcounts.rest_freed(),
        _ => {}
    }
    let body = Qcow2 { image, changing: !context.read_only, _unguarded: unguarded };
    Ok(Opened { wants, ..Opened::new(Body::Maps(Arc::new(body))) })
}

/// How much memory the tables of an image may take.
fn budgets(options: &Options, geometry: &Geometry) -> Result<Budgets> {
    let cluster = geometry.cluster_size();
    options.memory().budgets(cluster, u64::from(geometry.l1_entries()) * cluster)
}

/// The tables of an image that is being written, for another body of its node.
fn again(image: Arc<Image>, file: &View) -> Result<Arc<Image>> {
    if image.home != ends(file) {
        let context = "its tables are in memory, so it stays on its file: name the file's node as it is";
        return Err(BlockError::new(ErrorKind::Invalid, context));
    }
    Ok(image)
}

/// The protocol nodes that a chain ends in.
fn ends(view: &View) -> Vec<NodeId> {
    let is_end = |node: &&Arc<Node>| matches!(node.body(), Body::Executes(body) if body.size().is_some());
    let mut ends: Vec<_> = view.nodes().filter(is_end).map(|node| node.id()).collect();
    ends.sort_unstable();
    ends
}

async fn fresh(
    context: &OpenContext,
    options: &Options,
    file: &View,
    name: &str,
    header: &Header,
    before: Option<Arc<Image>>,
) -> Result<Arc<Image>> {
    let file_len = file.size();
    let geometry = geometry(context, options, file, header).await?;
    let budget = budgets(options, &geometry)?.l2;
    // All tables lie in the file; more is asked for only where entries name the same one again and again.
    let budget = if context.read_only { budget.min(Slices::bytes_for(&geometry, file_len)) } else { budget };
    let l1 = seam::read(file, geometry.l1_range(file_len)?).await?;
    let writer = match context.read_only {
        true => None,
        false => Some(open_writer(context, options, file, header, (&geometry, &l1), before).await?),
    };
    let data_len = match (&header.data_file, &writer) {
        (Some(_), _) => u64::MAX,
        // Clusters that the end of the file cuts are filled when they are written.
        (None, Some(_)) => file_len.next_multiple_of(geometry.cluster_size()),
        (None, None) => file_len,
    };
    Ok(Arc::new(Image {
        name: name.into(),
        l1: L1Table::parse(&geometry, &l1)?,
        slices: Slices::new(&geometry, budget),
        loads: RangeLocks::default(),
        inflated: Inflated::new(header.compression, context.world.clone()),
        size: AtomicU64::new(geometry.virtual_size()),
        bound: AtomicU64::new(geometry.virtual_size()),
        l1_offset: AtomicU64::new(geometry.l1_offset().0),
        bitmaps: Bitmaps::open(file, header, options.snapshot.is_none(), context.read_only).await?,
        snapshots: Mutex::new(listed(file, header, options).await),
        geometry,
        file_len: AtomicU64::new(file_len),
        data_len: AtomicU64::new(data_len),
        writer,
        known_header: ArcSwap::from_pointee(header.clone()),
        home: ends(file),
        events: context.events.clone(),
        lied: AtomicBool::new(false),
        lent: AtomicBool::new(false),
    }))
}

/// The snapshots beside the present state, if that is opened. A table that cannot be read concerns who asks for a
/// state.
async fn listed(file: &View, header: &Header, options: &Options) -> Vec<SnapshotInfo> {
    if options.snapshot.is_some() || header.snapshots.count == 0 {
        return Vec::new();
    }
    let read = async |range| seam::read(file, range).await;
    snapshots::snapshots(header, file.size(), read).await.unwrap_or_default()
}

/// That of the present state, or of the snapshot that is to be read.
async fn geometry(
    context: &OpenContext,
    options: &Options,
    file: &View,
    header: &Header,
) -> Result<Geometry> {
    match &options.snapshot {
        None => options.geometry(header),
        Some(wanted) if context.read_only => {
            snapshots::open::geometry(file, header, options.geometry(header)?, wanted).await
        }
        Some(wanted) => {
            let context = format!("internal snapshot '{wanted}' can only be read: add read-only=on");
            Err(BlockError::new(ErrorKind::Invalid, context))
        }
    }
}

async fn open_writer(
    context: &OpenContext,
    options: &Options,
    file: &View,
    header: &Header,
    (geometry, l1): (&Geometry, &[u8]),
    before: Option<Arc<Image>>,
) -> Result<Writer> {
    header.writable()?;
    let place = header.refcount_table;
    // At most 8 MiB, at an offset below 2^56.
    let range = ByteRange::new(place.offset.0, u64::from(place.clusters) << header.cluster_bits);
    if range.end() > file.size() {
        let context = format!("its refcount table ({range}) leaves the file of {} bytes", file.size());
        return Err(BlockError::new(ErrorKind::Corrupt, context));
    }
    let table = seam::read(file, range).await?;
    let budgets = budgets(options, geometry)?;
    let mut structures = survey::of_tables(header, file.size(), (l1, &table), options.watched()?);
    let read = async |range| seam::read(file, range).await;
    survey::add_snapshots(header, file.size(), &mut structures, read).await?;
    let terms = cache::read(header)?.map(cache::terms).transpose()?;
    let is_cache = terms.is_some() || options.keep_identity;
    let terms = terms.unwrap_or_default();
    let identity = if options.keep_identity || terms.lasting { cache::AUTOCLEAR } else { 0 };
    // Without bitmaps the bit says nothing, and goes.
    let of_ours = if header.snapshots.count > 0 { 0 } else { identity | BackingMark::AUTOCLEAR };
    let keep = of_ours | header.bitmaps.map_or(0, |_| Features::BITMAPS);
    Ok(Writer::new(Start {
        header,
        geometry,
        table: &table,
        structures,
        file_len: file.size(),
        refcount_budget: budgets.refcounts,
        l2_budget: budgets.l2,
        passes: options.passes(context.unmap),
        takes_discards: context.unmap,
        keeps_discarded: options.keeps_discarded(geometry)?,
        lazy: options.lazy(header)?,
        keep,
        quota: terms.quota,
        is_cache,
        earlier: before.iter().map(Arc::downgrade).collect(),
        backed: context.children.iter().any(|(role, _)| *role == Role::Backing),
    }))
}

async fn read_header(file: &View) -> Result<Header> {
    let file_len = file.size();
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
