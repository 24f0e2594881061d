//! What a parent wants to do with a child, and what it lets others do meanwhile (QEMU's permission bits).

use std::fmt;
use std::ops::{BitAnd, BitOr, Not, Sub};

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Permissions(u8);

impl Permissions {
    /// None.
    pub const NONE: Self = Self(0);
    /// Reads must see consistent data (not a node that is half way through a rewrite).
    pub const CONSISTENT_READ: Self = Self(1);
    /// Changing what the node reads as.
    pub const WRITE: Self = Self(2);
    /// Writing without changing what the node reads as (copy-on-read, stream).
    pub const WRITE_UNCHANGED: Self = Self(4);
    /// Changing the node's size.
    pub const RESIZE: Self = Self(8);
    /// All of them.
    pub const ALL: Self = Self(15);

    /// Each single permission with QEMU's name for it, in the order of QEMU's lock bytes.
    pub const NAMES: [(Self, &'static str); 4] = [
        (Self::CONSISTENT_READ, "consistent-read"),
        (Self::WRITE, "write"),
        (Self::WRITE_UNCHANGED, "write-unchanged"),
        (Self::RESIZE, "resize"),
    ];

    /// Whether it holds all of `other`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it holds none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The union, usable in constants.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The single permissions that it holds.
    pub fn iter(self) -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().map(|(one, _)| one).filter(move |one| self.contains(*one))
    }
}

impl BitOr for Permissions {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitAnd for Permissions {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for Permissions {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl Not for Permissions {
    type Output = Self;
    fn not(self) -> Self {
        Self::ALL - self
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = Self::NAMES.iter().filter(|(one, _)| self.contains(*one));
        // In messages QEMU writes them as words.
        let names: Vec<_> = held.map(|(_, name)| name.replace('-', " ")).collect();
        f.write_str(&if names.is_empty() { "none".to_owned() } else { names.join(", ") })
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}
