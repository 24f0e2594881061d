//! `second-reader IMAGE`: what the library imago reads in a qcow2 image, on standard output.
//!
//! Exits with 2 where it does not know how to read such an image, with 1 where it cannot.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

/// Bytes that are read at a time: no multiple of anything.
const PIECE: u64 = (1 << 20) + 1234;

fn main() -> ExitCode {
    let Some(image) = std::env::args().nth(1) else {
        eprintln!("usage: second-reader IMAGE");
        return ExitCode::FAILURE;
    };
    match read(&image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{image}: {error}");
            if error.kind() == ErrorKind::Unsupported { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn read(image: &str) -> io::Result<()> {
    let image = Qcow2::<File>::builder_path(image).open(PermissiveImplicitOpenGate::default())?;
    let image = FormatAccess::new(image);
    let mut out = io::stdout().lock();
    let mut at = 0;
    while at < image.size() {
        let mut bytes = vec![0; PIECE.min(image.size() - at) as usize];
        image.read(&mut bytes, at)?;
        out.write_all(&bytes)?;
        at += bytes.len() as u64;
    }
    out.flush()
}
