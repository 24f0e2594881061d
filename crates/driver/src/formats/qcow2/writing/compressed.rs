//! Writing compressed clusters: their bytes lie one behind the other, several in one host cluster.
//!
//! Invariants: each host cluster that a compressed one touches is counted once for it, before a table says so; what is
//! mapped compressed replaces whatever was there, and nothing unpacked of that is kept.

use std::sync::Arc;

use block::{BlockError, ByteRange, ErrorKind, Result};
use flow::{Compress, Next, Packed};
use io::{Lease, LocalFut};
use qcow2::{HostOffset, NewEntry};

use super::super::Qcow2;
use super::super::image::Image;
use super::super::space::freed::Why;
use super::books::Pressure;

impl Image {
    /// Packs one cluster; at the end of the disk it may be shorter, and is packed with zeros behind it.
    async fn pack(&self, mut bytes: Lease) -> Result<Packed> {
        if self.is_apart() {
            let context = "images with an external data file hold nothing compressed: write it as it is";
            return Err(BlockError::new(ErrorKind::Unsupported, context));
        }
        let (cluster, len) = (self.geometry.cluster_size() as usize, bytes.len());
        if len < cluster {
            let mut whole = Lease::zeroed(cluster);
            whole[..len].copy_from_slice(&bytes);
            bytes = whole;
        }
        let (packed, mut bytes) = self.inflated.deflate(bytes).await?;
        if len < bytes.len() {
            bytes = bytes.split_to(len);
        }
        Ok(Packed { bytes, packed })
    }

    async fn store_cluster(self: &Arc<Self>, guest: u64, packed: Packed, next: Next<'_>) -> Result<()> {
        self.begin_change(next).await?;
        match packed.packed {
            Some(short) => self.store_short(guest, &short, next).await,
            None => self.store_plain(guest, packed.bytes, next).await,
        }
    }

    async fn store_short(self: &Arc<Self>, guest: u64, packed: &[u8], next: Next<'_>) -> Result<()> {
        let Some(pin) = self.pin(guest, true, next).await? else { return Ok(()) };
        let len = packed.len() as u64;
        let (offset, room) = self.take_bytes(len, next).await?;
        let mut bytes = Lease::copy_of(packed);
        // The room stays taken until the I/O has ended, whatever becomes of us.
        bytes.carry(room.clone());
        self.write_file(offset, bytes, next).await?;
        let whole = ByteRange::new(guest, self.geometry.cluster_size());
        let entry = NewEntry::Compressed { offset: HostOffset(offset), len };
        self.replace(&pin, whole, (Why::Other, next.reclaim()), &mut |_, _| Some(entry))?;
        room.keep();
        self.inflated.forget(guest);
        let pressure = {
            let mut books = self.writer()?.books.lock();
            books.mapped(len);
            books.pressure()
        };
        if pressure != Pressure::Low {
            self.begin_flush(next);
        }
        Ok(())
    }

    /// Stores what cannot be made shorter.
    async fn store_plain(self: &Arc<Self>, guest: u64, mut bytes: Lease, next: Next<'_>) -> Result<()> {
        let mut at = guest;
        while !bytes.is_empty() {
            let rest = ByteRange::new(at, bytes.len() as u64);
            let Some(pin) = self.pin(at, true, next).await? else { return Ok(()) };
            let done = match self.place(&pin, rest, next).await? {
                // All of it is new: what is around it belongs to the cluster's own end.
                Some(placed) => {
                    let here = rest.intersection(placed.guest);
                    let part = bytes.split_to(here.len() as usize);
                    let offset = placed.offset + (here.start() - placed.guest.start());
                    self.write_placed(offset, part, &placed.token, next).await?;
                    self.map_placed(&placed.token, here, next)?;
                    here.len()
                }
                None => self.write_in_place(&pin, rest, |len| bytes.split_to(len), next).await?,
            };
            at += done;
        }
        Ok(())
    }
}

impl Compress for Qcow2 {
    fn pack(&self, bytes: Lease) -> LocalFut<'_, Result<Packed>> {
        Box::pin(self.image.pack(bytes))
    }

    fn store_packed<'a>(&'a self, start: u64, packed: Packed, next: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async move {
            let stored = self.image.store_cluster(start, packed, next).await;
            stored.map_err(|error| self.image.refused(error, next))
        })
    }
}
