//! The socket floor: the least that a server on a Unix socket can do, with just enough NBD for fio to drive it.
//! One blocking thread per client takes what one receive brings, reads each range with one `pread`, and sends the
//! replies of the batch with one send.
//!
//! Invariant: no option, no check and no feature beyond what the client needs; what it does not know ends the client.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use super::images::naming;

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: [u8; 4] = 0x2560_9513_u32.to_be_bytes();
const REPLY_MAGIC: [u8; 4] = 0x6744_6698_u32.to_be_bytes();
/// Fixed newstyle, no zeroes.
const HANDSHAKE_FLAGS: u16 = 3;
/// Has flags, flush.
const EXPORT_FLAGS: u16 = 1 | 4;

const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

const REQUEST_BYTES: usize = 28;
const REPLY_BYTES: usize = 16;
/// Longest request served.
const LENGTH_MAX: usize = 4 << 20;
/// More than this is sent at once, while it is still in the CPU's cache.
const SEND_MIN: usize = 256 << 10;

/// Serves `file` on `socket` until it is killed.
pub(crate) fn run(socket: &Path, file: &Path) -> Result<bool, String> {
    let file = File::options().read(true).write(true).open(file).map_err(|error| naming(file, &error))?;
    let size = file.metadata().map_err(|error| naming(socket, &error))?.len();
    let listener = UnixListener::bind(socket).map_err(|error| naming(socket, &error))?;
    thread::scope(|scope| {
        for stream in listener.incoming().map_while(Result::ok) {
            // A client that fails or leaves is no concern of the others.
            scope.spawn(|| serve(stream, &file, size));
        }
    });
    Ok(true)
}

fn serve(mut stream: UnixStream, file: &File, size: u64) -> io::Result<()> {
    if negotiate(&mut stream, size)? { transmit(&mut stream, file) } else { Ok(()) }
}

/// Whether the client goes on to transmission.
fn negotiate(stream: &mut UnixStream, size: u64) -> io::Result<bool> {
    stream.write_all(&[b"NBDMAGIC", &OPTION_MAGIC[..], &HANDSHAKE_FLAGS.to_be_bytes()].concat())?;
    let mut client_flags = [0; 4];
    stream.read_exact(&mut client_flags)?;
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        let option = u32_at(&head, 8);
        let mut data = vec![0; (u32_at(&head, 12) as usize).min(LENGTH_MAX)];
        stream.read_exact(&mut data)?;
        let info = [&0_u16.to_be_bytes()[..], &size.to_be_bytes(), &EXPORT_FLAGS.to_be_bytes()].concat();
        let replies = match option {
            OPTION_GO | OPTION_INFO => {
                [option_reply(option, REPLY_INFO, &info), option_reply(option, REPLY_ACK, &[])].concat()
            }
            OPTION_ABORT => option_reply(option, REPLY_ACK, &[]),
            _ => option_reply(option, REPLY_UNSUPPORTED, &[]),
        };
        stream.write_all(&replies)?;
        if option == OPTION_GO || option == OPTION_ABORT {
            return Ok(option == OPTION_GO);
        }
    }
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(0);
    let numbers = [option, kind, length].map(u32::to_be_bytes).concat();
    [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &numbers, data].concat()
}

/// What a client sends after the handshake.
struct Request {
    command: u16,
    handle: [u8; 8],
    offset: u64,
    length: usize,
}

fn transmit(stream: &mut UnixStream, file: &File) -> io::Result<()> {
    let mut input = vec![0; 2 * (REQUEST_BYTES + LENGTH_MAX)];
    let mut output = Replies { bytes: vec![0; SEND_MIN + REPLY_BYTES + LENGTH_MAX], used: 0 };
    let mut filled = 0;
    loop {
        let received = stream.read(&mut input[filled..])?;
        if received == 0 {
            return Ok(());
        }
        filled += received;
        let mut at = 0;
        while let Some((request, payload)) = next_request(&input[at..filled])? {
            at += REQUEST_BYTES + payload.len();
            match request.command {
                DISCONNECT => return output.send(stream),
                READ => file.read_exact_at(output.add(&request, request.length), request.offset)?,
                WRITE => file.write_all_at(payload, request.offset)?,
                FLUSH => file.sync_data()?,
                _ => {}
            }
            if request.command != READ {
                output.add(&request, 0);
            }
            if output.used >= SEND_MIN {
                output.send(stream)?;
            }
        }
        output.send(stream)?;
        input.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// The first request in `input` with what it writes, once all of it is there.
fn next_request(input: &[u8]) -> io::Result<Option<(Request, &[u8])>> {
    let Some((head, rest)) = input.split_at_checked(REQUEST_BYTES) else {
        return Ok(None);
    };
    let length = u32_at(head, 24) as usize;
    if head[..4] != REQUEST_MAGIC || length > LENGTH_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut handle = [0; 8];
    handle.copy_from_slice(&head[8..16]);
    let offset = u64::from(u32_at(head, 16)) << 32 | u64::from(u32_at(head, 20));
    let request = Request { command: u16::from_be_bytes([head[6], head[7]]), handle, offset, length };
    let payload = if request.command == WRITE { length } else { 0 };
    Ok(rest.get(..payload).map(|payload| (request, payload)))
}

/// Replies that wait to be sent together.
struct Replies {
    bytes: Vec<u8>,
    used: usize,
}

impl Replies {
    /// Adds a simple reply; returns the room for its `length` bytes of data.
    fn add(&mut self, request: &Request, length: usize) -> &mut [u8] {
        let (head, room) = self.bytes[self.used..][..REPLY_BYTES + length].split_at_mut(REPLY_BYTES);
        head[..4].copy_from_slice(&REPLY_MAGIC);
        head[4..8].fill(0);
        head[8..].copy_from_slice(&request.handle);
        self.used += REPLY_BYTES + length;
        room
    }

    fn send(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        let used = std::mem::take(&mut self.used);
        stream.write_all(&self.bytes[..used])
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
        let command = command.to_be_bytes();
        [&REQUEST_MAGIC[..], &[0, 0], &command, b"a handle", &offset.to_be_bytes(), &length.to_be_bytes()]
            .concat()
    }

    #[test]
    fn requests_wait_until_they_are_whole() {
        let bytes = [request(WRITE, 1 << 40, 3), b"abc".to_vec()].concat();
        for cut in 0..bytes.len() {
            assert!(next_request(&bytes[..cut]).is_ok_and(|found| found.is_none()), "{cut}");
        }
        let (found, payload) = next_request(&bytes).expect("valid").expect("whole");
        assert_eq!((found.command, found.offset, payload), (WRITE, 1 << 40, &b"abc"[..]));
        assert!(next_request(&request(READ, 0, u32::MAX)).is_err());
        assert!(next_request(&[0; REQUEST_BYTES]).is_err());
    }

    #[test]
    fn a_batch_is_answered_in_order() {
        let path = std::env::temp_dir().join(format!("floor-{}", std::process::id()));
        std::fs::write(&path, b"0123456789").expect("a file can be written");
        let file = File::options().read(true).write(true).open(&path).expect("it opens");
        std::fs::remove_file(&path).expect("it can be removed");
        let (mut client, mut server) = UnixStream::pair().expect("a pair of sockets");
        let batch =
            [request(WRITE, 2, 2), b"xy".to_vec(), request(READ, 0, 5), request(DISCONNECT, 0, 0)].concat();
        client.write_all(&batch).expect("a batch is sent");
        transmit(&mut server, &file).expect("it is served");
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("an answer");
        assert_eq!(&answer[2 * REPLY_BYTES..], b"01xy4");
        assert_eq!(&answer[8..REPLY_BYTES], b"a handle");
    }
}
