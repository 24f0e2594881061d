//! Socket addresses: flat (`{"type": "unix", "path": ...}`) and, as old commands have them, with a `data` member.

use block::{BlockError, ErrorKind, Result};
use io::Address;

qmp::union! {
    /// A socket address.
    pub struct SocketAddress {
        base: qmp::schema::Nothing,
        /// Its kinds.
        pub enum SocketKind by "type" {
            /// TCP.
            Inet(InetSocket) = "inet",
            /// A unix socket.
            Unix(UnixSocket) = "unix",
        }
    }
}

qmp::union! {
    /// A socket address whose members lie in `data`.
    pub struct SocketAddressLegacy {
        base: qmp::schema::Nothing,
        /// Its kinds.
        pub enum LegacyKind by "type" {
            /// TCP.
            Inet(InetData) = "inet",
            /// A unix socket.
            Unix(UnixData) = "unix",
        }
    }
}

qmp::structure! {
    /// Around the members of a TCP address.
    pub struct InetData {
        /// They.
        "data" => data: InetSocket,
    }
}

qmp::structure! {
    /// Around the members of a unix socket's address.
    pub struct UnixData {
        /// They.
        "data" => data: UnixSocket,
    }
}

qmp::structure! {
    /// A TCP address.
    pub struct InetSocket {
        /// Name or number; empty to listen on all interfaces.
        "host" => host: String,
        /// Number of the port.
        "port" => port: String,
    }
}

qmp::structure! {
    /// A unix socket.
    pub struct UnixSocket {
        /// Its path.
        "path" => path: String,
    }
}

impl From<SocketAddressLegacy> for SocketAddress {
    fn from(legacy: SocketAddressLegacy) -> Self {
        let kind = match legacy.kind {
            LegacyKind::Inet(inet) => SocketKind::Inet(inet.data),
            LegacyKind::Unix(unix) => SocketKind::Unix(unix.data),
        };
        Self { base: legacy.base, kind }
    }
}

impl From<SocketAddress> for SocketAddressLegacy {
    fn from(flat: SocketAddress) -> Self {
        let kind = match flat.kind {
            SocketKind::Inet(data) => LegacyKind::Inet(InetData { data }),
            SocketKind::Unix(data) => LegacyKind::Unix(UnixData { data }),
        };
        Self { base: flat.base, kind }
    }
}

impl SocketAddress {
    /// Where to listen or to connect.
    pub fn address(self) -> Result<Address> {
        match self.kind {
            SocketKind::Unix(unix) => Ok(Address::Unix { path: unix.path.into() }),
            SocketKind::Inet(InetSocket { host, port }) => {
                let number = port.parse().map_err(|_| {
                    BlockError::new(ErrorKind::Invalid, format!("port '{port}' is no number up to 65535"))
                })?;
                Ok(Address::Tcp { host, port: number })
            }
        }
    }
}
