//! Making the file of a new image, in place: an existing one is emptied, as qemu-img does, so that links, modes and
//! devices stay what they are. Where a protocol makes no files (a server's export) what is there is taken.
//!
//! Invariants: the file is locked before it is emptied; one that was not there before is noted as ours, to be removed
//! if the verb fails; one that was there is emptied again then and never removed. An export never begins with what it
//! began with before: that could be taken for an image.

use std::path::Path;
use std::sync::Arc;

use block::{BlockError, ByteRange, Permissions};
use flow::{Op, Preallocation, Request, seam};
use graph::Demand;
use io::file::ZeroMode;
use io::folders::Kind;
use io::{File, Lease, OpenOptions};
use qcow2::FreshImage;

use crate::failure::{Failure, Result};
use crate::image::{Image, SECTOR, Use};
use crate::naming;
use crate::session::{How, Session, Source};
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
    medium: Medium,
    name: String,
    /// Whether it reads as zeros: a device may hold anything.
    pub(crate) reads_zero: bool,
}

/// Where it is made.
enum Medium {
    File(Arc<dyn File>),
    /// What a protocol has there already, as long as it is.
    There(Box<There>),
}

struct There {
    image: Image,
    user: Use,
}

impl<'s> NewFile<'s> {
    /// Opens the file of that name, locked and empty, or what a protocol has under that name.
    pub(crate) async fn create(session: &'s Session, name: &str) -> Result<Self> {
        let Some(path) = naming::path(name) else { return Self::take(session, name).await };
        let could_not = |error: std::io::Error| {
            let error = BlockError::system(format!("Could not create '{name}'"), error);
            Failure::new(words::explained(&error))
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
            Err(_) => opening.made(&**world, path).await.map_err(could_not)?,
            Ok(_) if reads_zero => opening.taken(&**world, path).await.map_err(could_not)?,
            Ok(_) => drop(opening),
        }
        session.check_called_off()?;
        if reads_zero {
            file.set_len(0).await.map_err(could_not)?;
        }
        Ok(Self { session, medium: Medium::File(file), name: name.to_owned(), reads_zero })
    }

    /// Takes what a protocol has under that name.
    async fn take(session: &'s Session, name: &str) -> Result<Self> {
        let driver =
            naming::protocol(name)?.get("driver").and_then(|driver| driver.as_str().map(str::to_owned));
        let source = Source { name, format: Some("raw"), image_opts: false };
        let image = session.open_plainly(source, How::WRITE).await.map_err(|failure| {
            let (driver, why) = (driver.unwrap_or_default(), failure.text.unwrap_or_default());
            Failure::new(format!(
                "Protocol driver '{driver}' does not support creating new images, so an existing image must be selected as the target; however, opening the given target as an existing image failed: {why}"
            ))
        })?;
        let user = image.attach(Demand::CHANGE)?;
        let file = Self {
            session,
            medium: Medium::There(Box::new(There { image, user })),
            name: name.to_owned(),
            reads_zero: false,
        };
        let first = file.len()?.min(SECTOR);
        file.write(0, Lease::zeroed(first as usize)).await?;
        Ok(file)
    }

    fn error(&self, error: std::io::Error) -> BlockError {
        BlockError::system(format!("Could not write to '{}'", self.name), error)
    }

    fn failed(&self, error: std::io::Error) -> Failure {
        self.error(error).into()
    }

    fn len(&self) -> Result<u64> {
        match &self.medium {
            Medium::File(file) => file.size().map_err(|error| self.failed(error)),
            Medium::There(there) => there.image.size(),
        }
    }

    async fn set_len(&self, len: u64) -> Result<()> {
        let keeps = match &self.medium {
            Medium::File(file) if self.reads_zero => {
                return file
                    .set_len(len)
                    .await
                    .map_err(|error| Failure::from(BlockError::system("Could not resize file", error)));
            }
            Medium::File(_) => "Cannot grow device files",
            Medium::There(..) => "Cannot grow NBD nodes",
        };
        if len <= self.len()? { Ok(()) } else { Err(Failure::new(keeps)) }
    }

    /// Writes bytes; answers the buffer.
    async fn write(&self, at: u64, bytes: Lease) -> block::Result<Lease> {
        match &self.medium {
            Medium::File(file) => {
                let (result, bytes) = file.write(at, bytes).await;
                result.map_err(|error| self.error(error)).map(|()| bytes)
            }
            Medium::There(there) => {
                let rq = Request::new(Op::Write, ByteRange::new(at, bytes.len() as u64));
                let (result, bytes) = seam::execute(&there.user.root.view(), rq, bytes).await;
                result.map(|()| bytes)
            }
        }
    }

    /// Makes it `len` bytes long, and makes room.
    pub(crate) async fn fill(&self, len: u64, room: Room) -> Result<()> {
        let unsupported = |mode| Err(Failure::new(format!("Unsupported preallocation mode '{mode}'")));
        match (&self.medium, room) {
            (Medium::There(..), Room::Reserved) => return unsupported("falloc"),
            (Medium::There(..), Room::Written) => return unsupported("full"),
            _ => {}
        }
        if len > self.len()? {
            self.set_len(len).await?;
        }
        self.make_room(ByteRange::between(0, len), room).await
    }

    async fn make_room(&self, range: ByteRange, room: Room) -> Result<()> {
        match (room, &self.medium) {
            (Room::Later, _) => Ok(()),
            // Whose room it is sees to it.
            (Room::Reserved, Medium::There(..)) => Ok(()),
            (Room::Reserved, Medium::File(file)) => {
                let mode = ZeroMode { may_unmap: false, only_fast: true };
                let made = file.write_zeroes(range, mode).await;
                made.map_err(|error| no_room(Preallocation::Falloc, &self.error(error)))
            }
            (Room::Written, _) => {
                self.write_zeroes(range, |error| no_room(Preallocation::Full, &error)).await
            }
        }
    }

    async fn write_zeroes(&self, range: ByteRange, tell: impl Fn(BlockError) -> Failure) -> Result<()> {
        let (mut rest, mut zeroes) = (range, Lease::zeroed(ZEROES));
        while !rest.is_empty() {
            self.session.check_called_off()?;
            let piece = rest.head(ZEROES as u64);
            let part = zeroes.split_to(piece.len() as usize);
            let mut part = self.write(piece.start(), part).await.map_err(&tell)?;
            part.join(zeroes);
            zeroes = part;
            rest = rest.skip(piece.len());
        }
        Ok(())
    }

    /// Writes an empty image; its header last.
    pub(crate) async fn put(&self, mut image: FreshImage, room: Room) -> Result<()> {
        self.set_len(image.len).await?;
        if !self.reads_zero {
            // What a new image leaves out of its tables is zero.
            let tables = ByteRange::between(0, image.tables_len.min(self.len()?));
            self.write_zeroes(tables, Failure::from).await?;
        }
        let made = self.make_room(ByteRange::between(0, image.len), room).await;
        made.map_err(|failure| failure.doing("Could not resize image: Failed to resize underlying file"))?;
        let header = image.pieces.pop();
        let tables = image.tables.into_iter().flatten();
        for (at, bytes) in image.pieces.into_iter().chain(tables).chain(header) {
            self.session.check_called_off()?;
            self.write(at.0, Lease::copy_of(&bytes)).await?;
        }
        Ok(())
    }

    /// It is made: whoever opens it next finds it free.
    pub(crate) async fn close(self) -> Result<()> {
        if let Medium::There(there) = self.medium {
            there.user.end().await?;
            there.image.close().await?;
        }
        Ok(())
    }
}

fn no_room(mode: Preallocation, error: &BlockError) -> Failure {
    Failure::new(format!("{}: {}", words::making_room(mode), words::cause(error)))
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
