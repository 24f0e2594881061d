//! The pond as people meet it: the host daemon (`up`), and the verbs that talk to it over its control socket.

mod args;
mod client;
mod commands;
mod places;
mod pond;
mod remedy;
mod show;
mod up;
mod verbs;

pub(crate) use args::{CloneArgs, ListArgs, PivotArgs, RemoveArgs, UpArgs, WatchArgs};
pub(crate) use pond::{Host, HostOptions, SOURCE_TIMEOUT};
pub(crate) use up::up;
pub(crate) use verbs::{clone, list, pivot, remove, watch};
