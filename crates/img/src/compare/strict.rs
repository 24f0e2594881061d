//! `compare -s`: whether two images hold their bytes in the same way.
//!
//! What is looked at is what QEMU calls the block status: data, zeros, allocated, compressed, whether it has a place in
//! a file, and whether the run from there on reaches the end of the image.

use block::{ByteRange, Result};
use engine::Reader;
use flow::{Holds, Layer, Layers};

use crate::image::SECTOR;

/// Runs that are joined at most.
const JOINED_MAX: usize = 1 << 16;

/// What an image has from an offset on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Status {
    holds: Kind,
    /// It has a place in a file, be it a hole.
    has_place: bool,
    /// It is so up to the end of the image; where no layer has anything, up to the end of the lowest one.
    to_the_end: bool,
}

/// What is told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Data,
    Compressed,
    /// Zeros that have a place in a file.
    Room,
    /// Zeros that take their place in a layer.
    Zeroes,
    /// Zeros because no layer has anything.
    Nothing,
}

/// What an image has where, asked for as it is needed.
pub(super) struct Statuses<'a> {
    reader: &'a Reader,
    /// The length of the image in whole sectors; what lies behind its last byte is a hole.
    len: u64,
    /// The last answer, and where it ends.
    known: Option<(Status, u64)>,
    layers: Layers,
}

impl<'a> Statuses<'a> {
    pub(super) fn new(reader: &'a Reader) -> Self {
        Self { reader, len: reader.size().next_multiple_of(SECTOR), known: None, layers: Layers::default() }
    }

    /// What the image has from `at` on, which lies in its sectors, and where that ends. Ask from front to back.
    pub(super) async fn at(&mut self, at: u64) -> Result<(Status, u64)> {
        if let Some(known) = self.known.filter(|(_, end)| at < *end) {
            return Ok(known);
        }
        if at >= self.reader.size() {
            return Ok((Status { holds: Kind::Zeroes, has_place: true, to_the_end: true }, self.len));
        }
        let mut run = self.layer(at).await?;
        let mut end = at + run.len;
        for _ in 0..JOINED_MAX {
            if end >= self.reader.size() {
                break;
            }
            let next = self.layer(end).await?;
            if !goes_on(&run, &next) {
                break;
            }
            (end, run.len, run.is_last) = (end + next.len, run.len + next.len, next.is_last);
        }
        let holds = kind(run.holds);
        if end == self.reader.size() && holds == Kind::Zeroes {
            end = self.len;
        }
        let to_the_end = end == self.len || run.is_last;
        let status = Status { holds, has_place: run.at.is_some(), to_the_end };
        self.known = Some((status, end));
        Ok((status, end))
    }

    async fn layer(&mut self, at: u64) -> Result<Layer> {
        self.reader.layer(&mut self.layers, ByteRange::between(at, self.reader.size())).await
    }
}

fn kind(holds: Holds) -> Kind {
    match holds {
        Holds::Data => Kind::Data,
        Holds::Special => Kind::Compressed,
        Holds::Room => Kind::Room,
        Holds::Hole | Holds::Zeroes | Holds::Behind => Kind::Zeroes,
        Holds::Nothing => Kind::Nothing,
    }
}

/// Whether `next` is what `run` is, in the same place.
fn goes_on(run: &Layer, next: &Layer) -> bool {
    let place = match (&run.at, &next.at) {
        (Some((node, offset)), Some((other, there))) => node == other && offset + run.len == *there,
        (None, None) => true,
        _ => false,
    };
    // Compressed clusters stand alone.
    place && run.depth == next.depth && run.holds == next.holds && run.holds != Holds::Special
}
