//! The only list of drivers: one line each.

use block::{BlockError, Permissions, Result};
use flow::Role;
use io::LocalFut;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::context::{OpenContext, Opened};
use crate::filters::{copy_on_read, delay, fault, throttle};
use crate::formats::{memory_format, qcow2, raw};
use crate::options::{self, Refusal};
use crate::protocols::{file, memory, nbd, null};
use crate::wording::Wording;

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
    /// Fails unless these are options of its own.
    takes: fn(Map<String, Value>) -> std::result::Result<(), Refusal>,
    /// Opens a node.
    pub open: fn(OpenContext) -> LocalFut<'static, Result<Opened>>,
}

const NOTHING: Permissions = Permissions::NONE;
const FILTERED: &[Role] = &[Role::Filtered];
const MAPPED: &[Role] = &[Role::File, Role::Backing];
const IMAGE: &[Role] = &[Role::File, Role::DataFile, Role::Backing];

fn takes<T: DeserializeOwned>(options: Map<String, Value>) -> std::result::Result<(), Refusal> {
    options::read::<T>(options).map(|_| ())
}

/// All drivers, by name.
#[rustfmt::skip]
pub const DRIVERS: &[Driver] = &[
    Driver { name: "copy-on-read", kind: Kind::Filter, children: FILTERED, asks: Permissions::WRITE_UNCHANGED, takes: takes::<copy_on_read::Options>, open: copy_on_read::open },
    Driver { name: "delay", kind: Kind::Filter, children: FILTERED, asks: NOTHING, takes: takes::<delay::Options>, open: delay::open },
    Driver { name: "fault", kind: Kind::Filter, children: FILTERED, asks: NOTHING, takes: takes::<fault::Options>, open: fault::open },
    Driver { name: "file", kind: Kind::Protocol, children: &[], asks: NOTHING, takes: takes::<file::Options>, open: file::open },
    Driver { name: "memory", kind: Kind::Protocol, children: &[], asks: NOTHING, takes: takes::<memory::Options>, open: memory::open },
    Driver { name: "memory-format", kind: Kind::Format, children: MAPPED, asks: NOTHING, takes: takes::<memory_format::Options>, open: memory_format::open },
    Driver { name: "nbd", kind: Kind::Protocol, children: &[], asks: NOTHING, takes: takes::<nbd::Options>, open: nbd::open },
    Driver { name: "null-aio", kind: Kind::Protocol, children: &[], asks: NOTHING, takes: takes::<null::Options>, open: null::open },
    Driver { name: "null-co", kind: Kind::Protocol, children: &[], asks: NOTHING, takes: takes::<null::Options>, open: null::open },
    Driver { name: "qcow2", kind: Kind::Format, children: IMAGE, asks: NOTHING, takes: takes::<qcow2::Options>, open: qcow2::open },
    Driver { name: "raw", kind: Kind::Format, children: FILTERED, asks: NOTHING, takes: takes::<raw::Options>, open: raw::open },
    Driver { name: "throttle", kind: Kind::Filter, children: FILTERED, asks: NOTHING, takes: takes::<throttle::Options>, open: throttle::open },
];

impl Driver {
    /// Fails unless `options` are options of its own.
    pub fn check(&self, options: &Map<String, Value>, wording: Wording) -> Result<()> {
        (self.takes)(options.clone()).map_err(|refusal| self.refused(options, &refusal, wording))
    }

    /// Says why `options`, its own or those that all drivers have, are refused.
    pub fn refused(&self, options: &Map<String, Value>, refusal: &Refusal, wording: Wording) -> BlockError {
        wording.refused(self, options, refusal)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({})", self.name)
    }
}

/// The driver called `name`.
pub fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}
