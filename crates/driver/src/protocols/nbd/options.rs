//! Options of the `nbd` driver: QEMU's names, its older flat ones, and URIs.

use std::fmt;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use io::Address;
use nbd::codec::{DEFAULT_PORT, STRING_MAX};
use nbd::uri::NbdUri;
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};
use serde_json::{Map, Value};

use crate::options::{self, Count};

/// What can be said about an `nbd` node, in the words of `blockdev-add`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Where the server listens.
    server: Option<Server>,
    /// Older form of `server` with type inet.
    host: Option<String>,
    port: Option<Port>,
    /// Older form of `server` with type unix.
    path: Option<String>,
    /// A URI (or an older name), instead of `server` and `export`.
    filename: Option<String>,
    /// Name of the export, "" for the default one.
    export: Option<String>,
    /// Seconds for which requests wait for a lost connection to come back; 0: they fail at once.
    reconnect_delay: Count<u32>,
    /// Seconds for which opening tries again; 0: once.
    open_timeout: Count<u32>,
    /// What the export was the last time (`flow::Identity`): opening does not wait for the server then, and no other
    /// export is ever taken for it. Ours.
    identity: Option<String>,
    tls_creds: Option<String>,
    tls_hostname: Option<String>,
    x_dirty_bitmap: Option<String>,
}

/// QEMU's `SocketAddress`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Server {
    r#type: String,
    host: Option<String>,
    port: Option<Port>,
    path: Option<String>,
    str: Option<String>,
}

/// A TCP port, as a number or as a string.
#[derive(Clone, Copy, Debug)]
struct Port(u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 0 to 65535")
            }

            fn visit_u64<E: serde::de::Error>(self, port: u64) -> std::result::Result<Port, E> {
                u16::try_from(port)
                    .map(Port)
                    .map_err(|_| E::custom(format!("{port} is no port from 0 to 65535")))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Port, E> {
                text.parse().map(Port).map_err(|_| E::custom(format!("'{text}' is no port from 0 to 65535")))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// What a client talks to, and how patiently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the server listens.
    pub address: Address,
    /// Name of the export, at most 4096 bytes; "" for the default one.
    pub export: String,
    /// How long requests wait for a lost connection to come back; zero: they fail at once.
    pub reconnect_delay: Duration,
    /// How long opening tries again; zero: once.
    pub open_timeout: Duration,
    /// What the export is known to be: opening does not wait for the server then.
    pub identity: Option<String>,
}

impl Config {
    /// The default export of a server, without patience.
    pub fn new(address: Address, export: impl Into<String>) -> Self {
        let export = export.into();
        Self {
            address,
            export,
            reconnect_delay: Duration::ZERO,
            open_timeout: Duration::ZERO,
            identity: None,
        }
    }

    /// How long requests wait for a lost connection to come back, where it can.
    pub(super) fn patience(&self) -> Duration {
        if self.can_reconnect() { self.reconnect_delay } else { Duration::ZERO }
    }

    /// Whether a lost connection can be made again.
    pub(super) fn can_reconnect(&self) -> bool {
        !matches!(self.address, Address::Inherited(_))
    }
}

/// The peer, as messages name it.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NBD server {}, export '{}'", self.address, self.export)
    }
}

impl TryFrom<Options> for Config {
    type Error = BlockError;

    fn try_from(options: Options) -> Result<Self> {
        let refused = [
            ("tls-creds", options.tls_creds.is_some()),
            ("tls-hostname", options.tls_hostname.is_some()),
            ("x-dirty-bitmap", options.x_dirty_bitmap.is_some()),
        ];
        if let Some((name, _)) = refused.iter().find(|(_, given)| *given) {
            return Err(BlockError::new(
                ErrorKind::Unsupported,
                format!("option '{name}' is not supported yet"),
            ));
        }
        let (address, export) = target(&options)?;
        if export.len() > STRING_MAX {
            return Err(invalid("option 'export' is longer than 4096 bytes"));
        }
        Ok(Self {
            address,
            export,
            reconnect_delay: Duration::from_secs(options.reconnect_delay.0.into()),
            open_timeout: Duration::from_secs(options.open_timeout.0.into()),
            identity: options.identity.clone(),
        })
    }
}

/// What a node shows: [`crate::Driver::shows`].
pub const SHOWS: &[&str] =
    &["filename", "path", "host", "port", "export", "tls-creds", "tls-hostname", "server."];

/// The name that QEMU shows of the export that `options` name; none where nobody could use one.
pub fn filename(options: &Map<String, Value>) -> Option<String> {
    let options = options::parse::<Options>(options.clone()).ok()?;
    let (address, export) = target(&options).ok()?;
    Some(match (address, &*export) {
        (Address::Unix { path }, "") => format!("nbd+unix://?socket={}", path.display()),
        (Address::Unix { path }, export) => format!("nbd+unix:///{export}?socket={}", path.display()),
        (Address::Tcp { host, port }, "") => format!("nbd://{host}:{port}"),
        (Address::Tcp { host, port }, export) => format!("nbd://{host}:{port}/{export}"),
        (Address::Inherited(_), _) => return None,
    })
}

/// Exactly one way to name the server must be used.
fn target(options: &Options) -> Result<(Address, String)> {
    let flat = options.host.is_some() || options.port.is_some() || options.path.is_some();
    let export = options.export.clone();
    match (&options.filename, &options.server, flat) {
        (Some(uri), None, false) => {
            if export.is_some() {
                return Err(invalid("option 'export' cannot be used with 'filename', which names it"));
            }
            if uri.contains("://") { of_uri(uri) } else { of_old_name(uri) }
        }
        (None, Some(server), false) => Ok((of_server(server)?, export.unwrap_or_default())),
        (None, None, true) => Ok((of_flat(options)?, export.unwrap_or_default())),
        (None, None, false) => Err(invalid("option 'server' (or 'filename' with an nbd:// URI) is needed")),
        _ => Err(invalid("the server is named twice: use one of 'server', 'filename', 'host' and 'path'")),
    }
}

fn of_uri(text: &str) -> Result<(Address, String)> {
    let uri: NbdUri = text.parse().map_err(|e| BlockError::from(e).within(format_args!("'{text}'")))?;
    let address = match uri.address {
        nbd::uri::Address::Tcp { host, port } => Address::Tcp { host, port },
        nbd::uri::Address::Unix(path) => Address::Unix { path: std::ffi::OsString::from_vec(path).into() },
    };
    Ok((address, uri.export))
}

/// The names that came before URIs: `nbd:HOST:PORT` or `nbd:unix:PATH`, then `:exportname=NAME` or nothing.
fn of_old_name(text: &str) -> Result<(Address, String)> {
    let wrong = || invalid(format!("'{text}' is neither an nbd:// nor an nbd+unix:// URI"));
    let (place, export) = text.split_once(":exportname=").unwrap_or((text, ""));
    let place = place.strip_prefix("nbd:").ok_or_else(wrong)?;
    let address = match place.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Address::Unix { path: path.into() },
        Some(_) => return Err(wrong()),
        None => {
            let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            tcp(host, Some(Port(port.parse().map_err(|_| wrong())?)))
        }
    };
    Ok((address, export.to_owned()))
}

fn of_flat(options: &Options) -> Result<Address> {
    match (&options.host, &options.path) {
        (Some(host), None) => Ok(tcp(host, options.port)),
        (None, Some(path)) if options.port.is_none() => Ok(Address::Unix { path: path.into() }),
        (None, None) => Err(invalid("option 'port' needs 'host'")),
        _ => Err(invalid("options 'host' and 'port' cannot be used with 'path'")),
    }
}

fn of_server(server: &Server) -> Result<Address> {
    let Server { r#type: kind, host, port, path, str: name } = server;
    let address = match (kind.as_str(), host, port, path, name) {
        ("inet", Some(host), port, None, None) => tcp(host, *port),
        ("unix", None, None, Some(path), None) => Address::Unix { path: path.into() },
        ("fd", None, None, None, Some(name)) => Address::Inherited(descriptor(name)?),
        ("inet", ..) => return Err(invalid("server type 'inet' takes 'host' and 'port'")),
        ("unix", ..) => return Err(invalid("server type 'unix' takes 'path'")),
        ("fd", ..) => return Err(invalid("server type 'fd' takes 'str', the number of a descriptor")),
        ("vsock", ..) => {
            return Err(BlockError::new(ErrorKind::Unsupported, "server type 'vsock' is not supported yet"));
        }
        _ => return Err(invalid(format!("server type '{kind}' is none of 'inet', 'unix', 'fd'"))),
    };
    Ok(address)
}

fn tcp(host: &str, port: Option<Port>) -> Address {
    Address::Tcp { host: host.to_owned(), port: port.map_or(DEFAULT_PORT, |port| port.0) }
}

fn descriptor(name: &str) -> Result<RawFd> {
    let number: Option<RawFd> = name.parse().ok().filter(|number| *number >= 0);
    number.ok_or_else(|| {
        let context =
            format!("server.str '{name}': descriptors by name are not supported yet, give a number");
        BlockError::new(ErrorKind::Unsupported, context)
    })
}

fn invalid(context: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(options: Value) -> std::result::Result<Config, String> {
        let Value::Object(options) = options else { panic!("options are an object") };
        let options: Options = options::parse(options).map_err(|e| e.to_string())?;
        Config::try_from(options).map_err(|e| e.to_string())
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn servers_are_named_in_all_of_qemu_s_ways() {
        let unix = Address::Unix { path: "/run/s".into() };
        let cases = [
            (json!({"server": {"type": "inet", "host": "h", "port": "7"}}), tcp("h", 7), ""),
            (json!({"server": {"type": "inet", "host": "h", "port": 7}, "export": "x"}), tcp("h", 7), "x"),
            (json!({"server": {"type": "inet", "host": "h"}}), tcp("h", 10809), ""),
            (json!({"server": {"type": "unix", "path": "/run/s"}, "export": "x"}), unix.clone(), "x"),
            (json!({"server": {"type": "fd", "str": "5"}}), Address::Inherited(5), ""),
            (json!({"host": "h", "port": "7", "export": "x"}), tcp("h", 7), "x"),
            (json!({"path": "/run/s"}), unix.clone(), ""),
            (json!({"filename": "nbd://h:7/a%20b"}), tcp("h", 7), "a b"),
            (json!({"filename": "nbd+unix:///x?socket=/run/s"}), unix.clone(), "x"),
            (json!({"filename": "nbd:unix:/run/s:exportname=x"}), unix, "x"),
            (json!({"filename": "nbd:h:7"}), tcp("h", 7), ""),
            (json!({"filename": "nbd:[::1]:7:exportname=a:b"}), tcp("::1", 7), "a:b"),
        ];
        for (options, address, export) in cases {
            assert_eq!(config(options.clone()), Ok(Config::new(address, export)), "{options}");
        }
        let patient = json!({"host": "h", "reconnect-delay": "60", "open-timeout": 20});
        let expected = Config {
            reconnect_delay: Duration::from_secs(60),
            open_timeout: Duration::from_secs(20),
            ..Config::new(tcp("h", 10809), "")
        };
        assert_eq!(config(patient), Ok(expected));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let unix = json!({"type": "unix", "path": "/s"});
        let cases = [
            (json!({}), "'server'"),
            (json!({"server": unix, "tls-creds": "t"}), "'tls-creds' is not supported yet"),
            (json!({"server": unix, "x-dirty-bitmap": "t"}), "'x-dirty-bitmap'"),
            (json!({"server": unix, "host": "h"}), "named twice"),
            (json!({"filename": "nbd://h/", "path": "p"}), "named twice"),
            (json!({"filename": "nbd://h/x", "export": "y"}), "'export'"),
            (json!({"filename": "nbds://h/x"}), "TLS"),
            (json!({"filename": "/etc/passwd"}), "neither an nbd://"),
            (json!({"filename": "nbd:unix:"}), "neither"),
            (json!({"filename": "nbd:h"}), "neither"),
            (json!({"filename": "nbd:h:port"}), "neither"),
            (json!({"filename": "http://h/x"}), "no nbd://"),
            (json!({"port": 5}), "'host'"),
            (json!({"host": "h", "path": "p"}), "'path'"),
            (json!({"server": {"type": "inet", "host": "h", "port": "http"}}), "'http'"),
            (json!({"server": {"type": "inet", "host": "h", "port": 65536}}), "65536"),
            (json!({"server": {"type": "inet", "path": "/s"}}), "'host'"),
            (json!({"server": {"type": "unix", "path": "/s", "abstract": true}}), "abstract"),
            (json!({"server": {"type": "vsock"}}), "not supported yet"),
            (json!({"server": {"type": "smoke"}}), "smoke"),
            (json!({"server": {"type": "fd", "str": "monitor-fd"}}), "monitor-fd"),
            (json!({"server": {"type": "fd", "str": "-1"}}), "-1"),
            (json!({"host": "h", "export": "x".repeat(4097)}), "4096"),
            (json!({"host": "h", "reconnect-delay": -1}), "-1"),
            (json!({"host": "h", "speed": 1}), "speed"),
        ];
        for (options, expected) in cases {
            let said = config(options.clone()).unwrap_err();
            assert!(said.contains(expected), "{options}: {said}");
        }
    }
}
