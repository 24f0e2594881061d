//! What is on the wire of one connection: asked and not yet answered.
//!
//! Invariant: a cookie is used once per connection, so a reply finds its request or nothing.

use std::collections::BTreeMap;

use block::{ByteRange, Extent, Priority};
use nbd::codec::Command;
use nbd::transmission::client::ReadProgress;

use crate::protocols::nbd::job::{Ask, Job};

/// A job that waits for its reply.
pub(super) struct Flight {
    pub(super) job: Job,
    /// Bytes that it counts for in the bounds.
    bytes: u64,
    /// Which bytes have come, and whether an error has.
    pub(super) progress: ReadProgress,
    /// What the server says about the error.
    pub(super) message: Option<String>,
    /// What a block status has told.
    pub(super) extents: Option<Vec<Extent>>,
}

#[derive(Default)]
pub(super) struct Flights {
    by_cookie: BTreeMap<u64, Flight>,
    last_cookie: u64,
    bytes: [u64; 3],
}

impl Flights {
    /// Takes a job; answers the cookie that its reply will carry.
    pub(super) fn begin(&mut self, job: Job) -> u64 {
        self.last_cookie += 1;
        let bytes = job.bytes();
        self.bytes[job.priority as usize] += bytes;
        // Content in the reply to anything but a read is out of its range.
        let read = job.ask.command == Command::Read;
        let range = if read { job.ask.range } else { ByteRange::default() };
        let flight = Flight { job, bytes, progress: ReadProgress::new(range), message: None, extents: None };
        self.by_cookie.insert(self.last_cookie, flight);
        self.last_cookie
    }

    pub(super) fn get(&self, cookie: u64) -> Option<&Flight> {
        self.by_cookie.get(&cookie)
    }

    pub(super) fn get_mut(&mut self, cookie: u64) -> Option<&mut Flight> {
        self.by_cookie.get_mut(&cookie)
    }

    pub(super) fn end(&mut self, cookie: u64) -> Option<Flight> {
        let flight = self.by_cookie.remove(&cookie)?;
        self.bytes[flight.job.priority as usize] -= flight.bytes;
        Some(flight)
    }

    pub(super) fn len(&self) -> usize {
        self.by_cookie.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }

    pub(super) fn bytes_of(&self, priority: Priority) -> u64 {
        self.bytes[priority as usize]
    }

    /// Cookies and flights, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Flight)> {
        self.by_cookie.iter().map(|(cookie, flight)| (*cookie, flight))
    }

    pub(super) fn conflicts(&self, ask: &Ask) -> bool {
        ask.changes() && self.by_cookie.values().any(|flight| flight.job.ask.conflicts(ask))
    }

    /// Takes all jobs out, oldest first.
    pub(super) fn into_jobs(self) -> impl Iterator<Item = Job> {
        self.by_cookie.into_values().map(|flight| flight.job)
    }
}
