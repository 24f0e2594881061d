//! The few frames of the protocol that tests send by hand.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

const OPTION: u64 = 0x4948_4156_454f_5054;
const REQUEST: u32 = 0x2560_9513;
pub(crate) const GO: u32 = 7;
const ACK: u32 = 1;

pub(crate) fn option(code: u32, len: u32) -> Vec<u8> {
    [&OPTION.to_be_bytes()[..], &code.to_be_bytes(), &len.to_be_bytes()].concat()
}

pub(crate) fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let head = [&REQUEST.to_be_bytes()[..], &[0, 0], &command.to_be_bytes(), &cookie.to_be_bytes()].concat();
    [&head[..], &offset.to_be_bytes(), &len.to_be_bytes()].concat()
}

/// From the greeting up to the transmission phase, with simple replies.
pub(crate) fn shake_hands(stream: &mut UnixStream) -> std::io::Result<()> {
    open(stream, "")
}

/// From the greeting up to the transmission phase of the export of this name.
pub(crate) fn open(stream: &mut UnixStream, name: &str) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 18])?;
    agree_on(stream, name)
}

/// From the client's flags up to the transmission phase.
pub(crate) fn agree(stream: &mut UnixStream) -> std::io::Result<()> {
    agree_on(stream, "")
}

fn agree_on(stream: &mut UnixStream, name: &str) -> std::io::Result<()> {
    let len = name.len() as u32;
    stream.write_all(&3_u32.to_be_bytes())?;
    stream.write_all(&option(GO, 6 + len))?;
    stream.write_all(&[&len.to_be_bytes(), name.as_bytes(), &[0; 2]].concat())?;
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head)?;
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; word(16) as usize];
        stream.read_exact(&mut payload)?;
        if word(12) == ACK {
            return Ok(());
        }
    }
}
