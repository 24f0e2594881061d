//! Answers to requests that had to wait.

use block::Errno;
use flow::account::Tally;
use nbd::codec::Cookie;
use nbd::transmission::server::{block_status_len, put_block_status};

use super::export::Export;
use super::outbox::Outbox;
use super::reply::{HEADS_MAX, ReadReply, put_failure, put_success};
use super::waiting::{Done, EXTENTS_MAX, Finished};

/// Most room that an answer takes in the outbox.
pub(super) const ANSWER_MAX: usize = HEADS_MAX + block_status_len(EXTENTS_MAX);

/// How a client wants its answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answers {
    pub(super) structured: bool,
    /// Number of the metadata context that was agreed.
    pub(super) context: u32,
}

impl Answers {
    /// Queues the answer to a request; there must be [`ANSWER_MAX`] bytes of room.
    pub(super) fn put(&self, finished: Finished, export: &Export, out: &mut Outbox) {
        let (cookie, structured) = (finished.cookie, self.structured);
        match finished.done {
            Done::Nothing => put_success(out, cookie),
            Done::Read { range, one_fragment, lease } => {
                let holes = structured && !one_fragment;
                let (offset, len) = (range.start(), lease.len());
                ReadReply { cookie, offset, len, structured, holes }.send_lease(out, lease);
            }
            Done::Extents(extents) => {
                let room = out.reserve(block_status_len(extents.len()));
                match put_block_status(room, cookie, true, self.context, &extents) {
                    Some(len) => {
                        out.queue(0, len);
                        out.settle(len);
                    }
                    None => self.fail(cookie, Errno::IO, "nothing is known of this range", export, out),
                }
            }
            Done::Failed(error) => self.fail(cookie, error.errno(), &error.to_string(), export, out),
        }
    }

    fn fail(&self, cookie: Cookie, errno: Errno, message: &str, export: &Export, out: &mut Outbox) {
        export.counters().add(&Tally { failed: 1, ..Tally::default() });
        put_failure(out, cookie, self.structured, errno, message);
    }
}
