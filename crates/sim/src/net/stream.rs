//! Connected streams.

use std::io::{self, ErrorKind, IoSlice};
use std::task::{Context, Poll, Waker};

use ::io::{File, Incoming, Stream};
use bytes::{Bytes, BytesMut};

use super::SimNet;
use super::pipe::Body;
use super::state::Sent;
use crate::disk::SimFile;
use crate::locked;

/// One side of a connection; closes when it is dropped.
pub(crate) struct Side {
    pub(crate) net: SimNet,
    pub(crate) id: u64,
    /// 0 is the client's.
    pub(crate) side: usize,
    pub(crate) peer: String,
}

impl Drop for Side {
    fn drop(&mut self) {
        let mut state = locked(&self.net.0);
        // Bytes that came and were never read make the peer see a reset rather than an end.
        let unread = state.conns.get(&self.id).is_some_and(|conn| conn.pipes[1 - self.side].queued > 0);
        let (waiting, noticed) = state.close(self.id, self.side, unread);
        let gone = state.conns.get_mut(&self.id).is_some_and(|conn| {
            conn.open[self.side] = false;
            conn.open == [false; 2]
        });
        let conn = if gone { state.conns.remove(&self.id) } else { None };
        drop(state);
        drop(conn);
        self.net.wake_at(noticed, self.id);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Incoming for Side {
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(SimStream(*self)))
    }
}

pub(crate) struct SimStream(Side);

impl SimStream {
    fn sent(&self, sent: io::Result<Option<Sent>>) -> io::Result<Option<usize>> {
        let Some(sent) = sent? else { return Ok(None) };
        for when in sent.arrivals {
            self.0.net.wake_at(when, self.0.id);
        }
        self.0.net.maybe_cut(self.0.id);
        Ok(Some(sent.len))
    }

    /// Ready by `ready` or by chance; else keeps the waker in `slot`'s place.
    fn poll(&self, cx: &Context<'_>, reading: bool) -> Poll<io::Result<()>> {
        let (id, side) = (self.0.id, self.0.side);
        let mut state = locked(&self.0.net.0);
        let spurious = state.options.spurious;
        let ready = match reading {
            true => !matches!(state.available(id, side), Ok(None)),
            false => !matches!(state.room(id, side), Ok(0)),
        };
        if ready || state.rng.chance(spurious) {
            return Poll::Ready(Ok(()));
        }
        let waker = Some(cx.waker().clone());
        let Some(conn) = state.conns.get_mut(&id) else { return Poll::Ready(Ok(())) };
        let old = match reading {
            true => std::mem::replace(&mut conn.pipes[1 - side].reader, waker),
            false => std::mem::replace(&mut conn.pipes[side].writer, waker),
        };
        drop(state);
        drop(old);
        Poll::Pending
    }
}

impl Stream for SimStream {
    fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let received = locked(&self.0.net.0).recv(self.0.id, self.0.side, buf)?;
        Ok(received.map(|(len, writer)| {
            writer.into_iter().for_each(Waker::wake);
            len
        }))
    }

    fn try_send(&self, parts: &[IoSlice<'_>], _more: bool) -> io::Result<Option<usize>> {
        let len = parts.iter().map(|part| part.len()).sum();
        let sent = locked(&self.0.net.0).send(self.0.id, self.0.side, len, |len| gather(parts, len));
        self.sent(sent)
    }

    fn try_send_file(&self, file: &dyn File, offset: u64, len: usize) -> io::Result<Option<usize>> {
        let file = SimFile::of(file).ok_or(ErrorKind::Unsupported)?;
        let left = usize::try_from(file.size()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let body = |len| Body::File(file.clone(), offset, len);
        let sent = locked(&self.0.net.0).send(self.0.id, self.0.side, len.min(left), body);
        self.sent(sent)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, true)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, false)
    }

    fn shutdown(&self) {
        let (waiting, noticed) = locked(&self.0.net.0).close(self.0.id, self.0.side, false);
        self.0.net.wake_at(noticed, self.0.id);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn peer(&self) -> String {
        self.0.peer.clone()
    }
}

/// The first `len` bytes of `parts`.
fn gather(parts: &[IoSlice<'_>], len: usize) -> Body {
    let mut bytes = BytesMut::with_capacity(len);
    for part in parts {
        let left = len - bytes.len();
        bytes.extend_from_slice(&part[..part.len().min(left)]);
    }
    Body::Bytes(Bytes::from(bytes))
}
