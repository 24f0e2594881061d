//! Which layer of a chain answers for a range, and what it has there: for those who show or copy layers apart.
//!
//! A file tells of many extents at once, and each answer here is about the first of them. So what it has told is kept
//! for the next questions: a file of very many extents would take longer with each of them otherwise.

use block::{ByteRange, ChildIndex, ExtentState, Place, Result};

use super::status::Asked;
use crate::contract::Format;
use crate::node::Body;
use crate::request::Op;
use crate::view::{View, ViewIndex};

/// What a layer has of a run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// Bytes in a file.
    Data,
    /// A hole of a file that is there byte by byte: it reads as zeros.
    Hole,
    /// Room that has a place in a file, where nothing was ever written: it reads as zeros.
    Room,
    /// Zeros, as it says itself.
    Zeroes,
    /// Bytes that only the format can produce (compressed).
    Special,
    /// Nothing, and no layer below it has anything either: zeros.
    Nothing,
    /// Nothing, and the layer below it ends before: zeros.
    Behind,
}

/// A run of bytes that one layer answers for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// How many layers lie above it: 0 for the image itself.
    pub depth: u32,
    /// What it has.
    pub holds: Holds,
    /// Length of the run in bytes, at least 1 and at most what was asked for.
    pub len: u64,
    /// It holds nothing, and so far as the lowest layer goes: what comes next lies behind that.
    pub is_last: bool,
    /// The node that has the bytes, or room for them, by name, and the offset of the first one there.
    pub at: Option<(String, u64)>,
}

/// Asks from front to back which layers answer. What files have told about bytes further on is believed, so nobody else
/// may be changing those meanwhile; whoever asks may change what was asked about.
#[derive(Default)]
pub struct Layers {
    /// By node.
    asked: Vec<Asked>,
    /// Of the view in which they were asked.
    version: u64,
}

/// What a chain says of the front of a range.
enum Found {
    /// All of it.
    Told(Layer),
    /// Where the bytes are; the file has to be asked what it has there.
    InFile(InFile),
}

/// Bytes of a layer that are to be found in a file.
struct InFile {
    /// The file.
    index: ViewIndex,
    /// Where the run begins in it.
    offset: u64,
    depth: u32,
    /// As the question counts them: what all layers above leave to it.
    run: ByteRange,
    /// From the first byte of the run on, what is worth asking about.
    ahead: ByteRange,
    /// What a hole of the file is.
    hole: Holds,
}

impl Layers {
    /// Which layer answers for the first bytes of `range` (not empty, in bounds).
    pub(crate) async fn front(&mut self, view: &View, range: ByteRange) -> Result<Layer> {
        let changing = view.changing().iter();
        let _guards: Vec<_> = changing.map(|at| view.node(*at).reclaim().waits().enter()).collect();
        if self.version != view.version() {
            *self = Self { asked: Vec::new(), version: view.version() };
        }
        match Descent::new(range).go(view).await? {
            Found::Told(layer) => Ok(layer),
            Found::InFile(found) => self.ask(view, found).await,
        }
    }

    /// What the file has of the front of a run.
    async fn ask(&mut self, view: &View, found: InFile) -> Result<Layer> {
        let InFile { index, offset, depth, run, ahead, hole } = found;
        let mut known = self.asked.iter().position(|asked| asked.knows(index, offset, run));
        if known.is_none() {
            let asked = Asked::ask(view, index, offset, ahead).await?;
            self.asked.retain(|old| !old.is_of(index));
            known = Some(self.asked.len());
            self.asked.push(asked);
        }
        let (len, holds) = match known.and_then(|at| self.asked[at].front(run)) {
            Some(front) if front.state == ExtentState::Data => (front.range.len(), Holds::Data),
            Some(front) => (front.range.len(), hole),
            None => (run.len(), Holds::Data),
        };
        let at = Some((view.node(index).name().to_string(), offset));
        Ok(Layer { depth, holds, len, is_last: false, at })
    }
}

/// The way down to the layer that answers for the front of a question.
struct Descent {
    question: ByteRange,
    /// Where it is, and how many layers lie above.
    index: ViewIndex,
    depth: u32,
    /// What the layers above leave to it.
    range: ByteRange,
}

impl Descent {
    fn new(question: ByteRange) -> Self {
        Self { question, index: ViewIndex::ROOT, depth: 0, range: question }
    }

    /// Goes all the way, loading tables as needed.
    async fn go(mut self, view: &View) -> Result<Found> {
        loop {
            let format = match view.node(self.index).body() {
                Body::Maps(format) => format,
                Body::Executes(node) if node.size().is_none() => {
                    self.index = view.child(self.index, ChildIndex(0))?;
                    continue;
                }
                Body::Executes(_) => {
                    return Ok(self.in_file(self.index, self.range.start(), self.question, Holds::Hole));
                }
            };
            let Some(mapping) = super::map(view, self.index, &**format, Op::Read, self.range)? else {
                super::read::load(view, self.index, self.range).await?;
                continue;
            };
            self.range = self.range.head(mapping.len);
            match mapping.place {
                Place::Zero => return self.without_data(view, &**format, Holds::Zeroes),
                Place::Special => return Ok(self.told(Holds::Special, None)),
                Place::Data { child, offset, .. } => return self.data(view, child, offset),
                Place::Unallocated => {}
            }
            let Some(backing) = view.backing(self.index) else {
                return self.without_data(view, &**format, Holds::Nothing);
            };
            let inside = view.size_of(backing).saturating_sub(self.range.start());
            if inside == 0 {
                return Ok(self.told(Holds::Behind, None));
            }
            (self.index, self.range, self.depth) = (backing, self.range.head(inside), self.depth + 1);
        }
    }

    fn told(&self, holds: Holds, at: Option<(String, u64)>) -> Found {
        Found::Told(Layer { depth: self.depth, holds, len: self.range.len(), is_last: false, at })
    }

    fn in_file(&self, index: ViewIndex, offset: u64, ahead: ByteRange, hole: Holds) -> Found {
        Found::InFile(InFile { index, offset, depth: self.depth, run: self.range, ahead, hole })
    }

    fn data(&self, view: &View, child: ChildIndex, offset: u64) -> Result<Found> {
        let child = view.child(self.index, child)?;
        let is_room = view.stores_clusters(child).is_some();
        if is_room && !super::status::tells_holes(view, child) {
            return Ok(self.told(Holds::Data, Some((view.node(child).name().to_string(), offset))));
        }
        if offset.checked_add(self.range.len()).is_none() {
            return Err(super::resolve::overflows(view, self.index, offset));
        }
        // Clusters lie anywhere; a layer that is one file has all that follows in order.
        Ok(match is_room {
            true => self.in_file(child, offset, self.range, Holds::Room),
            false => self.in_file(child, offset, self.question, Holds::Hole),
        })
    }

    fn without_data(&self, view: &View, format: &dyn Format, holds: Holds) -> Result<Found> {
        let (at, len) = kept_room(view, self.index, format, self.range)?;
        let is_last = holds == Holds::Nothing && self.range.start() + len >= view.size_of(self.index);
        Ok(Found::Told(Layer { depth: self.depth, holds, len, is_last, at }))
    }
}

/// Where room is kept for the first bytes of a run without data, and how many share the answer.
fn kept_room(
    view: &View,
    index: ViewIndex,
    format: &dyn Format,
    run: ByteRange,
) -> Result<(Option<(String, u64)>, u64)> {
    let (room, len) = format.kept_room(run)?;
    let Some((child, offset)) = room else { return Ok((None, len)) };
    let child = view.child(index, child)?;
    Ok((Some((view.node(child).name().to_string(), offset)), len))
}
