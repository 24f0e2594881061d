//! Making the file of a new image, in place: an existing one is emptied, as qemu-img does, so that links, modes and
//! devices stay what they are.
//!
//! Invariants: the file is locked before it is emptied; one that was not there before is noted as ours, to be removed
//! if the verb fails; one that was there is emptied again then and never removed.

use std::path::Path;
use std::sync::Arc;

use block::{BlockError, ByteRange, Permissions};
use io::file::ZeroMode;
use io::folders::Kind;
use io::{File, Lease, OpenOptions};
use qcow2::FreshImage;

use crate::failure::{Failure, Result};
use crate::naming;
use crate::session::Session;
use crate::words;

/// Bytes of zeros that are written at a time.
const ZEROES: usize = 1 << 20;

/// Whether and how room is made for data from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    /// When it is written.
    Later,
    /// Reserved.
    Reserved,
    /// Written with zeros.
    Written,
}

/// A file that is being made.
pub(crate) struct NewFile<'s> {
    session: &'s Session,
    file: Arc<dyn File>,
    name: String,
    /// Whether it reads as zeros: a device may hold anything.
    pub(crate) reads_zero: bool,
}

impl<'s> NewFile<'s> {
    /// Opens the file of that name, locked and empty.
    pub(crate) async fn create(session: &'s Session, name: &str) -> Result<Self> {
        let could_not = |error: std::io::Error| {
            let error = BlockError::system(format!("Could not create '{name}'"), error);
            Failure::new(words::explained(&error))
        };
        let Some(path) = naming::path(name) else {
            return Err(Failure::new(format!(
                "'{name}' is no file, and new images are made in files only: make the image there first, and use -n"
            )));
        };
        let (world, path) = (session.engine.world(), Path::new(path));
        let opening = session.made.open();
        let before = world.folders().about(path).await;
        // Tables of a new image are written once and read by nobody soon.
        let options = OpenOptions { transient: true, ..OpenOptions::CREATE };
        let file = world.open(path, options).await.map_err(could_not)?;
        lock(&*file, name)?;
        let reads_zero = before.as_ref().map_or(true, |about| about.kind == Kind::File);
        match before {
            Err(_) => opening.made(path),
            Ok(_) if reads_zero => opening.taken(path),
            Ok(_) => drop(opening),
        }
        session.check_called_off()?;
        if reads_zero {
            file.set_len(0).await.map_err(could_not)?;
        }
        Ok(Self { session, file, name: name.to_owned(), reads_zero })
    }

    fn failed(&self, error: std::io::Error) -> Failure {
        let error = BlockError::system(format!("Could not write to '{}'", self.name), error);
        Failure::new(words::explained(&error))
    }

    /// Makes it `len` bytes long, and makes room.
    pub(crate) async fn fill(&self, len: u64, room: Room) -> Result<()> {
        if len > self.file.size().map_err(|error| self.failed(error))? {
            self.file.set_len(len).await.map_err(|error| self.failed(error))?;
        }
        self.make_room(ByteRange::between(0, len), room).await
    }

    async fn make_room(&self, range: ByteRange, room: Room) -> Result<()> {
        match room {
            Room::Later => Ok(()),
            Room::Reserved => {
                let mode = ZeroMode { may_unmap: false, only_fast: true };
                self.file.write_zeroes(range, mode).await.map_err(|error| self.failed(error))
            }
            Room::Written => {
                let mut rest = range;
                let mut zeroes = Lease::zeroed(ZEROES);
                while !rest.is_empty() {
                    self.session.check_called_off()?;
                    let piece = rest.head(ZEROES as u64);
                    let mut part = zeroes.split_to(piece.len() as usize);
                    let (result, back) = self.file.write(piece.start(), part).await;
                    result.map_err(|error| self.failed(error))?;
                    part = back;
                    part.join(zeroes);
                    zeroes = part;
                    rest = rest.skip(piece.len());
                }
                Ok(())
            }
        }
    }

    /// Writes an empty image; its header last.
    pub(crate) async fn put(&self, mut image: FreshImage, room: Room) -> Result<()> {
        self.file.set_len(image.len).await.map_err(|error| self.failed(error))?;
        self.make_room(ByteRange::between(0, image.len), room).await?;
        let header = image.pieces.pop();
        let tables = image.tables.into_iter().flatten();
        for (at, bytes) in image.pieces.into_iter().chain(tables).chain(header) {
            self.session.check_called_off()?;
            let (result, _) = self.file.write(at.0, Lease::copy_of(&bytes)).await;
            result.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }
}

/// Keeps other programs off, or fails where one uses the file.
fn lock(file: &dyn File, name: &str) -> Result<()> {
    let uses = Permissions::WRITE | Permissions::RESIZE;
    match file.lock(uses, Permissions::CONSISTENT_READ) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(()),
        Err(error) => match error.get_ref().and_then(|e| e.downcast_ref::<io::file::LockConflict>()) {
            Some(conflict) => {
                let shared = if conflict.in_use { "shared " } else { "" };
                Err(Failure::new(format!(
                    "Failed to get {shared}\"{}\" lock\nIs another process using the image [{name}]?",
                    conflict.permission
                )))
            }
            None => Err(Failure::of(
                format!("Could not lock '{name}'"),
                &BlockError::system("its file system refuses", error),
            )),
        },
    }
}
