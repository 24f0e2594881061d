//! Answers to requests that had to wait.

use block::{BlockError, Culprit, Errno, ErrorKind};
use flow::account::Tally;
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
    /// Queues the answer to a request; there must be [`ANSWER_MAX`] bytes of room. Answers what went wrong, if
    /// anything did.
    pub(super) fn put(&self, finished: Finished, export: &Export, out: &mut Outbox) -> Option<BlockError> {
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
                    None => put_failure(out, cookie, true, Errno::IO, "nothing is known of this range"),
                }
            }
            Done::Failed(error) => {
                export.counters().add(&Tally { failed: 1, ..Tally::default() });
                put_failure(out, cookie, structured, error.errno(), shown(&error));
                return Some(error);
            }
        }
        None
    }
}

/// What a client is told of an error. The whole text names files and peers of ours, which are none of its business:
/// that is for whoever runs the server.
pub(super) fn shown(error: &BlockError) -> &'static str {
    match error.kind() {
        ErrorKind::Invalid => "the request makes no sense here",
        ErrorKind::OutOfRange => "the request reaches beyond the end",
        ErrorKind::ReadOnly => "the image is read-only",
        ErrorKind::NotPermitted => "the request is not permitted",
        ErrorKind::Unsupported => "the image cannot do this",
        ErrorKind::NoSpace => "there is no space left",
        ErrorKind::NoMemory => "there is not enough memory",
        ErrorKind::Corrupt => "the image is corrupt",
        ErrorKind::Disconnected | ErrorKind::Protocol => "the source of the image is lost",
        ErrorKind::TimedOut => "the source of the image does not answer",
        ErrorKind::Cancelled => "the request was called off",
        _ => "the storage failed",
    }
}

/// Whether an error is worth telling to whoever runs the server, rather than the client's own doing.
pub(super) fn is_trouble(error: &BlockError) -> bool {
    error.culprit() != Culprit::Caller && error.kind() != ErrorKind::Unsupported
}
