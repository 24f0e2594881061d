//! What a change of snapshots does to L1 and L2 tables: who is counted, and which tables say what they own anew.
//!
//! Invariants: no table that is in use is written: what changes is a copy; of all tables one is in memory at a time.

use block::{BlockError, ErrorKind, Result};
use flow::Next;
use io::Lease;
use qcow2::{FILE_CHILD, Geometry, HostOffset, L1Table, L2Table, Reference};

use super::super::image::Image;
use super::super::space::Run;
use super::super::writing::writer::Turn;
use super::recount::{Change, Recount};

/// Tables that are made beside those in use.
pub(super) struct Renewal<'a> {
    pub(super) image: &'a Image,
    pub(super) counts: Recount<'a>,
    pub(super) turn: &'a Turn,
    pub(super) next: Next<'a>,
}

/// An L1 table in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct L1 {
    pub(super) offset: HostOffset,
    pub(super) words: Vec<u64>,
}

impl L1 {
    /// The clusters that it takes.
    pub(super) fn run(&self, geometry: &Geometry) -> Run {
        let bytes = self.words.len() as u64 * 8;
        let count = bytes.div_ceil(geometry.cluster_size());
        Run { first: self.offset.0 >> geometry.cluster_bits(), count }
    }
}

impl Renewal<'_> {
    /// The L1 table of `entries` at `offset`. `Corrupt` where there can be none.
    pub(super) async fn read_l1(&self, offset: HostOffset, entries: u32) -> Result<L1> {
        let aligned = offset.0.is_multiple_of(self.image.geometry.cluster_size());
        let end = offset.0.saturating_add(u64::from(entries) * 8);
        if !aligned || u64::from(entries) * 8 > L1Table::BYTES_MAX || end > self.next.size(FILE_CHILD)? {
            let context = format!("an L1 table of {entries} entries at {offset} is none of its file");
            return Err(BlockError::new(ErrorKind::Corrupt, context));
        }
        let bytes = self.image.read_file(offset.0, entries as usize * 8, self.next).await?;
        let words = qcow2::words(&bytes).collect();
        Ok(L1 { offset, words })
    }

    /// Counts all that an L1 table refers to, once more or less: L2 tables, and what they refer to.
    pub(super) async fn count(&mut self, l1: &L1, change: Change) -> Result<()> {
        for word in &l1.words {
            let Some((cluster, table)) = self.table(*word).await? else { continue };
            self.counts.change(cluster, change).await?;
            for index in 0..table.len() {
                match table.reference(&self.image.geometry, index)? {
                    Reference::None => {}
                    Reference::Cluster(cluster) => self.counts.change(cluster, change).await?,
                    Reference::Compressed(hosts) => {
                        let run = Run { first: hosts.start, count: hosts.end - hosts.start };
                        self.counts.change_run(run, change).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The words of the L1 table that is active from now on, made of one whose references are all counted: where an L2
    /// table does not say what it owns, a copy that does so takes its place.
    pub(super) async fn renew(&mut self, l1: &L1) -> Result<Vec<u64>> {
        let mut words = Vec::with_capacity(l1.words.len());
        for word in &l1.words {
            words.push(self.renew_one(*word).await?);
        }
        Ok(words)
    }

    async fn renew_one(&mut self, word: u64) -> Result<u64> {
        let Some((cluster, mut table)) = self.table(word).await? else { return Ok(0) };
        let mut changed = false;
        for index in 0..table.len() {
            let owned = match table.reference(&self.image.geometry, index)? {
                Reference::Cluster(cluster) => self.counts.count(cluster).await? == 1,
                Reference::None | Reference::Compressed(_) => false,
            };
            changed |= table.set_exclusive(index, owned);
        }
        if !changed {
            let owned = self.counts.count(cluster).await? == 1;
            return Ok(Geometry::entry_for(self.image.host(cluster), owned));
        }
        let copy = self.counts.take(1).await?;
        self.counts.change(cluster, Change::Less).await?;
        self.write(copy, &table.bytes()).await?;
        Ok(Geometry::entry_for(self.image.host(copy), true))
    }

    /// Writes new bytes to new clusters; answers the first.
    pub(super) async fn store(&mut self, bytes: &[u8]) -> Result<HostOffset> {
        if bytes.is_empty() {
            return Ok(HostOffset(0));
        }
        let count = (bytes.len() as u64).div_ceil(self.image.geometry.cluster_size());
        let first = self.counts.take(count).await?;
        self.write(first, bytes).await?;
        Ok(self.image.host(first))
    }

    async fn write(&self, cluster: u64, bytes: &[u8]) -> Result<()> {
        // Whole clusters: the file shall hold them to their ends.
        let whole = (bytes.len() as u64).next_multiple_of(self.image.geometry.cluster_size());
        let mut lease = Lease::zeroed(whole as usize);
        lease[..bytes.len()].copy_from_slice(bytes);
        self.image.write_table(self.image.host(cluster).0, lease, self.turn, self.next).await
    }

    /// The L2 table that an L1 entry names, and its cluster.
    async fn table(&self, word: u64) -> Result<Option<(u64, L2Table)>> {
        let geometry = &self.image.geometry;
        let Some(at) = geometry.table_of(word, self.next.size(FILE_CHILD)?)? else { return Ok(None) };
        let bytes = self.image.read_file(at.0, geometry.cluster_size() as usize, self.next).await;
        let bytes = bytes.map_err(|error| error.within(format_args!("cannot read the L2 table at {at}")))?;
        Ok(Some((at.0 >> geometry.cluster_bits(), L2Table::parse(geometry, &bytes))))
    }
}
