//! The only list of drivers: one line each.

use block::{Permissions, Result};
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
    /// The name by which others know what options of its own name (a file, an export), if they can.
    pub filename: fn(&Map<String, Value>) -> Option<String>,
    /// Options of its own that say what a node shows, and not how: they belong to its name. One that ends in a dot
    /// stands for all that begin so.
    pub shows: &'static [&'static str],
    /// Opens a node.
    pub open: Open,
}

/// All drivers, by name.
#[rustfmt::skip]
pub const DRIVERS: &[Driver] = &[
    Driver { asks: Permissions::WRITE_UNCHANGED, ..filter::<copy_on_read::Options>("copy-on-read", copy_on_read::open) },
    filter::<delay::Options>("delay", delay::open),
    Driver { shows: &["rules", "seed"], ..filter::<fault::Options>("fault", fault::open) },
    Driver { filename: file::filename, shows: &["filename"], ..protocol::<file::Options>("file", file::open) },
    Driver { shows: &["size"], ..protocol::<memory::Options>("memory", memory::open) },
    Driver { shows: &["size", "cluster-size"], ..format::<memory_format::Options>("memory-format", &[Role::File, Role::Backing], memory_format::open) },
    Driver { filename: nbd::filename, shows: nbd::SHOWS, ..protocol::<nbd::Options>("nbd", nbd::open) },
    Driver { filename: |own| null::filename("null-aio://", own), ..null("null-aio") },
    Driver { filename: |own| null::filename("null-co://", own), ..null("null-co") },
    Driver { takes: qcow2::takes, shows: &["snapshot"], ..format::<qcow2::Options>("qcow2", &[Role::File, Role::DataFile, Role::Backing], qcow2::open) },
    Driver { shows: &["offset", "size"], ..format::<raw::Options>("raw", &[Role::Filtered], raw::open) },
    Driver { shows: &["throttle-group"], ..filter::<throttle::Options>("throttle", throttle::open) },
];

type Open = fn(OpenContext) -> LocalFut<'static, Result<Opened>>;

const fn protocol<T: DeserializeOwned>(name: &'static str, open: Open) -> Driver {
    driver::<T>(name, Kind::Protocol, &[], open)
}

const fn format<T: DeserializeOwned>(name: &'static str, children: &'static [Role], open: Open) -> Driver {
    driver::<T>(name, Kind::Format, children, open)
}

const fn filter<T: DeserializeOwned>(name: &'static str, open: Open) -> Driver {
    driver::<T>(name, Kind::Filter, &[Role::Filtered], open)
}

/// A driver that takes the options `T`.
const fn driver<T: DeserializeOwned>(
    name: &'static str,
    kind: Kind,
    children: &'static [Role],
    open: Open,
) -> Driver {
    let asks = Permissions::NONE;
    Driver { name, kind, children, asks, takes: takes::<T>, filename: nameless, shows: &[], open }
}

const fn null(name: &'static str) -> Driver {
    Driver { shows: null::SHOWS, ..protocol::<null::Options>(name, null::open) }
}

fn takes<T: DeserializeOwned>(options: Map<String, Value>) -> std::result::Result<(), Refusal> {
    options::read::<T>(options).map(|_| ())
}

fn nameless(_: &Map<String, Value>) -> Option<String> {
    None
}

impl Driver {
    /// Fails unless `options` are options of its own.
    pub fn check(&self, options: &Map<String, Value>, wording: Wording) -> Result<()> {
        (self.takes)(options.clone()).map_err(|refusal| wording.refused(self, options, &refusal))
    }

    /// What is said where a protocol that lies on no file is given the name of one, in QEMU's words.
    pub fn is_no_file(&self) -> String {
        match self.name {
            "nbd" => "File name string for NBD must start with 'nbd:'".to_owned(),
            name => format!("The only allowed filename for this driver is '{name}://'"),
        }
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
