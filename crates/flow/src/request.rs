//! The request that travels through every layer, and the buffers that travel beside it.

use std::ops::BitOr;
use std::sync::Arc;

use block::{ByteRange, Priority};
use io::{File, Moment};

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Op {
    /// Fill the buffer.
    Read,
    /// Store the buffer.
    Write,
    /// Make the range read as zeros.
    WriteZeroes,
    /// The bytes of the range are not needed any more.
    Discard,
    /// Make everything that was acknowledged before durable.
    Flush,
    /// Bring the range near (populate a cache, read ahead).
    Cache,
}

impl Op {
    /// Whether it may change what a node reads as.
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::WriteZeroes | Self::Discard)
    }
}

/// Modifiers of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(u8);

impl Flags {
    /// No modifier.
    pub const NONE: Self = Self(0);
    /// Durable before it is answered.
    pub const FUA: Self = Self(1);
    /// WriteZeroes: the range may lose its storage.
    pub const MAY_UNMAP: Self = Self(2);
    /// WriteZeroes: fail with `Unsupported` rather than write byte by byte.
    pub const FAST_ZERO: Self = Self(4);
    /// Write, WriteZeroes: touch only what no layer of the node itself holds yet, so that the node reads
    /// as before (QEMU's write-unchanged). What is held already is left alone.
    pub const UNCHANGED: Self = Self(8);

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One request. Holds no buffer, so it is copied freely.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What is asked for.
    pub op: Op,
    /// Which bytes of the node it is given to. Empty for a flush.
    pub range: ByteRange,
    /// Modifiers.
    pub flags: Flags,
    /// Who waits.
    pub priority: Priority,
    /// When it stops making sense: nodes that wait for something give up with `TimedOut` then.
    pub deadline: Option<Moment>,
    /// Filters that have acted on it already (bit = the filter's slot in the view): they pass it on.
    pub acted: u64,
    /// Bytes of the front that are done already; execution goes on behind them.
    pub done: u32,
}

impl Request {
    /// A demand request without modifiers.
    pub const fn new(op: Op, range: ByteRange) -> Self {
        Self { op, range, flags: Flags::NONE, priority: Priority::Demand, deadline: None, acted: 0, done: 0 }
    }

    /// A flush.
    pub const fn flush() -> Self {
        Self::new(Op::Flush, ByteRange::new(0, 0))
    }

    /// With these modifiers.
    #[must_use]
    pub const fn with_flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    /// With this priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The bytes that are not done yet.
    pub fn rest(&self) -> ByteRange {
        self.range.skip(u64::from(self.done))
    }

    /// The same request for another range, from its beginning; who acted is kept.
    #[must_use]
    pub const fn on(mut self, range: ByteRange) -> Self {
        self.range = range;
        self.done = 0;
        self
    }

    /// Marks `slot` as having acted; answers whether it had not yet.
    pub fn act(&mut self, slot: u64) -> bool {
        let first = self.acted & slot == 0;
        self.acted |= slot;
        first
    }
}

/// The borrowed buffer of the path that does not wait: as long as the range of the request, or nothing.
#[derive(Debug)]
pub enum Window<'b> {
    /// To be filled by a read.
    In(&'b mut [u8]),
    /// To be stored by a write.
    Out(&'b [u8]),
    /// A read that may be answered with stable file ranges instead of bytes.
    Lend(&'b mut Pieces),
    /// No data.
    None,
}

impl Window<'_> {
    /// The part for `len` bytes from `from`.
    pub fn part(&mut self, from: usize, len: usize) -> Window<'_> {
        match self {
            Self::In(buf) => Window::In(&mut buf[from..from + len]),
            Self::Out(buf) => Window::Out(&buf[from..from + len]),
            Self::Lend(pieces) => Window::Lend(pieces),
            Self::None => Window::None,
        }
    }

    /// Zeroes the `len` bytes from `from` of a read.
    pub fn zero(&mut self, from: usize, len: usize) -> bool {
        match self {
            Self::In(buf) => buf[from..from + len].fill(0),
            Self::Lend(pieces) => return pieces.push(Piece { source: PieceSource::Zeroes, len }),
            Self::Out(_) | Self::None => {}
        }
        true
    }
}

/// Answer of the path that does not wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Now {
    /// All of it is done.
    Done,
    /// All of it lies in the pieces, to be sent from there.
    Lent,
    /// Some of it would wait: go on with `execute`. What is done is recorded in the request.
    Wait,
}

/// Where lent bytes lie.
#[derive(Clone)]
pub enum PieceSource {
    /// In a file, from this offset; the bytes there neither change nor move while they are being sent.
    File {
        /// The file.
        file: Arc<dyn File>,
        /// Offset of the first byte.
        offset: u64,
    },
    /// Nowhere: they are zeros.
    Zeroes,
}

/// A run of lent bytes.
#[derive(Clone)]
pub struct Piece {
    /// Where it lies.
    pub source: PieceSource,
    /// Its length in bytes.
    pub len: usize,
}

/// The pieces of one lent read. Keeps its memory between reads, and takes no more than it has room for.
#[derive(Default)]
pub struct Pieces {
    list: Vec<Piece>,
}

impl Pieces {
    /// Most pieces of one read; more fragmented reads are copied.
    pub const MAX: usize = 32;

    /// An empty list with room for [`Pieces::MAX`].
    pub fn new() -> Self {
        Self { list: Vec::with_capacity(Self::MAX) }
    }

    /// Adds a piece; false when there is no room.
    pub fn push(&mut self, piece: Piece) -> bool {
        let room = self.list.len() < Self::MAX;
        if room {
            self.list.push(piece);
        }
        room
    }

    /// Forgets the pieces behind the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes all pieces out, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Piece> + '_ {
        self.list.drain(..)
    }
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pieces({})", self.list.len())
    }
}
