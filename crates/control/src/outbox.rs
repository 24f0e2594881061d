//! What is to be sent to a client and has not been taken yet.
//!
//! Invariant: whole lines go in, and what was sent goes out: a future of it may be dropped at any time.

use std::collections::VecDeque;
use std::io::{IoSlice, Result};

use io::Stream;

/// Bytes that wait beyond which events are no longer added.
const FULL: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: VecDeque<u8>,
}

impl Outbox {
    /// Adds a line.
    pub(crate) fn push(&mut self, line: &str) {
        self.bytes.extend(line.as_bytes());
    }

    /// Whether the client reads so slowly that it must not be told more.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// Sends what the client takes now. Answers whether it took all.
    pub(crate) fn send(&mut self, stream: &dyn Stream) -> Result<bool> {
        while !self.bytes.is_empty() {
            let (front, _) = self.bytes.as_slices();
            match stream.try_send(&[IoSlice::new(front)], false)? {
                Some(taken) => drop(self.bytes.drain(..taken)),
                None => return Ok(false),
            }
        }
        // A large answer leaves no large buffer behind.
        self.bytes.shrink_to(64 << 10);
        Ok(true)
    }

    /// Sends all.
    pub(crate) async fn flush(&mut self, stream: &dyn Stream) -> Result<()> {
        while !self.send(stream)? {
            stream.writable().await?;
        }
        Ok(())
    }
}
