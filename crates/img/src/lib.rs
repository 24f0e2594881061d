//! The verbs of qemu-img, over the engine: one file each, and [`VERBS`], the only list of them.
//!
//! A verb is a table of the options it takes and a function. What it has to say it tells to a [`Listener`], in the
//! words of qemu-img, because scripts compare them; what ends it early is a [`Failure`].
//!
//! Invariants: nothing here prints, reads a command line or ends the process; formats are never guessed for writing
//! nor where an image would open others (`docs/decisions/004-img-formats.md`); a verb that fails or is called off
//! removes the files that it has made, and no other; memory is bounded by what is in flight, not by images.

mod amend;
mod backing_mark;
mod bench;
mod bitmap;
mod cache;
mod chain;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod failure;
mod flags;
mod following;
mod foreign;
pub mod fuzz;
mod given;
mod image;
mod info;
mod json;
mod luks;
mod made;
mod map;
mod measure;
mod naming;
mod new_file;
mod new_image;
mod numbers;
mod option_list;
mod rebase;
mod resize;
mod session;
mod settings;
mod snapshot;
mod snapshot_table;
mod verbs;
mod words;

pub use failure::Failure;
pub use given::{Flag, Given};
pub use session::{Listener, Session};
pub use verbs::{Call, VERBS, Verb, find};
pub use words::explained;
