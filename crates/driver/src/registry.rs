//! The only list of drivers: one line each.

use block::{Permissions, Result};
use flow::Role;
use io::LocalFut;

use crate::context::{OpenContext, Opened};
use crate::filters::{copy_on_read, delay, fault, throttle};
use crate::formats::{memory_format, qcow2, raw};
use crate::protocols::{file, memory, nbd, null};

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
    /// Permissions that it asks of its children (but backing ones) whatever its own users ask.
    pub asks: Permissions,
    /// Opens a node.
    pub open: fn(OpenContext) -> LocalFut<'static, Result<Opened>>,
}

const NOTHING: Permissions = Permissions::NONE;
const FILTERED: &[Role] = &[Role::Filtered];
const MAPPED: &[Role] = &[Role::File, Role::Backing];
const IMAGE: &[Role] = &[Role::File, Role::DataFile, Role::Backing];

/// All drivers, by name.
#[rustfmt::skip]
pub const DRIVERS: &[Driver] = &[
    Driver { name: "copy-on-read", kind: Kind::Filter, children: FILTERED, asks: Permissions::WRITE_UNCHANGED, open: copy_on_read::open },
    Driver { name: "delay", kind: Kind::Filter, children: FILTERED, asks: NOTHING, open: delay::open },
    Driver { name: "fault", kind: Kind::Filter, children: FILTERED, asks: NOTHING, open: fault::open },
    Driver { name: "file", kind: Kind::Protocol, children: &[], asks: NOTHING, open: file::open },
    Driver { name: "memory", kind: Kind::Protocol, children: &[], asks: NOTHING, open: memory::open },
    Driver { name: "memory-format", kind: Kind::Format, children: MAPPED, asks: NOTHING, open: memory_format::open },
    Driver { name: "nbd", kind: Kind::Protocol, children: &[], asks: NOTHING, open: nbd::open },
    Driver { name: "null-aio", kind: Kind::Protocol, children: &[], asks: NOTHING, open: null::open },
    Driver { name: "null-co", kind: Kind::Protocol, children: &[], asks: NOTHING, open: null::open },
    Driver { name: "qcow2", kind: Kind::Format, children: IMAGE, asks: NOTHING, open: qcow2::open },
    Driver { name: "raw", kind: Kind::Format, children: FILTERED, asks: NOTHING, open: raw::open },
    Driver { name: "throttle", kind: Kind::Filter, children: FILTERED, asks: NOTHING, open: throttle::open },
];

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({})", self.name)
    }
}

/// The driver called `name`.
pub fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}
