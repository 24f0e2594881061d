//! The last clusters that were decompressed: short reads of one cluster unpack it once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::Result;
use qcow2::{CompressedCluster, Compression, Decompressor};

/// Bytes that are kept, at most (and one cluster at least).
const BYTES_MAX: usize = 4 << 20;
/// Idle decompressors that are kept, for as many threads.
const IDLE_MAX: usize = 8;

/// Unpacked clusters of one image, the newest first.
pub(super) struct Inflated {
    kind: Compression,
    kept: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
    idle: Mutex<Vec<Decompressor>>,
}

impl Inflated {
    pub(super) fn new(kind: Compression) -> Self {
        Self { kind, kept: Mutex::default(), idle: Mutex::default() }
    }

    /// The cluster that starts at `guest`.
    pub(super) fn find(&self, guest: u64) -> Option<Arc<[u8]>> {
        self.kept().iter().find(|(at, _)| *at == guest).map(|(_, bytes)| bytes.clone())
    }

    /// Unpacks a cluster and keeps it.
    pub(super) fn inflate(&self, cluster: &CompressedCluster, packed: &[u8]) -> Result<Arc<[u8]>> {
        let idle = lock(&self.idle).pop();
        let mut decompressor = match idle {
            Some(decompressor) => decompressor,
            None => Decompressor::new(self.kind)?,
        };
        let mut bytes = vec![0; cluster.guest.len() as usize];
        let unpacked = decompressor.decompress(cluster, packed, &mut bytes);
        {
            let mut idle = lock(&self.idle);
            if idle.len() < IDLE_MAX {
                idle.push(decompressor);
            }
        }
        unpacked?;
        let bytes: Arc<[u8]> = bytes.into();
        let mut kept = self.kept();
        kept.push_front((cluster.guest.start(), bytes.clone()));
        let room = (BYTES_MAX / bytes.len()).max(1);
        kept.truncate(room);
        Ok(bytes)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<[u8]>)>> {
        lock(&self.kept)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
