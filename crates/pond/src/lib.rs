//! Image caches, the disks of VMs on them, and the repository that images come from. A client of the engine, as QMP is:
//! it does nothing that is out of a QMP user's reach.
//!
//! Invariants: a cache is an ordinary qcow2 image whose header alone says whether it still needs its source; nothing is
//! taken for the source but the image that the cache was begun with; each clone reads through a socket of its own, and
//! a cache is reached by the daemon's user and by the owners of disks that were pivoted to it, and by nobody else.

mod clones;
pub mod fuzz;
mod identity;
mod image;
mod layout;
mod lock;
mod overlay;
mod pond;
mod readers;
mod record;
mod refusal;
pub mod serve;
mod served;
mod source;

pub use clones::CloneRequest;
pub use image::State;
pub use pond::{CloneInfo, ImageInfo, Pond, PondOptions};
pub use record::{CloneRecord, Holding, ImageRecord, Mode};
pub use refusal::{Refusal, Remedy, Trouble};
pub use source::Source;
