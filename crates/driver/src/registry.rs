//! The only list of drivers: one line each.

use block::Result;
use flow::Role;
use io::LocalFut;

use crate::context::{OpenContext, Opened};
use crate::filters::copy_on_read;
use crate::formats::{memory_format, qcow2};
use crate::protocols::nbd;

/// What a driver does with requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It is the end of a chain: it talks to the world.
    Protocol,
    /// It maps guest bytes to bytes of its children.
    Format,
    /// It passes requests to its one child.
    Filter,
}

/// A driver.
pub struct Driver {
    /// Its name in options.
    pub name: &'static str,
    /// What it does with requests.
    pub kind: Kind,
    /// Children that its options may name; the first is required.
    pub children: &'static [Role],
    /// Opens a node.
    pub open: fn(OpenContext) -> LocalFut<'static, Result<Opened>>,
}

const NONE: &[Role] = &[];
const FILTERED: &[Role] = &[Role::Filtered];
const MAPPED: &[Role] = &[Role::File, Role::Backing];
const IMAGE: &[Role] = &[Role::File, Role::DataFile, Role::Backing];

/// All drivers, by name.
#[rustfmt::skip]
pub const DRIVERS: &[Driver] = &[
    Driver { name: "copy-on-read", kind: Kind::Filter, children: FILTERED, open: copy_on_read::open },
    Driver { name: "memory-format", kind: Kind::Format, children: MAPPED, open: memory_format::open },
    Driver { name: "nbd", kind: Kind::Protocol, children: NONE, open: nbd::open },
    Driver { name: "qcow2", kind: Kind::Format, children: IMAGE, open: qcow2::open },
];

/// The driver called `name`.
pub fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}
