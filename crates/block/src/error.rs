//! The one error of the data path: kind, errno for the wire, context, source, and who is to blame.

use std::error::Error;
use std::fmt;
use std::io;

/// Shorthand for results of the data path.
pub type Result<T> = std::result::Result<T, BlockError>;

/// What went wrong, as far as callers may act on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ErrorKind {
    /// The caller asked for something that makes no sense here (bad option, bad argument).
    Invalid,
    /// A range beyond the end.
    OutOfRange,
    /// A write to something read-only.
    ReadOnly,
    /// The system or a policy does not allow it.
    NotPermitted,
    /// No such file, node, export or peer.
    NotFound,
    /// Something of that name is there already.
    Exists,
    /// In use in a way that excludes this (permission table, busy node, another process's lock).
    Busy,
    /// We do not do this, or this image needs a feature that we lack.
    Unsupported,
    /// An image file contradicts itself.
    Corrupt,
    /// A network peer broke the protocol.
    Protocol,
    /// A network peer is gone.
    Disconnected,
    /// The deadline passed.
    TimedOut,
    /// No space left on the device or in the quota.
    NoSpace,
    /// Not enough memory within the configured bounds.
    NoMemory,
    /// The storage failed.
    Io,
    /// The operation was called off.
    Cancelled,
}

/// Who has to act so that it goes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Culprit {
    /// Whoever made the request or wrote the command line.
    Caller,
    /// The network peer.
    Peer,
    /// The image file.
    Image,
    /// The machine: disk, memory, permissions, other processes.
    Environment,
}

/// An errno of Linux, as NBD and the system calls use them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// Operation not permitted.
    pub const PERM: Self = Self(1);
    /// Input/output error.
    pub const IO: Self = Self(5);
    /// Out of memory.
    pub const NOMEM: Self = Self(12);
    /// Invalid argument.
    pub const INVAL: Self = Self(22);
    /// No space left.
    pub const NOSPC: Self = Self(28);
    /// Not supported.
    pub const NOTSUP: Self = Self(95);
    /// Shutting down.
    pub const SHUTDOWN: Self = Self(108);
}

/// An error of the data path. Small (one pointer), so that results stay cheap.
pub struct BlockError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl BlockError {
    /// An error of `kind`; `context` is a full clause that names the thing ("file 'x': ...").
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, context: context.into(), source: None }))
    }

    /// The same, caused by `source`.
    pub fn caused(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self(Box::new(Inner { kind, context: context.into(), source: Some(source.into()) }))
    }

    /// An error of the system, its kind taken from the errno.
    pub fn system(context: impl Into<String>, source: io::Error) -> Self {
        Self::caused(kind_of(&source), context, source)
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The same error seen from further up: `outer: inner`.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.0.context = format!("{outer}: {}", self.0.context);
        self
    }

    /// What a client on the wire is told.
    pub fn errno(&self) -> Errno {
        match self.0.kind {
            ErrorKind::Invalid | ErrorKind::OutOfRange => Errno::INVAL,
            ErrorKind::ReadOnly | ErrorKind::NotPermitted => Errno::PERM,
            ErrorKind::Unsupported => Errno::NOTSUP,
            ErrorKind::NoSpace => Errno::NOSPC,
            ErrorKind::NoMemory => Errno::NOMEM,
            ErrorKind::Cancelled => Errno::SHUTDOWN,
            _ => Errno::IO,
        }
    }

    /// Who has to act.
    pub fn culprit(&self) -> Culprit {
        match self.0.kind {
            ErrorKind::Invalid | ErrorKind::OutOfRange | ErrorKind::ReadOnly | ErrorKind::Exists => {
                Culprit::Caller
            }
            ErrorKind::Unsupported | ErrorKind::Corrupt => Culprit::Image,
            ErrorKind::Protocol | ErrorKind::Disconnected => Culprit::Peer,
            _ => Culprit::Environment,
        }
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)?;
        match &self.0.source {
            Some(source) => match source.downcast_ref::<io::Error>() {
                Some(system) => write!(f, ": {}", system_text(system)),
                None => write!(f, ": {source}"),
            },
            None => Ok(()),
        }
    }
}

impl fmt::Debug for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl Error for BlockError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as &(dyn Error + 'static))
    }
}

/// What the system says of an error, as C programs print it: Rust adds the number, which scripts do not expect.
pub fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    let number = error.raw_os_error().map(|number| format!(" (os error {number})"));
    match number.and_then(|number| text.strip_suffix(&number)) {
        Some(words) => words.to_owned(),
        None => text,
    }
}

fn kind_of(error: &io::Error) -> ErrorKind {
    use io::ErrorKind as Std;
    match error.kind() {
        Std::NotFound => ErrorKind::NotFound,
        Std::PermissionDenied => ErrorKind::NotPermitted,
        Std::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        Std::AlreadyExists | Std::AddrInUse => ErrorKind::Exists,
        Std::InvalidInput => ErrorKind::Invalid,
        Std::Unsupported => ErrorKind::Unsupported,
        Std::TimedOut => ErrorKind::TimedOut,
        Std::StorageFull | Std::QuotaExceeded | Std::FileTooLarge => ErrorKind::NoSpace,
        Std::OutOfMemory => ErrorKind::NoMemory,
        Std::ResourceBusy | Std::WouldBlock => ErrorKind::Busy,
        Std::ConnectionReset
        | Std::ConnectionAborted
        | Std::ConnectionRefused
        | Std::BrokenPipe
        | Std::NotConnected
        | Std::UnexpectedEof
        | Std::HostUnreachable
        | Std::NetworkUnreachable => ErrorKind::Disconnected,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reads_from_the_outside_in() {
        let error =
            BlockError::system("cannot read the header", io::Error::from_raw_os_error(5)).within("image 'a'");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.errno(), Errno::IO);
        assert_eq!(error.to_string(), "image 'a': cannot read the header: Input/output error");
        assert_eq!(std::mem::size_of::<Result<()>>(), 8);
    }

    #[test]
    fn full_disks_and_missing_files_keep_their_kind() {
        let of = |n| BlockError::system("x", io::Error::from_raw_os_error(n)).kind();
        assert_eq!(
            (of(28), of(2), of(13)),
            (ErrorKind::NoSpace, ErrorKind::NotFound, ErrorKind::NotPermitted)
        );
    }
}
