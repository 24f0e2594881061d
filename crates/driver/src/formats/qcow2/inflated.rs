//! The last clusters that were decompressed: short reads of one cluster unpack it once.
//!
//! Invariants: what is kept and what is being unpacked takes bounded memory, whatever clients ask; a cluster is
//! unpacked by one reader at a time, the others wait and find it; only small ones hold up the I/O thread meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{BlockError, ErrorKind, Result};
use flow::{RangeGuard, RangeLocks};
use io::sync::{Semaphore, SemaphorePermit};
use io::{Lease, World};
use qcow2::{CompressedCluster, Compression, Compressor, Decompressor};

/// Bytes that are kept, at most (and one cluster at least).
const KEPT_BYTES: usize = 4 << 20;
/// Clusters that are kept, at most: they are looked through one by one.
const KEPT_MAX: usize = 64;
/// Idle decompressors that are kept, for as many threads.
const IDLE_MAX: usize = 8;
/// Bytes, packed and unpacked, of clusters that are being unpacked, in units of [`UNIT`].
const UNDER_WAY: usize = (16 << 20) / UNIT;
const UNIT: usize = 4096;
/// Larger clusters are unpacked elsewhere, side by side: 64 KiB take 100 to 300 microseconds, a stretch in which an I/O
/// thread answers a hundred other requests.
const INLINE_MAX: u64 = 16 << 10;

/// Unpacked clusters of one image, the newest first.
pub(super) struct Inflated {
    kept: Mutex<VecDeque<(u64, Arc<Lease>)>>,
    unpacker: Arc<Unpacker>,
    packer: Arc<Packer>,
    at_work: RangeLocks,
    room: Semaphore,
    /// Clusters that may be packed at the same time: more would take memory and be no faster.
    packing: Semaphore,
    world: Arc<dyn World>,
}

/// The right to unpack a cluster.
pub(super) struct Turn<'a> {
    _alone: RangeGuard,
    _room: SemaphorePermit<'a>,
}

impl Inflated {
    pub(super) fn new(kind: Compression, world: Arc<dyn World>) -> Self {
        Self {
            kept: Mutex::default(),
            unpacker: Arc::new(Unpacker { kind, idle: Mutex::default() }),
            packer: Arc::new(Packer { kind, idle: Mutex::default() }),
            at_work: RangeLocks::default(),
            room: Semaphore::new(UNDER_WAY),
            packing: Semaphore::new(world.compute_max()),
            world,
        }
    }

    /// The cluster that starts at `guest`.
    pub(super) fn find(&self, guest: u64) -> Option<Arc<Lease>> {
        lock(&self.kept).iter().find(|(at, _)| *at == guest).map(|(_, bytes)| bytes.clone())
    }

    /// Waits until nobody else unpacks this cluster and there is memory for it. Look for it once more then.
    pub(super) async fn turn(&self, cluster: &CompressedCluster) -> Result<Turn<'_>> {
        let alone = self.at_work.exclusive(cluster.guest).await;
        // At most 6 MiB.
        let units = (cluster.len + cluster.guest.len() as usize).div_ceil(UNIT);
        let room = self.room.acquire_many(units as u32).await;
        let closed = |_| BlockError::new(ErrorKind::Cancelled, "the image is closed");
        Ok(Turn { _alone: alone, _room: room.map_err(closed)? })
    }

    /// Forgets all clusters.
    pub(super) fn forget_all(&self) {
        lock(&self.kept).clear();
    }

    /// Forgets the cluster that starts at `guest`: other bytes have taken its place.
    pub(super) fn forget(&self, guest: u64) {
        lock(&self.kept).retain(|(at, _)| *at != guest);
    }

    /// Unpacks a cluster and keeps it, if it still is the `current` one then.
    pub(super) async fn inflate(
        &self,
        cluster: CompressedCluster,
        packed: Lease,
        current: impl FnOnce() -> bool,
    ) -> Result<Arc<Lease>> {
        let mut bytes = Lease::new(cluster.guest.len() as usize);
        if cluster.guest.len() <= INLINE_MAX {
            self.unpacker.unpack(&cluster, &packed, &mut bytes)?;
            // One such stretch of work a turn.
            io::yield_now().await;
        } else {
            bytes = self.unpack_elsewhere(cluster, packed, bytes).await?;
        }
        let bytes = Arc::new(bytes);
        let mut kept = lock(&self.kept);
        // Whoever changes that forgets it afterwards, under the same lock.
        if !current() {
            return Ok(bytes);
        }
        kept.push_front((cluster.guest.start(), bytes.clone()));
        let room = (KEPT_BYTES / bytes.len()).clamp(1, KEPT_MAX);
        kept.truncate(room);
        Ok(bytes)
    }

    /// Packs a whole cluster, which comes back; `None` where that saves nothing.
    pub(super) async fn deflate(&self, cluster: Lease) -> Result<(Option<Vec<u8>>, Lease)> {
        let closed = |_| BlockError::new(ErrorKind::Cancelled, "the image is closed");
        let _one = self.packing.acquire().await.map_err(closed)?;
        let packer = self.packer.clone();
        let (tell, told) = io::sync::oneshot::channel();
        let work = self.world.compute(Box::new(move || {
            let packed = packer.pack(&cluster);
            // Nobody may be waiting any more. Who is has use for the buffer; this thread has none.
            let _ = tell.send(packed.map(|packed| (packed, cluster)));
        }));
        work.await;
        let lost = |_| BlockError::new(ErrorKind::Cancelled, "packing a cluster was stopped");
        told.await.map_err(lost)?
    }

    /// Unpacks a cluster into `bytes`, on a thread of the pool.
    async fn unpack_elsewhere(
        &self,
        cluster: CompressedCluster,
        packed: Lease,
        mut bytes: Lease,
    ) -> Result<Lease> {
        let unpacker = self.unpacker.clone();
        let (tell, told) = io::sync::oneshot::channel();
        let work = self.world.compute(Box::new(move || {
            let unpacked = unpacker.unpack(&cluster, &packed, &mut bytes);
            // Nobody may be waiting any more. Who is has use for the buffers; this thread would only keep them.
            let _ = tell.send((unpacked, packed, bytes));
        }));
        work.await;
        let lost = |_| BlockError::new(ErrorKind::Cancelled, "unpacking a compressed cluster was stopped");
        let (unpacked, _packed, bytes) = told.await.map_err(lost)?;
        unpacked.map(|()| bytes)
    }
}

/// Decompressors of one image, for whoever needs one.
struct Unpacker {
    kind: Compression,
    idle: Mutex<Vec<Decompressor>>,
}

impl Unpacker {
    /// Fills `bytes`; what they hold after an error is nobody's data.
    fn unpack(&self, cluster: &CompressedCluster, packed: &[u8], bytes: &mut [u8]) -> Result<()> {
        let idle = lock(&self.idle).pop();
        let mut decompressor = match idle {
            Some(decompressor) => decompressor,
            None => Decompressor::new(self.kind)?,
        };
        let unpacked = decompressor.decompress(cluster, packed, bytes);
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push(decompressor);
        }
        unpacked
    }
}

/// Compressors of one image, for whoever needs one.
struct Packer {
    kind: Compression,
    idle: Mutex<Vec<Compressor>>,
}

impl Packer {
    fn pack(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
        let idle = lock(&self.idle).pop();
        let mut compressor = match idle {
            Some(compressor) => compressor,
            None => Compressor::new(self.kind)?,
        };
        let packed = compressor.compress(cluster);
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push(compressor);
        }
        Ok(packed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under it is whole at any point.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
