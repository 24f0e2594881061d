//! Writing to an image: where new bytes go, how tables come to say so, and when that is on disk.
//!
//! From above to below: requests find room ([`room`], [`reserve`], [`compressed`]) or drop what was there ([`change`],
//! [`empty`]); tables that they change are made their own ([`tables`]) with clusters that are taken and given back
//! ([`allocate`]); what has changed is kept in the [`books`] of the [`writer`] until a [`flush`] has made it durable.
//! Who meets corruption on the way has all writing stopped ([`stopping`]).

pub(super) mod allocate;
pub(super) mod books;
pub(super) mod change;
pub(super) mod compressed;
pub(super) mod cut;
pub(super) mod empty;
pub(super) mod flush;
pub(super) mod flushes;
pub(super) mod generations;
mod packed;
pub(super) mod reserve;
pub(super) mod room;
pub(super) mod stopping;
pub(super) mod tables;
pub(super) mod writer;
