//! `memory-format`: a format whose table lies in memory, for tests and for caches that need not outlive the
//! process. Clusters of guest data lie in the child `file`; what is not held comes from the child `backing`.
//!
//! It is what the contract's rules for formats are proved on: it allocates, commits, zeroes, discards and reuses
//! clusters while others read and write.
//!
//! Invariants:
//! * An entry of the table says `Data` only after all bytes of the cluster were written.
//! * Order of every change: entries, generations, tag. So a reader that noted a new generation sees the new
//!   entries, and a cluster waits for everybody who may have seen the old ones.
//! * A cluster is mapped once, or prepared, or waiting for its readers, or free; `check` tells.
//! * Reads and in-place writes take no lock. What allocates or frees takes the lock of [`clusters`] for a moment,
//!   never across an await.

mod allocate;
mod change;
mod check;
mod clusters;
mod misses;
mod options;
mod resize;
mod table;

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use block::{Alignment, BlockError, ByteRange, ChildIndex, ErrorKind, Mapping, Result};
use flow::{
    Body, Capabilities, Changes, Format, Limits, Next, Node, NodeId, Op, Powers, Prepared, Quota, Request,
    Role, View, ZeroCost,
};
use io::{Lease, LocalFut};

use crate::context::{OpenContext, Opened};
use clusters::Clusters;
use misses::Misses;
pub(crate) use options::Options;
use table::Table;

/// Where clusters lie.
const FILE: ChildIndex = ChildIndex(0);

/// Opens a node. It begins empty, whatever the child holds, unless it is reopened: then it keeps its contents.
pub fn open(context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let format = MemoryFormat::open(context)?;
        Ok(Opened::new(Body::Maps(Arc::new(format))))
    })
}

/// The body of a node.
struct MemoryFormat {
    contents: Arc<Contents>,
    misses: Misses,
}

/// What outlives a reopen; requests of older views go on changing it.
struct Contents {
    size: AtomicU64,
    table: Table,
    clusters: Arc<Clusters>,
    /// The ends of the chain that the clusters lie in.
    home: Vec<NodeId>,
    /// Whether it has had a backing child: requests of older views still see that one where nothing is, also once it
    /// is taken away.
    backed: AtomicBool,
}

impl Deref for MemoryFormat {
    type Target = Contents;
    fn deref(&self) -> &Contents {
        &self.contents
    }
}

impl MemoryFormat {
    fn open(mut context: OpenContext) -> Result<Self> {
        let options: Options = context.parse()?;
        let cluster = options.check(&context.node_name)?;
        let home = ends(context.child(Role::File)?);
        let backed = context.children.iter().any(|(role, _)| *role == Role::Backing);
        let kept = context.kept.take().and_then(|kept| kept.downcast::<Contents>().ok());
        let contents = match kept {
            Some(kept) => kept.again(&options, &home).map_err(|e| refused(&context.node_name, e))?,
            None => Arc::new(Contents {
                size: AtomicU64::new(options.size),
                table: Table::new(cluster, options.size),
                clusters: Arc::new(Clusters::new(cluster.bytes(), options.quota)),
                home,
                backed: AtomicBool::new(false),
            }),
        };
        contents.backed.fetch_or(backed, SeqCst);
        let misses = options.table_misses.map_or_else(Misses::never, |m| Misses::new(m.probability, m.seed));
        Ok(Self { contents, misses })
    }

    fn cluster(&self) -> Alignment {
        self.table.cluster()
    }

    /// `range` as whole clusters, none of which begins at or beyond the end.
    fn around(&self, range: ByteRange) -> ByteRange {
        self.cluster().around(range)
    }

    /// The part of `range` that guests can see.
    fn clipped(&self, range: ByteRange) -> ByteRange {
        range.intersection(ByteRange::new(0, self.size()))
    }
}

impl Contents {
    /// The same contents for the body of a reopened node, unless its options do not fit them.
    fn again(
        self: Arc<Self>,
        options: &Options,
        home: &[NodeId],
    ) -> std::result::Result<Arc<Self>, &'static str> {
        if self.home != home {
            return Err("its clusters lie in another file, where they stay when it is reopened");
        }
        if (self.table.cluster().bytes(), self.clusters.quota()) != (options.cluster_size, options.quota) {
            return Err("'cluster-size' and 'quota' cannot be changed by a reopen");
        }
        Ok(self)
    }
}

/// The protocol nodes that a chain ends in.
fn ends(view: &View) -> Vec<NodeId> {
    let is_end = |node: &&Arc<Node>| matches!(node.body(), Body::Executes(body) if body.size().is_some());
    let mut ends: Vec<_> = view.nodes().filter(is_end).map(|node| node.id()).collect();
    ends.sort_unstable();
    ends
}

#[cold]
fn refused(node: &str, why: &str) -> BlockError {
    BlockError::new(ErrorKind::Invalid, format!("node '{node}': {why}"))
}

impl Format for MemoryFormat {
    fn size(&self) -> u64 {
        self.size.load(SeqCst)
    }

    fn limits(&self) -> Limits {
        Limits {
            granule: self.cluster().bytes(),
            zeroing: ZeroCost::Free,
            can: Capabilities { discard: true, zeroes: true, fua: false },
            ..Limits::NONE
        }
    }

    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>> {
        if self.misses.strikes() {
            return Ok(None);
        }
        Ok(Some(self.table.map(range)))
    }

    fn load<'a>(&'a self, _range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<()>> {
        // The table is in memory all the time: what a miss exercises is that others run meanwhile.
        Box::pin(async {
            io::yield_now().await;
            Ok(())
        })
    }

    fn read_special<'a>(
        &'a self,
        range: ByteRange,
        lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        let context = format!("node '{}' has no special clusters ({range})", next.node().name());
        Box::pin(async move { (Err(BlockError::new(ErrorKind::Unsupported, context)), lease) })
    }

    fn changes(&self) -> Option<&dyn Changes> {
        Some(self)
    }

    fn keep(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.contents.clone())
    }

    fn powers(&self) -> Powers<'_> {
        let quota = self.clusters.quota().map(|_| self as &dyn Quota);
        Powers { resize: Some(self), check: Some(self), quota, ..Powers::default() }
    }
}

impl Changes for MemoryFormat {
    fn prepare<'a>(&'a self, range: ByteRange, next: Next<'a>) -> LocalFut<'a, Result<Option<Prepared>>> {
        Box::pin(self.make_room(range, next))
    }

    fn commit(&self, prepared: Prepared, next: Next<'_>) -> Result<()> {
        self.map_room(prepared, next)
    }

    fn change<'a>(&'a self, rq: Request, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        match rq.op {
            Op::WriteZeroes => Box::pin(self.zero(rq, next)),
            Op::Discard => Box::pin(self.discard(rq, next)),
            // The table is lost on close anyway; the clusters are made durable for whoever looks at the file.
            _ => Box::pin(async move { next.execute(FILE, rq, Lease::empty()).await.0 }),
        }
    }

    fn generation(&self, offset: u64) -> Option<&AtomicU32> {
        Some(self.table.generation(offset))
    }
}

impl Quota for MemoryFormat {
    fn limit(&self) -> u64 {
        self.clusters.quota().unwrap_or(u64::MAX)
    }

    fn used(&self) -> u64 {
        self.clusters.used()
    }

    fn cost(&self, range: ByteRange) -> u64 {
        self.clusters.cost(range)
    }
}
