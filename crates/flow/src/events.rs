//! The one event sink: lower rooms write to it, upper rooms read from it.
//!
//! Telling never waits. A reader that falls behind loses the oldest events and learns how many.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{ByteRange, JobAction, JobMilestone, JobState};
use io::sync::Notify;

/// Events that are kept for a reader that is behind.
const KEPT_MAX: usize = 4096;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client connected to a server.
    ClientConnected,
    /// A client's connection ended; by what error, if by one.
    ClientGone {
        /// Whether it had agreed on an export and entered the transmission phase: others only knocked.
        negotiated: bool,
        /// What ended it.
        error: Option<String>,
    },
    /// A request of a client could not be carried out, through no fault of the client; the first one of its connection.
    RequestFailed {
        /// What went wrong: names the export, the client, and the file or peer.
        error: String,
    },
    /// An export was taken away.
    ExportDeleted {
        /// Its id.
        id: String,
    },
    /// A node was opened, or opened anew.
    NodeOpened {
        /// Its node-name.
        node: String,
        /// How its driver goes about it: the file or peer, and the engine in use.
        how: String,
    },
    /// A node has lost what it lives on; requests wait, or fail when they have waited long enough.
    SourceLost {
        /// Its node-name.
        node: String,
        /// Why: names the peer.
        error: String,
    },
    /// It is there again.
    SourceBack {
        /// Its node-name.
        node: String,
    },
    /// The file below an image is not what it was when the image was made over it.
    BackingChanged {
        /// Node-name of the image.
        node: String,
        /// What that means: names the file and the remedy.
        error: String,
    },
    /// A node was given up with what could not be stored in its file any more.
    NodeGivenUp {
        /// Its node-name.
        node: String,
        /// What is lost or stays behind: names the file.
        error: String,
    },
    /// An image that was not closed has been repaired, since it is opened to be written.
    ImageRepaired {
        /// The node-name of its format node.
        node: String,
        /// What was wrong and is mended, as `check` tells it.
        lines: Vec<String>,
    },
    /// An image turned out to contradict itself.
    ImageCorrupt {
        /// The node-name of its format node.
        node: String,
        /// What is wrong.
        message: String,
        /// Which bytes of the file would have been written over, if any.
        range: Option<ByteRange>,
        /// Whether it was marked, and is not written any more; else it was only read there.
        fatal: bool,
    },
    /// A job is in another state.
    JobState {
        /// Its id.
        id: String,
        /// Where it stands.
        state: JobState,
    },
    /// A job has come to a point that has an event of its own.
    JobMilestone {
        /// Its id.
        id: String,
        /// Its type (`stream`).
        kind: &'static str,
        /// Which point.
        milestone: JobMilestone,
        /// Bytes that there are to do.
        total: u64,
        /// Bytes that are done.
        done: u64,
        /// Bytes per second at most; 0 for no limit.
        speed: u64,
    },
    /// A job has met an error.
    JobError {
        /// Its id.
        id: String,
        /// What it does about it.
        action: JobAction,
        /// The error.
        error: String,
    },
    /// A fill ended.
    FillEnded {
        /// Its id.
        id: String,
        /// What ended it, if an error did.
        error: Option<String>,
    },
    /// This reader missed so many.
    Missed(u64),
}

/// Where events are told.
#[derive(Clone, Default)]
pub struct Events {
    readers: Arc<Mutex<Vec<std::sync::Weak<Reader>>>>,
}

#[derive(Default)]
struct Reader {
    queue: Mutex<(VecDeque<Event>, u64)>,
    told: Notify,
}

/// Where one node tells what happens to it.
#[derive(Clone, Default)]
pub struct NodeEvents {
    node: Arc<str>,
    events: Events,
}

impl NodeEvents {
    /// How it was opened.
    pub fn opened(&self, how: impl Display) {
        self.events.tell(Event::NodeOpened { node: self.node.to_string(), how: how.to_string() });
    }

    /// Something of it failed that nobody asked for.
    pub fn failed(&self, error: impl Display) {
        let error = format!("node '{}': {error}", self.node);
        self.events.tell(Event::RequestFailed { error });
    }

    /// Its image contradicts itself; `fatal`: it is not written any more. `range` would have been written over.
    pub fn corrupt(&self, message: impl Display, range: Option<ByteRange>, fatal: bool) {
        let (node, message) = (self.node.to_string(), message.to_string());
        self.events.tell(Event::ImageCorrupt { node, message, range, fatal });
    }

    /// Its image was repaired when it was opened; `lines` say what was.
    pub fn repaired(&self, lines: Vec<String>) {
        self.events.tell(Event::ImageRepaired { node: self.node.to_string(), lines });
    }

    /// What it lives on is lost.
    pub fn lost(&self, error: impl Display) {
        self.events.tell(Event::SourceLost { node: self.node.to_string(), error: error.to_string() });
    }

    /// The file below it is not what it was.
    pub fn backing_changed(&self, error: impl Display) {
        self.events.tell(Event::BackingChanged { node: self.node.to_string(), error: error.to_string() });
    }

    /// What it lives on is there again.
    pub fn back(&self) {
        self.events.tell(Event::SourceBack { node: self.node.to_string() });
    }
}

impl Events {
    /// Where the node of this name tells.
    pub fn of(&self, node: &str) -> NodeEvents {
        NodeEvents { node: node.into(), events: self.clone() }
    }

    /// Tells all present readers.
    pub fn tell(&self, event: Event) {
        let mut readers = lock(&self.readers);
        readers.retain(|reader| match reader.upgrade() {
            Some(reader) => {
                reader.push(event.clone());
                true
            }
            None => false,
        });
    }

    /// Reads what is told from now on.
    pub fn subscribe(&self) -> Subscription {
        let reader = Arc::new(Reader::default());
        lock(&self.readers).push(Arc::downgrade(&reader));
        Subscription(reader)
    }
}

impl Reader {
    fn push(&self, event: Event) {
        {
            let mut queue = lock(&self.queue);
            if queue.0.len() == KEPT_MAX {
                queue.0.pop_front();
                queue.1 += 1;
            }
            queue.0.push_back(event);
        }
        self.told.notify_one();
    }
}

/// One reader's place.
pub struct Subscription(Arc<Reader>);

impl Subscription {
    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<Event> {
        let mut queue = lock(&self.0.queue);
        match std::mem::take(&mut queue.1) {
            0 => queue.0.pop_front(),
            missed => Some(Event::Missed(missed)),
        }
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.try_next() {
                return event;
            }
            self.0.told.notified().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn readers_get_what_is_told_later_and_learn_what_they_missed() {
        let events = Events::default();
        events.tell(Event::ClientConnected);
        let mut reader = events.subscribe();
        assert!(reader.next().now_or_never().is_none());
        for _ in 0..KEPT_MAX + 3 {
            events.tell(Event::ClientConnected);
        }
        assert_eq!(reader.next().now_or_never(), Some(Event::Missed(3)));
        assert_eq!(reader.next().now_or_never(), Some(Event::ClientConnected));
    }
}
