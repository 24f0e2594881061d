//! What must stay the same for as long as a node is open, whatever happens to its connections.

use block::{Alignment, BlockError, ErrorKind, Result};
use flow::{Capabilities, Limits, ZeroCost};
use nbd::codec::{PAYLOAD_MAX, TransmissionFlags};
use nbd::handshake::client::RemoteExport;

use super::options::Config;

/// Longest zeroing or discard: servers that write zeros byte by byte get on in bounded steps.
const ZEROES_MAX: u64 = 1 << 30;
/// Smallest unit of servers that state none; what the protocol advises for the widest use.
const UNSTATED_MINIMUM: u32 = 512;
/// A description that begins with this states which version of an image it is.
const STATED_VERSION: &str = "millpond-id:";

/// An export as it was when the node was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) size: u64,
    pub(super) flags: TransmissionFlags,
    minimum: u32,
    maximum: u32,
    version: Option<String>,
}

impl Identity {
    /// Takes over what a server says of its export; fails where it makes no sense for us.
    pub(super) fn new(export: &RemoteExport, config: &Config) -> Result<Self> {
        let aligned = export.size.is_multiple_of(u64::from(UNSTATED_MINIMUM));
        let unstated = if aligned { UNSTATED_MINIMUM } else { 1 };
        let minimum = export.block_sizes.map_or(unstated, |sizes| sizes.minimum());
        if !export.size.is_multiple_of(u64::from(minimum)) {
            let context = format!(
                "{config}: its size {} is no multiple of its smallest block, {minimum} bytes",
                export.size
            );
            return Err(BlockError::new(ErrorKind::Unsupported, context));
        }
        let maximum = export.block_sizes.map_or(PAYLOAD_MAX, |sizes| sizes.maximum().min(PAYLOAD_MAX));
        let version = export.description.as_ref().filter(|text| text.starts_with(STATED_VERSION));
        let flags = known(export.flags);
        Ok(Self {
            size: export.size,
            flags,
            minimum,
            maximum: maximum.max(minimum),
            version: version.cloned(),
        })
    }

    /// Takes over what [`Identity::text`] said.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong =
            || BlockError::new(ErrorKind::Invalid, format!("option 'identity': '{text}' is none of ours"));
        let mut parts = text.splitn(5, ':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or_else(wrong);
        let (size, flags, minimum, maximum) = (number()?, number()?, number()?, number()?);
        let narrow = |number: u64| u32::try_from(number).map_err(|_| wrong());
        let (minimum, maximum) = (narrow(minimum)?, narrow(maximum)?);
        let sane = minimum.is_power_of_two() && minimum <= maximum && size.is_multiple_of(minimum.into());
        let flags = u16::try_from(flags).ok().filter(|_| sane).ok_or_else(wrong)?;
        let version = parts.next().filter(|version| !version.is_empty()).map(str::to_owned);
        Ok(Self { size, flags: known(TransmissionFlags::from_bits(flags)), minimum, maximum, version })
    }

    /// All of it in one line.
    pub(super) fn text(&self) -> String {
        let Self { size, flags, minimum, maximum, version } = self;
        let version = version.as_deref().unwrap_or_default();
        format!("{size}:{}:{minimum}:{maximum}:{version}", flags.bits())
    }

    /// What the server states.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Fails unless another connection's export is the same one, able to do all that was promised.
    pub(super) fn check(&self, export: &RemoteExport, config: &Config) -> Result<()> {
        let other = Self::new(export, config)?;
        let changed = |what: String| {
            let context = format!("{config}: {what}; this is another image: open it as a new node");
            Err(BlockError::new(ErrorKind::Protocol, context))
        };
        if other.size != self.size {
            return changed(format!("its size was {} and is now {}", self.size, other.size));
        }
        if other.version != self.version {
            let text = |version: &Option<String>| version.clone().unwrap_or_else(|| "unstated".to_owned());
            return changed(format!(
                "its version was {} and is now {}",
                text(&self.version).escape_debug(),
                text(&other.version).escape_debug()
            ));
        }
        let lost = self.flags.without(other.flags);
        let now_read_only = other.is_read_only() && !self.is_read_only();
        if now_read_only || !lost.without(TransmissionFlags::READ_ONLY).is_empty() {
            let (was, is) = (self.flags.bits(), other.flags.bits());
            return changed(format!("its flags were {was:#x} and are now {is:#x}"));
        }
        if other.minimum > self.minimum || other.maximum < self.maximum {
            return changed(format!(
                "its block sizes were {} to {} and are now {} to {}",
                self.minimum, self.maximum, other.minimum, other.maximum
            ));
        }
        Ok(())
    }

    pub(super) fn can(&self, flag: TransmissionFlags) -> bool {
        self.flags.contains(flag)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.can(TransmissionFlags::READ_ONLY)
    }

    /// Whether several connections see one another's writes.
    pub(super) fn takes_several_connections(&self) -> bool {
        self.is_read_only() || self.can(TransmissionFlags::CAN_MULTI_CONN)
    }

    /// The smallest unit of requests.
    pub(super) fn alignment(&self) -> Alignment {
        Alignment::new(self.minimum.into()).unwrap_or_default()
    }

    /// What requests must look like; `unmap` says whether discards are passed on.
    pub(super) fn limits(&self, unmap: bool) -> Limits {
        let alignment = self.alignment();
        let writable = !self.is_read_only();
        let fast = self.can(TransmissionFlags::SEND_FAST_ZERO);
        Limits {
            alignment,
            max_transfer: alignment.down(self.maximum.into()),
            max_zeroes: alignment.down(ZEROES_MAX).max(alignment.bytes()),
            granule: 1,
            zeroing: if writable && fast { ZeroCost::Fast } else { ZeroCost::Slow },
            can: Capabilities {
                discard: writable && unmap && self.can(TransmissionFlags::SEND_TRIM),
                zeroes: writable && self.can(TransmissionFlags::SEND_WRITE_ZEROES),
                fua: writable && self.can(TransmissionFlags::SEND_FUA),
            },
        }
    }
}

/// The flags that we make use of; others may come and go.
fn known(flags: TransmissionFlags) -> TransmissionFlags {
    use TransmissionFlags as T;
    let used = T::READ_ONLY
        | T::SEND_FLUSH
        | T::SEND_FUA
        | T::SEND_TRIM
        | T::SEND_WRITE_ZEROES
        | T::CAN_MULTI_CONN
        | T::SEND_CACHE
        | T::SEND_FAST_ZERO;
    flags.without(flags.without(used))
}

#[cfg(test)]
mod tests {
    use io::Address;
    use nbd::handshake::BlockSizes;

    use super::*;

    fn config() -> Config {
        Config::new(Address::Unix { path: "/s".into() }, "x")
    }

    fn export() -> RemoteExport {
        RemoteExport {
            name: "x".into(),
            size: 1 << 20,
            flags: TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH,
            block_sizes: None,
            description: Some("a disk".into()),
            structured: true,
            allocation: Some(0),
        }
    }

    fn identity(export: &RemoteExport) -> Identity {
        Identity::new(export, &config()).unwrap()
    }

    #[test]
    fn limits_are_what_the_server_states_or_what_is_usual() {
        assert_eq!(identity(&export()).limits(true).alignment, Alignment::SECTOR);
        let odd = RemoteExport { size: 1000, ..export() };
        assert_eq!(identity(&odd).limits(true).alignment, Alignment::BYTE);
        let stated = RemoteExport { block_sizes: BlockSizes::new(4096, 4096, 5000), ..export() };
        let limits = identity(&stated).limits(true);
        assert_eq!((limits.alignment, limits.max_transfer), (Alignment::PAGE, 4096));
        assert_eq!(limits.can, Capabilities { discard: false, zeroes: false, fua: false });
        let ragged = RemoteExport { size: 5000, ..stated };
        assert!(Identity::new(&ragged, &config()).unwrap_err().to_string().contains("5000"));
    }

    #[test]
    fn it_is_known_again_from_its_text() {
        for description in [None, Some("millpond-id:mtime=1.5+size=7".to_owned())] {
            let known = identity(&RemoteExport { description, ..export() });
            assert_eq!(Identity::parse(&known.text()).unwrap(), known);
        }
        for wrong in
            ["", "1:2:3", "1000:0:512:4096:", "4096:0:512:256:", "4096:0:500:512:", "4096:70000:512:512:"]
        {
            assert!(Identity::parse(wrong).unwrap_err().to_string().contains("'identity'"), "{wrong}");
        }
    }

    #[test]
    fn what_was_promised_must_stay() {
        use TransmissionFlags as T;
        let id = Some("millpond-id:1".to_owned());
        let more = RemoteExport { flags: export().flags | T::SEND_CACHE | T::ROTATIONAL, ..export() };
        let cases = [
            (export(), export(), None),
            (export(), RemoteExport { description: None, structured: false, ..export() }, None),
            (export(), more.clone(), None),
            (
                export(),
                RemoteExport { size: 1 << 21, ..export() },
                Some("its size was 1048576 and is now 2097152"),
            ),
            (more, export(), Some("its flags were 0x404 and are now 0x4")),
            (export(), RemoteExport { flags: export().flags | T::READ_ONLY, ..export() }, Some("flags")),
            (
                export(),
                RemoteExport { description: id, ..export() },
                Some("its version was unstated and is now"),
            ),
            (
                export(),
                RemoteExport { block_sizes: BlockSizes::new(512, 512, 512), ..export() },
                Some("block sizes"),
            ),
        ];
        for (before, after, expected) in cases {
            let outcome = identity(&before).check(&after, &config());
            match expected {
                None => outcome.unwrap(),
                Some(text) => assert!(outcome.unwrap_err().to_string().contains(text), "{after:?}"),
            }
        }
    }
}
