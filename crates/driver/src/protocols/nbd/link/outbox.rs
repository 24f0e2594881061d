//! Requests on their way to the server.
//!
//! Invariant: what was begun is sent to its end, whatever becomes of the request; the bytes of a write are sent
//! from its lease, or from a copy once that has gone back.

use std::collections::VecDeque;
use std::io::{IoSlice, Result};

use io::{Lease, Stream};
use nbd::codec::REQUEST_LEN;

use super::flights::Flights;

/// Requests of one send.
const BATCH: usize = 64;

#[derive(Default)]
pub(super) struct Outbox {
    parcels: VecDeque<Parcel>,
    /// Bytes of the first parcel that are sent already.
    sent: usize,
}

struct Parcel {
    head: [u8; REQUEST_LEN],
    cookie: u64,
    payload: Payload,
}

/// The bytes behind a header.
enum Payload {
    None,
    /// The lease of the flight with the parcel's cookie, of this length.
    Flying(usize),
    Own(Lease),
}

impl Parcel {
    fn len(&self) -> usize {
        REQUEST_LEN
            + match &self.payload {
                Payload::None => 0,
                Payload::Flying(len) => *len,
                Payload::Own(lease) => lease.len(),
            }
    }

    fn payload<'a>(&'a self, flights: &'a Flights) -> &'a [u8] {
        match &self.payload {
            Payload::None => &[],
            // A flight leaves only after `keep` or `withdraw`.
            Payload::Flying(_) => flights.get(self.cookie).map_or(&[], |flight| &flight.job.lease),
            Payload::Own(lease) => lease,
        }
    }
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// Queues a request; `payload` is the length of the flight's lease that follows the header.
    pub(super) fn push(&mut self, head: [u8; REQUEST_LEN], cookie: u64, payload: usize) {
        let payload = if payload == 0 { Payload::None } else { Payload::Flying(payload) };
        self.parcels.push_back(Parcel { head, cookie, payload });
    }

    /// Takes a request back of which nothing is sent; answers whether that was so.
    pub(super) fn withdraw(&mut self, cookie: u64) -> bool {
        let begun = usize::from(self.sent > 0);
        let at = self.parcels.iter().skip(begun).position(|parcel| parcel.cookie == cookie);
        at.is_some_and(|at| self.parcels.remove(begun + at).is_some())
    }

    /// The lease of a flight goes away: keeps a copy if some of it is still to be sent.
    pub(super) fn keep(&mut self, cookie: u64, lease: &Lease) {
        if self.parcels.front().is_none_or(|first| first.cookie > cookie) {
            return;
        }
        let parcel = self.parcels.iter_mut().find(|parcel| parcel.cookie == cookie);
        if let Some(parcel) = parcel.filter(|parcel| matches!(parcel.payload, Payload::Flying(_))) {
            parcel.payload = Payload::Own(Lease::copy_of(lease));
        }
    }

    /// Sends what the socket takes.
    pub(super) fn send(&mut self, stream: &dyn Stream, flights: &Flights) -> Result<()> {
        while !self.parcels.is_empty() {
            let Some(sent) = self.send_batch(stream, flights)? else { break };
            self.advance(sent);
        }
        Ok(())
    }

    fn send_batch(&self, stream: &dyn Stream, flights: &Flights) -> Result<Option<usize>> {
        let mut slices = [IoSlice::new(&[]); 2 * BATCH];
        let mut used = 0;
        let mut skip = self.sent;
        for parcel in self.parcels.iter().take(BATCH) {
            for bytes in [&parcel.head, parcel.payload(flights)] {
                let bytes = &bytes[skip.min(bytes.len())..];
                skip = if bytes.is_empty() { skip.saturating_sub(REQUEST_LEN) } else { 0 };
                if !bytes.is_empty() {
                    slices[used] = IoSlice::new(bytes);
                    used += 1;
                }
            }
            skip = 0;
        }
        stream.try_send(&slices[..used], self.parcels.len() > BATCH)
    }

    fn advance(&mut self, sent: usize) {
        self.sent += sent;
        while let Some(first) = self.parcels.front().filter(|first| self.sent >= first.len()) {
            self.sent -= first.len();
            self.parcels.pop_front();
        }
    }
}
