//! Image caches, the disks of VMs on them, and the repository that images come from. A client of the engine, as QMP is:
//! it does nothing that is out of a QMP user's reach.
//!
//! Invariants: a cache is an ordinary qcow2 image whose header alone says whether it still needs its source; nothing is
//! taken for the source but the image that the cache was begun with; each clone reads through a socket of its own.

mod clones;
mod identity;
mod image;
mod layout;
mod lock;
mod overlay;
mod pond;
mod record;
pub mod serve;
mod source;

pub use clones::CloneRequest;
pub use image::State;
pub use pond::{CloneInfo, ImageInfo, Pond, PondOptions};
pub use record::{CloneRecord, ImageRecord, Mode};
pub use source::Source;
