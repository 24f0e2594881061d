//! The copy floor: the least that a program can do that copies a file through its own memory. One thread reads, another
//! writes, and between them a few buffers go round.
//!
//! Invariant: no option, no format, no look at the bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::images::naming;

/// What one read asks for.
const PIECE: usize = 256 << 10;
/// Pieces that are read and not written yet.
const PIECES: usize = 4;

/// Copies `from` to the new file `to`.
pub(crate) fn run(from: &Path, to: &Path) -> Result<bool, String> {
    let source = File::open(from).map_err(|error| naming(from, &error))?;
    let target = File::create_new(to).map_err(|error| naming(to, &error))?;
    copy(source, target).map_err(|error| naming(to, &error))?;
    Ok(true)
}

fn copy(mut source: impl Read, mut target: impl Write + Send) -> io::Result<()> {
    let (give, empty) = sync_channel(PIECES);
    let (fill, full) = sync_channel::<(Vec<u8>, usize)>(PIECES);
    for _ in 0..PIECES {
        let _ = give.send(vec![0; PIECE]);
    }
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            full.into_iter().try_for_each(|(buffer, len)| {
                target.write_all(&buffer[..len])?;
                // The reader may have come to the end.
                let _ = give.send(buffer);
                Ok(())
            })
        });
        while let Ok(mut buffer) = empty.recv() {
            let len = source.read(&mut buffer)?;
            // A writer that has failed takes no more.
            if len == 0 || fill.send((buffer, len)).is_err() {
                break;
            }
        }
        drop(fill);
        writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_in_order() {
        let bytes: Vec<u8> = (0..PIECES * 3 * PIECE + 5).map(|i| (i / 1000) as u8).collect();
        let mut copied = Vec::new();
        copy(&bytes[..], &mut copied).expect("it is copied");
        assert!(copied == bytes);
    }

    #[test]
    fn a_writer_that_fails_ends_it() {
        let bytes = vec![1; PIECES * 3 * PIECE];
        let mut short = [0; PIECE];
        assert!(copy(&bytes[..], &mut short[..]).is_err());
    }
}
