//! Listening sockets.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use ::io::{Address, Incoming, Listener, LocalFut};

use super::SimNet;
use super::state::Key;
use super::stream::Side;
use crate::locked;

pub(crate) struct SimListener {
    pub(crate) net: SimNet,
    pub(crate) key: Key,
    pub(crate) address: Address,
}

impl SimListener {
    fn side(&self, id: u64) -> Side {
        Side { net: self.net.clone(), id, side: 1, peer: format!("client {id}") }
    }
}

impl Listener for SimListener {
    fn accept(&self) -> LocalFut<'_, io::Result<Box<dyn Incoming>>> {
        Box::pin(poll_fn(|cx| {
            let mut state = locked(&self.net.0);
            let backlog = state.listeners.entry(self.key.clone()).or_default();
            match backlog.waiting.pop_front() {
                Some(id) => Poll::Ready(Ok(Box::new(self.side(id)) as Box<dyn Incoming>)),
                None => {
                    backlog.acceptors.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }

    fn address(&self) -> Address {
        self.address.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let backlog = locked(&self.net.0).listeners.remove(&self.key);
        // Who was not accepted yet finds the connection closed.
        for id in backlog.into_iter().flat_map(|backlog| backlog.waiting) {
            drop(self.side(id));
        }
    }
}
