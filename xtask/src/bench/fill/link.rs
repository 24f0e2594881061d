//! The line between repository and host: a relay that gives every byte the delay and the rate of a long one.
//!
//! All connections share the line; each direction has one transmitter. A piece is taken from its sender when the one
//! before has left, so that queues build up at the sender, where they would without us.
//!
//! Invariants: bytes keep their order; time that we lose by waking late is made up for, as far as [`CREDIT`] goes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a line is like.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// From sending a byte to getting one back that answers it.
    pub(super) round_trip: Duration,
    /// Bytes per second in each direction; `None`: no limit.
    pub(super) rate: Option<u64>,
}

/// Largest piece that is sent in one turn.
const PIECE: usize = 64 << 10;
/// How far ahead the transmitter may be busy when the next piece is taken.
const AHEAD: Duration = Duration::from_millis(1);
/// How long a sender that always has something ready may have been waiting for us.
const CREDIT: Duration = Duration::from_millis(10);

/// A relay from a socket of its own to that of a server; until the process ends.
pub(super) struct Link {
    down: Arc<Direction>,
    socket: PathBuf,
}

impl Link {
    /// Listens on `socket` for clients of the server on `far`.
    pub(super) fn open(socket: &Path, far: &Path, shape: Shape) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let (up, down) = (Arc::new(Direction::new(shape)), Arc::new(Direction::new(shape)));
        let link = Self { down: down.clone(), socket: socket.to_owned() };
        let far = far.to_owned();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // A client whose server is not there sees its connection end.
                let _ = join(near, &far, &up, &down);
            }
        });
        Ok(link)
    }

    /// Bytes that have left the server's end.
    pub(super) fn bytes_down(&self) -> u64 {
        self.down.bytes.load(Ordering::Relaxed)
    }

    /// Where its near end is, as clients name it.
    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// The path of its near end.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Relays one connection in both directions.
fn join(near: UnixStream, far: &Path, up: &Arc<Direction>, down: &Arc<Direction>) -> io::Result<()> {
    let far = UnixStream::connect(far)?;
    for (direction, from, to) in [(up, &near, &far), (down, &far, &near)] {
        let (direction, from, to) = (direction.clone(), from.try_clone()?, to.try_clone()?);
        thread::spawn(move || direction.carry(&from, to));
    }
    Ok(())
}

/// One direction of the line.
struct Direction {
    shape: Shape,
    /// Until when the transmitter is busy.
    busy: Mutex<Instant>,
    bytes: AtomicU64,
}

/// Bytes on their way, and when they arrive.
type Flying = (Instant, Vec<u8>);

impl Direction {
    fn new(shape: Shape) -> Self {
        Self { shape, busy: Mutex::new(Instant::now()), bytes: AtomicU64::new(0) }
    }

    /// Carries what `from` sends to `to`, until either end is gone; then ends both.
    fn carry(&self, from: &UnixStream, to: UnixStream) {
        let (send, flying) = mpsc::sync_channel(self.pieces_held());
        let (give_back, spare) = mpsc::channel();
        let source = from.try_clone();
        let delivery = thread::spawn(move || {
            let _ = deliver(&flying, &give_back, &to);
            // What is taken from now on could not be delivered.
            let _ = to.shutdown(Shutdown::Both);
            let _ = source.map(|source| source.shutdown(Shutdown::Both));
        });
        // Whatever ends it, the bytes before that arrive.
        let _ = self.take(from, &send, &spare);
        drop(send);
        let _ = delivery.join();
    }

    fn take(
        &self,
        mut from: &UnixStream,
        send: &SyncSender<Flying>,
        spare: &Receiver<Vec<u8>>,
    ) -> io::Result<()> {
        let mut sent = Instant::now();
        let mut full = false;
        loop {
            let mut piece = spare.try_recv().unwrap_or_default();
            piece.resize(PIECE, 0);
            let len = from.read(&mut piece)?;
            if len == 0 {
                return Ok(());
            }
            piece.truncate(len);
            self.bytes.fetch_add(len as u64, Ordering::Relaxed);
            // Behind a full piece there was more: it has waited for us, not we for it.
            let now = Instant::now();
            let earliest = now.checked_sub(CREDIT).unwrap_or(now);
            let ready = if full { sent.clamp(earliest, now.max(earliest)) } else { now };
            full = len == PIECE;
            sent = self.transmit(ready, len);
            if send.send((sent + self.shape.round_trip / 2, piece)).is_err() {
                return Ok(());
            }
            wait_until(sent.checked_sub(AHEAD).unwrap_or(sent));
        }
    }

    /// Sends a piece that was there at `ready`; answers when it has left.
    fn transmit(&self, ready: Instant, len: usize) -> Instant {
        let Some(rate) = self.shape.rate else { return ready };
        let takes = Duration::from_secs_f64(len as f64 / rate as f64);
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        *busy = (*busy).max(ready) + takes;
        *busy
    }

    /// Pieces that one connection may have under way: all that the line holds, twice, since we may be late to deliver.
    fn pieces_held(&self) -> usize {
        let rate = self.shape.rate.unwrap_or(10 << 30) as f64;
        let holds = rate * (self.shape.round_trip + AHEAD).as_secs_f64();
        // Pieces may be smaller than the largest.
        (8.0 * holds / PIECE as f64) as usize + 64
    }
}

fn deliver(flying: &Receiver<Flying>, give_back: &Sender<Vec<u8>>, mut to: &UnixStream) -> io::Result<()> {
    for (due, piece) in flying {
        wait_until(due);
        to.write_all(&piece)?;
        // Nobody takes it back at the end.
        let _ = give_back.send(piece);
    }
    Ok(())
}

fn wait_until(when: Instant) {
    thread::sleep(when.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `len` bytes down a line; answers them, what was counted, and the time that they took.
    fn sent(shape: Shape, len: usize) -> (Vec<u8>, u64, Duration) {
        let folder = std::env::temp_dir().join(format!("xtask-link-{}-{len}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (near, far) = (folder.join("near"), folder.join("far"));
        let server = UnixListener::bind(&far).unwrap();
        let link = Link::open(&near, &far, shape).unwrap();
        let begun = Instant::now();
        let mut client = UnixStream::connect(&near).unwrap();
        client.write_all(b"?").unwrap();
        thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            stream.write_all(&bytes).unwrap();
        });
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        (bytes, link.bytes_down(), begun.elapsed())
    }

    #[test]
    fn bytes_arrive_in_order_and_not_too_early() {
        let shape = Shape { round_trip: Duration::from_millis(20), rate: Some(10_000_000) };
        let (bytes, counted, took) = sent(shape, 1_000_000);
        assert_eq!(counted, 1_000_000);
        assert!(
            bytes.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8) && bytes.len() == 1_000_000
        );
        // A lower bound: a slow machine only makes it longer. Our own credit is taken off.
        assert!(took >= Duration::from_millis(20 + 100) - CREDIT, "{took:?}");
    }

    #[test]
    fn a_line_without_a_limit_still_has_its_delay() {
        let shape = Shape { round_trip: Duration::from_millis(10), rate: None };
        let (bytes, counted, took) = sent(shape, 3);
        assert_eq!((bytes.as_slice(), counted), (&[0, 1, 2][..], 3));
        assert!(took >= Duration::from_millis(10), "{took:?}");
    }
}
