//! Sending bytes of a file from where they are; its holes are sent without looking.
//!
//! Invariant: nothing is lent, and no hole is believed in, but what was found while our locks kept everybody from
//! changing the file.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use block::{ByteRange, ExtentState};
use flow::sabotage::{self, Rule};
use flow::{Now, Piece, PieceSource, Pieces, Request};
use io::File;

/// Holes that are remembered at most (64 KiB of memory); none of a file that has more.
const HOLES_MAX: usize = 4096;

/// Whether a file may be lent from.
#[derive(Default)]
pub(super) struct Lending(ArcSwapOption<Still>);

/// A stretch of time in which nobody can change the file.
#[derive(Default)]
struct Still {
    looking: AtomicBool,
    /// In order; not set until somebody has looked.
    holes: OnceLock<Box<[ByteRange]>>,
}

impl Lending {
    /// Notes whether anybody can change the file from now on.
    pub(super) fn set_still(&self, still: bool) {
        if still != self.0.load().is_some() {
            self.0.store(still.then(Arc::default));
        }
    }

    /// Whether nobody can change the file.
    pub(super) fn is_still(&self) -> bool {
        self.0.load().is_some()
    }

    /// Adds all that is left of a read to `pieces`, or nothing that counts. Who asks first makes us look for holes.
    pub(super) fn lend(&self, file: &Arc<dyn File>, rq: &mut Request, pieces: &mut Pieces) -> Now {
        let still = self.0.load();
        let holes = match still.as_ref().map(|still| (still, still.holes.get())) {
            Some((_, Some(holes))) => &**holes,
            _ if sabotage::broken(Rule::Lending) => &[],
            Some((still, None)) => {
                look(still, file);
                return Now::Wait;
            }
            None => return Now::Wait,
        };
        let mut rest = rq.rest();
        while !rest.is_empty() {
            let (hole, part) = first_part(holes, rest);
            let source = match hole {
                true => PieceSource::Zeroes,
                // What is not in memory would make the sender wait for the disk.
                false if !file.resident(part) => return Now::Wait,
                false => PieceSource::File { file: file.clone(), offset: part.start() },
            };
            if !pieces.push(Piece { source, len: part.len() as usize }) {
                return Now::Wait;
            }
            rest = rest.skip(part.len());
        }
        rq.done = rq.range.len() as u32;
        Now::Lent
    }
}

/// Looks for holes in the background, once per stretch.
#[cold]
fn look(still: &Arc<Still>, file: &Arc<dyn File>) {
    if !still.looking.swap(true, Ordering::AcqRel) {
        let (still, file) = (still.clone(), file.clone());
        io::spawn(async move {
            let holes = holes(&*file).await.unwrap_or_default();
            // Nobody else looks.
            let _ = still.holes.set(holes);
        });
    }
}

/// The front of `range` that is, or is not, a known hole.
fn first_part(holes: &[ByteRange], range: ByteRange) -> (bool, ByteRange) {
    let next = holes.partition_point(|hole| hole.end() <= range.start());
    match holes.get(next) {
        Some(hole) if hole.start() <= range.start() => (true, hole.intersection(range)),
        Some(hole) => (false, range.head(hole.start() - range.start())),
        None => (false, range),
    }
}

/// The holes of a file, unless there are too many or they cannot be told.
async fn holes(file: &dyn File) -> Option<Box<[ByteRange]>> {
    let mut holes = Vec::new();
    let size = file.size().ok()?;
    let mut rest = ByteRange::between(0, size);
    while !rest.is_empty() {
        let extents = file.extents(rest).await.ok()?;
        let end = extents.last()?.range.end();
        holes.extend(extents.iter().filter(|e| e.state == ExtentState::Hole).map(|e| e.range));
        if holes.len() > HOLES_MAX {
            return None;
        }
        rest = ByteRange::between(end, size);
    }
    Some(holes.into())
}
