//! Collecting a message that arrives in pieces.

/// Most bytes of memory that are kept between messages.
const KEPT_MAX: usize = 4096;

/// Bytes of an unfinished message. Invariant: it grows only by bytes that arrived, never by what a peer
/// promises, and never beyond what its owner asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intake {
    held: Vec<u8>,
}

impl Intake {
    /// One that holds what was taken before.
    pub(crate) fn holding(held: Vec<u8>) -> Self {
        Self { held }
    }

    /// Moves bytes from the front of `input` until `want` are held; answers whether they are.
    pub(crate) fn fill(&mut self, input: &mut &[u8], want: usize) -> bool {
        let missing = want.saturating_sub(self.held.len());
        let (head, rest) = input.split_at(missing.min(input.len()));
        self.held.extend_from_slice(head);
        *input = rest;
        self.held.len() >= want
    }

    /// Bytes of memory in use.
    pub(crate) fn capacity(&self) -> usize {
        self.held.capacity()
    }

    /// The bytes held; none are held afterwards.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// The bytes held.
    pub(crate) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Drops the bytes held and keeps memory for the next message of usual size.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.held.shrink_to(KEPT_MAX);
    }
}
