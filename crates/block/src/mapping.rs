//! Where the bytes of a format are: the answer of `map`, without carrying a byte.

/// Position of a child in its parent's list of children; the role says what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ChildIndex(pub u8);

/// Where one contiguous run of guest bytes lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a child, byte for byte, from `offset`. `exclusive` says that a write may go there in
    /// place: no snapshot shares it and it needs no allocation.
    Data {
        /// Which child holds the bytes.
        child: ChildIndex,
        /// Offset in that child of the first byte.
        offset: u64,
        /// Whether an in-place write is allowed.
        exclusive: bool,
    },
    /// Reads as zeros, and this layer says so itself.
    Zero,
    /// Only the format itself can produce the bytes (compressed, encrypted).
    Special,
    /// This layer holds nothing: the backing child answers, or zeros where there is none.
    Unallocated,
}

/// A [`Place`] and how many bytes, from the first byte asked for, share it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Where the run lies.
    pub place: Place,
    /// Length of the run in bytes; at least 1, never more than was asked for.
    pub len: u64,
}

impl Mapping {
    /// A run of `len` bytes at `place`.
    pub const fn new(place: Place, len: u64) -> Self {
        Self { place, len }
    }

    /// Appends `next` when it continues this run; answers whether it did.
    pub fn join(&mut self, next: Self) -> bool {
        let continues = match (self.place, next.place) {
            (Place::Data { child, offset, exclusive }, Place::Data { child: c, offset: o, exclusive: e }) => {
                child == c && exclusive == e && offset.checked_add(self.len) == Some(o)
            }
            // Each special run is read by itself: a compressed cluster ends where it ends.
            (Place::Special, _) => false,
            (a, b) => a == b,
        };
        if continues {
            self.len += next.len;
        }
        continues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_only_what_continues() {
        let data =
            |offset, len| Mapping::new(Place::Data { child: ChildIndex(0), offset, exclusive: true }, len);
        let mut run = data(100, 10);
        assert!(run.join(data(110, 5)));
        assert_eq!(run.len, 15);
        assert!(!run.join(data(116, 5)));
        assert!(!run.join(Mapping::new(Place::Zero, 1)));
        let mut zero = Mapping::new(Place::Zero, 4);
        assert!(zero.join(Mapping::new(Place::Zero, 4)));
        let mut special = Mapping::new(Place::Special, 4);
        assert!(!special.join(Mapping::new(Place::Special, 4)));
    }
}
