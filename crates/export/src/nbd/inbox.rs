//! What was received and not yet understood.

use std::io::Result;

use io::Lease;
use nbd::codec::REQUEST_LEN;

/// Room for requests and the payloads of short writes.
const ROOM: usize = 256 << 10;
/// Payloads of at least this many bytes are worth a receive of their own.
const LONG: usize = 32 << 10;

/// Bytes from one client.
pub(super) struct Inbox {
    room: Box<[u8]>,
    start: usize,
    end: usize,
    /// The next request may be a write whose payload goes into a buffer of its own: it is received without that.
    long: bool,
}

/// The payload of a long or a refused write on its way into its own buffer.
pub(super) struct Arriving {
    /// Where it goes.
    pub(super) lease: Lease,
    /// Bytes that are there.
    pub(super) filled: usize,
}

/// What became of a receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Received {
    /// Something came.
    Some,
    /// Nothing is there now.
    Nothing,
    /// The client has ended its side.
    End,
}

impl Inbox {
    /// An inbox that begins with `early`, which the handshake had received too much (less than the room).
    pub(super) fn with(early: &[u8]) -> Self {
        let mut room = vec![0; ROOM].into_boxed_slice();
        room[..early.len()].copy_from_slice(early);
        Self { room, start: 0, end: early.len(), long: false }
    }

    /// Whether a payload of `len` bytes that is not here is received into a buffer of its own.
    pub(super) fn is_apart(&self, len: usize) -> bool {
        len > ROOM / 2 || self.long && len >= LONG
    }

    /// A request came whose payload of so many bytes (0: none) had to be copied into a buffer, or had one. Clients go
    /// on as they have begun: the next payload that is as long is not copied.
    pub(super) fn came(&mut self, payload: usize) {
        self.long = payload >= LONG;
    }

    /// What was received and not consumed.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.start += len;
    }

    /// Throws away all that was received.
    pub(super) fn clear(&mut self) {
        self.start = self.end;
    }

    /// Receives once, with `recv`.
    pub(super) fn receive(
        &mut self,
        recv: impl FnOnce(&mut [u8]) -> Result<Option<usize>>,
    ) -> Result<Received> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.room.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let most = if self.long && self.end < REQUEST_LEN { REQUEST_LEN } else { self.room.len() };
        if self.end == most {
            return Ok(Received::Nothing);
        }
        Ok(match recv(&mut self.room[self.end..most])? {
            None => Received::Nothing,
            Some(0) => Received::End,
            Some(len) => {
                self.end += len;
                Received::Some
            }
        })
    }

    /// Moves what is there of a payload of `len` bytes (less than that) into a buffer of its own.
    pub(super) fn begin_payload(&mut self, len: usize) -> Arriving {
        let mut lease = Lease::new(len);
        let filled = self.bytes().len();
        lease[..filled].copy_from_slice(self.bytes());
        self.consume(filled);
        Arriving { lease, filled }
    }
}

impl Arriving {
    /// Whether all of it is there.
    pub(super) fn is_complete(&self) -> bool {
        self.filled == self.lease.len()
    }

    /// Receives once, if anything is missing: all of it may have come together with its request.
    pub(super) fn receive(
        &mut self,
        recv: impl FnOnce(&mut [u8]) -> Result<Option<usize>>,
    ) -> Result<Received> {
        if self.is_complete() {
            return Ok(Received::Nothing);
        }
        Ok(match recv(&mut self.lease[self.filled..])? {
            None => Received::Nothing,
            Some(0) => Received::End,
            Some(len) => {
                self.filled += len;
                Received::Some
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_payload_that_came_with_its_request_is_no_end() {
        let mut arriving = Arriving { lease: Lease::new(1000), filled: 1000 };
        // An empty buffer is answered as the end of the stream is.
        let recv = |buf: &mut [u8]| Ok(buf.is_empty().then_some(0));
        assert_eq!(arriving.receive(recv).unwrap(), Received::Nothing);
    }
}
