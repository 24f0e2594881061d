//! What is where: for clients that ask for extents, and for filters that store what their child does not hold.
//!
//! A format that allocates knows what it holds, and is believed: asking the file below for each cluster costs more than
//! it tells. Only of a file that is mostly holes (metadata was preallocated, or clusters were written in small parts)
//! the holes are asked for, as QEMU does.

use block::{ByteRange, ChildIndex, Extent, ExtentState, Place, Result, push_extent};
use futures_util::future::{OptionFuture, join_all};
use io::LocalFut;

use super::read::gather;
use super::resolve::Target;
use crate::next::Next;
use crate::node::{Body, NodeId};
use crate::powers::Quota;
use crate::request::Op;
use crate::view::{View, ViewIndex};

/// Most extents of one answer.
const EXTENTS_MAX: usize = 4096;
/// Bytes without storage of a file that are worth a question, at least.
const HOLES_MIN: u64 = 128 << 10;

/// States of `range` at a node, from its first byte, without gaps; may end early, never at once.
pub(crate) fn extents<'a>(
    view: &'a View,
    index: ViewIndex,
    range: ByteRange,
) -> LocalFut<'a, Result<Vec<Extent>>> {
    match view.node(index).body() {
        Body::Executes(node) => node.extents(range, Next::new(view, index)),
        Body::Maps(_) => Box::pin(format_extents(view, index, range)),
    }
}

async fn format_extents(view: &View, index: ViewIndex, range: ByteRange) -> Result<Vec<Extent>> {
    let _guards: Vec<_> = view.changing().iter().map(|at| view.node(*at).reclaim().waits().enter()).collect();
    let (mut found, mut below) = (Vec::new(), Below::default());
    let (mut rest, mut begin) = (range, None);
    while !rest.is_empty() && found.len() < EXTENTS_MAX {
        // From where a table was missing, as reads do.
        let (runs, mut load) = gather(view, index, rest, begin.take())?;
        let holes = below.holes(view, &runs).await;
        for ((target, run), holes) in runs.into_iter().zip(holes) {
            let states = match holes {
                Some(states) => states?,
                None => below.states(view, target, run, rest).await?,
            };
            states.into_iter().for_each(|extent| push_extent(&mut found, extent));
            let end = found.last().map_or(run.end(), |extent| extent.range.end());
            rest = ByteRange::between(end, range.end());
            if end < run.end() {
                // The answer was too long: the rest of the run is asked for again.
                load = None;
                break;
            }
        }
        if let Some((at, range)) = load {
            super::read::load(view, at, range).await?;
            begin = load;
        }
    }
    Ok(found)
}

/// What is known of the nodes below while one question is answered.
#[derive(Default)]
struct Below {
    asked: Option<Asked>,
    /// Of a node that stores clusters, whether it is asked.
    holes: Option<(ViewIndex, bool)>,
}

impl Below {
    /// States of `run`, the front of `rest`.
    async fn states(
        &mut self,
        view: &View,
        target: Target,
        run: ByteRange,
        rest: ByteRange,
    ) -> Result<Vec<Extent>> {
        let one = |state| Ok(vec![Extent { range: run, state }]);
        match target {
            Target::Zero => one(ExtentState::Hole),
            Target::Execute { index, offset } if view.stores_clusters(index).is_none() => {
                let known = match self.asked.take().filter(|asked| asked.knows(index, offset, run)) {
                    Some(known) => known,
                    None => Asked::ask(view, index, offset, rest).await?,
                };
                Ok(self.asked.insert(known).within(run))
            }
            Target::Special { .. } | Target::Execute { .. } => one(ExtentState::Data),
        }
    }

    /// States of those runs that lie in a file of which holes are asked, all asked at the same time.
    async fn holes(&mut self, view: &View, runs: &[(Target, ByteRange)]) -> Vec<Option<Result<Vec<Extent>>>> {
        let mut questions = Vec::with_capacity(runs.len());
        for &(target, run) in runs {
            let question = match target {
                Target::Execute { index, offset } if self.may_tell_holes(view, index) => {
                    Some(room(view, index, offset, run))
                }
                _ => None,
            };
            questions.push(OptionFuture::from(question));
        }
        join_all(questions).await
    }

    fn may_tell_holes(&mut self, view: &View, index: ViewIndex) -> bool {
        match self.holes {
            Some((known, tells)) if known == index => tells,
            _ => self.holes.insert((index, tells_holes(view, index))).1,
        }
    }
}

/// States of `run`, which has its place at `offset` of that node.
async fn room(view: &View, index: ViewIndex, offset: u64, run: ByteRange) -> Result<Vec<Extent>> {
    let mut states = Asked::ask(view, index, offset, run).await?.within(run);
    for extent in states.iter_mut().filter(|extent| extent.state.reads_zero()) {
        // The format says that it has a place.
        extent.state = ExtentState::AllocatedZero;
    }
    Ok(states)
}

/// Whether holes of a node that stores clusters are worth a question: a tenth or more of the file that has the tables
/// takes no storage. Of a data file, too, that alone decides, as QEMU has it.
pub(super) fn tells_holes(view: &View, index: ViewIndex) -> bool {
    let tables = view.stores_clusters(index).and_then(|tables| view.node(tables).powers().in_file);
    let Some(file) = tables.map(|power| power.file()) else { return false };
    let (size, allocated) = (file.size().unwrap_or(0), file.allocated().unwrap_or(u64::MAX));
    let least = allocated.saturating_add(HOLES_MIN).max(allocated.saturating_add(allocated / 9));
    size >= least
}

/// What a node below has answered, for more than the run that it was asked for: runs are cut short by what lies
/// above it (each cluster of a cache), and asking may take a round trip.
pub(super) struct Asked {
    index: ViewIndex,
    /// Distance from our offsets to the node's, modulo 2^64.
    shift: u64,
    /// In our offsets, in order and without gaps.
    extents: Vec<Extent>,
}

impl Asked {
    /// Asks node `index` for what of `rest`, whose first byte is its byte `offset`, it has. Behind its end there is a
    /// hole.
    pub(super) async fn ask(view: &View, index: ViewIndex, offset: u64, rest: ByteRange) -> Result<Self> {
        let len = rest.len().min(view.size_of(index).saturating_sub(offset));
        let mut below = extents(view, index, ByteRange::new(offset, len)).await?;
        for extent in &mut below {
            let start = rest.start() + extent.range.start().saturating_sub(offset);
            extent.range = ByteRange::new(start, extent.range.len()).intersection(rest);
        }
        if len == 0 {
            below = vec![Extent { range: rest, state: ExtentState::Hole }];
        }
        Ok(Self { index, shift: offset.wrapping_sub(rest.start()), extents: below })
    }

    /// Whether it holds the first byte of `run`, which lies at `offset` of node `index`.
    pub(super) fn knows(&self, index: ViewIndex, offset: u64, run: ByteRange) -> bool {
        let covers = |e: &Extent| e.range.start() <= run.start() && run.start() < e.range.end();
        let same = self.index == index && self.shift == offset.wrapping_sub(run.start());
        same && self.extents.get(self.first(run)).is_some_and(covers)
    }

    /// Index of the first extent that ends behind the beginning of `run`.
    fn first(&self, run: ByteRange) -> usize {
        self.extents.partition_point(|extent| extent.range.end() <= run.start())
    }

    /// The extent that holds the first byte of `run`, as far as it lies in that.
    pub(super) fn front(&self, run: ByteRange) -> Option<Extent> {
        let first = self.extents.get(self.first(run))?;
        Some(Extent { range: first.range.intersection(run), state: first.state })
    }

    /// Whether that node has answered it.
    pub(super) fn is_of(&self, index: ViewIndex) -> bool {
        self.index == index
    }

    fn within(&self, run: ByteRange) -> Vec<Extent> {
        let overlapping = self.extents[self.first(run)..].iter().take_while(|e| e.range.start() < run.end());
        overlapping.map(|e| Extent { range: e.range.intersection(run), state: e.state }).collect()
    }
}

/// Which layer of a chain has bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// The first format itself; or nobody, and nothing below it is in the way of its zeros.
    Here,
    /// A layer below it, down to the bottom, that one included. Zeros behind the end of such a layer, too.
    Between,
    /// A layer below the bottom, or nobody.
    Below,
}

/// A question for [`Whence`], as far as it has been followed: where a table is missing, it goes on from there.
struct Descent {
    bottom: Option<NodeId>,
    /// Layer that is asked next; `None` in the beginning.
    at: Option<ViewIndex>,
    range: ByteRange,
}

/// How far a question has come.
enum Answer {
    Known(Whence),
    Load(ViewIndex),
}

impl Descent {
    /// Goes on; `range` is cut down to the bytes that share the answer.
    fn go(&mut self, view: &View, top: ViewIndex) -> Result<Answer> {
        let first = first_format(view, top).map(|(index, _)| index);
        let mut at = self.at.or(first);
        while let Some(index) = at {
            let Body::Maps(format) = view.node(index).body() else { break };
            let Some(mapping) = super::map(view, index, &**format, Op::Read, self.range)? else {
                self.at = at;
                return Ok(Answer::Load(index));
            };
            self.range = self.range.head(mapping.len);
            let is_first = first == at;
            if mapping.place != Place::Unallocated {
                return Ok(Answer::Known(if is_first { Whence::Here } else { Whence::Between }));
            }
            let Some(backing) = view.backing(index) else {
                return Ok(Answer::Known(if is_first { Whence::Here } else { Whence::Below }));
            };
            if self.bottom == Some(view.node(index).id()) {
                return Ok(Answer::Known(Whence::Below));
            }
            let inside = view.size_of(backing).saturating_sub(self.range.start());
            if inside == 0 {
                // What shines through once this layer is gone is not what shows now.
                let hides = self.bottom.is_some();
                return Ok(Answer::Known(if hides { Whence::Between } else { Whence::Here }));
            }
            self.range = self.range.head(inside);
            if self.bottom.is_none() {
                return Ok(Answer::Known(Whence::Between));
            }
            at = first_format(view, backing).map(|(index, _)| index);
        }
        // A protocol has all of its bytes.
        let below_first = first.is_some();
        Ok(Answer::Known(if below_first { Whence::Between } else { Whence::Here }))
    }
}

/// Which layer has the first bytes of `range` of the first format at or below `index`, and how many share that answer;
/// `None`: a table has to be loaded, see [`whence`]. Without a bottom all that lies below counts as between.
pub(crate) fn whence_now(
    view: &View,
    index: ViewIndex,
    bottom: Option<NodeId>,
    range: ByteRange,
) -> Result<Option<(Whence, u64)>> {
    let mut descent = Descent { bottom, at: None, range };
    Ok(match descent.go(view, index)? {
        Answer::Known(whence) => Some((whence, descent.range.len())),
        Answer::Load(_) => None,
    })
}

/// As [`whence_now`], loading tables as needed.
pub(crate) async fn whence(
    view: &View,
    index: ViewIndex,
    bottom: Option<NodeId>,
    range: ByteRange,
) -> Result<(Whence, u64)> {
    let mut descent = Descent { bottom, at: None, range };
    loop {
        match descent.go(view, index)? {
            Answer::Known(whence) => return Ok((whence, descent.range.len())),
            Answer::Load(at) => super::read::load(view, at, descent.range).await?,
        }
    }
}

/// In what units the first format at or below `index` allocates; 1 where there is none.
pub(crate) fn granule(view: &View, index: ViewIndex) -> u64 {
    first_format(view, index).map_or(1, |(index, _)| view.limits_of(index).granule)
}

/// The bound that the first format at or below `index` has on what it holds.
pub(crate) fn quota(view: &View, index: ViewIndex) -> Option<&dyn Quota> {
    first_format(view, index).and_then(|(_, format)| format.powers().quota)
}

fn first_format(view: &View, mut index: ViewIndex) -> Option<(ViewIndex, &dyn crate::Format)> {
    loop {
        match view.node(index).body() {
            Body::Maps(format) => return Some((index, &**format)),
            Body::Executes(_) => index = view.child(index, ChildIndex(0)).ok()?,
        }
    }
}
