//! The one event sink: lower rooms write to it, upper rooms read from it.
//!
//! Telling never waits. A reader that falls behind loses the oldest events and learns how many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// A background job ended.
    JobEnded {
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

impl Events {
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
    /// The next event.
    pub async fn next(&mut self) -> Event {
        loop {
            {
                let mut queue = lock(&self.0.queue);
                let missed = std::mem::take(&mut queue.1);
                if missed > 0 {
                    return Event::Missed(missed);
                }
                if let Some(event) = queue.0.pop_front() {
                    return event;
                }
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
