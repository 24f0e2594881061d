//! The contract of the data path and what moves bytes.
//!
//! A node either *maps* (a [`Format`] says where bytes are) or *executes* (filters and protocols carry
//! requests out). The walk flattens maps down to the first node that executes, so each byte is moved once.
//! Clients enter through [`seam`], holding a [`Turn`] of a [`Root`]; drivers reach their children through
//! [`Next`].
//!
//! Invariants:
//! * Bounds and detect-zeroes are checked once, at the seam; alignment and transfer limits once, at the door
//!   of the executing node ([`dispatch`]). Drivers hold no such checks.
//! * New data is never mapped before it is written: prepare, move, commit.
//! * After `Wait` nothing has been consumed except what the request records, which `execute` honours.
//! * A mapping is used only under a guard that is older than it; guards are never held across an await on
//!   the path that does not wait.
//! * The path that does not wait allocates nothing.

pub mod account;
mod contract;
pub mod copy;
mod dispatch;
pub mod events;
mod facts;
pub mod flights;
pub mod guard;
mod joins;
mod locks;
mod next;
mod node;
mod powers;
mod prepared;
mod recorder;
mod request;
mod root;
pub mod sabotage;
pub mod seam;
mod view;
mod walk;

pub use contract::{Changes, Execute, Format};
pub use facts::{Fact, Facts, ImageFacts, Storage, StoredBacking};
pub use guard::{Reclaim, Tag};
pub use locks::{RangeGuard, RangeLocks};
pub use next::{Hold, Next};
pub use node::{Body, Capabilities, Limits, Node, NodeId, NodeState, Role, ZeroCost};
pub use powers::{
    Amend, Amendment, Backing, BackingName, BitmapChange, BitmapInfo, Bitmaps, Check, CheckReport, Compress,
    Empty, Identity, InFile, Naming, Packed, Permit, Powers, Preallocation, Pressure, Quota, Repair, Resize,
    SnapshotInfo, Snapshots, Stats, Taken, Tell,
};
pub use prepared::Prepared;
pub use recorder::Recorder;
pub use request::{Flags, Now, Op, Piece, PieceSource, Pieces, Request, Window};
pub use root::{Retiring, Root, Turn};
pub use view::{DetectZeroes, View, ViewBuilder, ViewIndex};
pub use walk::{
    Holds, Layer, Layers, Lies, REMEMBER_BUDGET, Whence, remember_total, remember_usage, set_remember_budget,
};
