//! Names of files on the simulated disk. There are no symbolic links, and nobody owns anything; a folder is there when
//! a file lies in it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::io::LocalFut;
use ::io::folders::{About, FileId, Folders, Kind, NewFile, Owner};
use block::ByteRange;

use super::control::OpKind;
use super::inode::{Image, Inode};
use super::{SimDisk, os_error};
use crate::locked;

impl SimDisk {
    /// Takes the time of a change; fails when the power is gone.
    async fn change_names(&self) -> io::Result<()> {
        let latency = locked(&self.0).latency();
        ::io::sleep(latency).await;
        if locked(&self.0).dead { Err(os_error(block::Errno::IO)) } else { Ok(()) }
    }
}

impl Folders for SimDisk {
    fn list<'a>(&'a self, folder: &'a Path) -> LocalFut<'a, io::Result<Vec<PathBuf>>> {
        Box::pin(async move {
            let names = self.names();
            let inside = names.iter().filter_map(|name| name.strip_prefix(folder).ok()?.components().next());
            let mut found: Vec<_> = inside.map(|first| folder.join(first)).collect();
            found.dedup();
            Ok(found)
        })
    }

    fn about<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<About>> {
        Box::pin(async move {
            let state = locked(&self.0);
            let (modified, owner) = (Duration::ZERO, Owner::default());
            let about = |kind, len, id| About { kind, len, modified, owner, id };
            if let (Some(inode), Some(number)) = (state.inode_of(path), state.names.get(path)) {
                return Ok(about(Kind::File, inode.live.len, FileId(1, *number as u64)));
            }
            match state.names.keys().any(|name| name.starts_with(path)) {
                true => Ok(about(Kind::Folder, 0, FileId::default())),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }

    fn resolve<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<PathBuf>> {
        Box::pin(async move { self.about(path).await.map(|_| path.to_owned()) })
    }

    fn make<'a>(&'a self, _folder: &'a Path, _mode: u32) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn set_mode<'a>(&'a self, _path: &'a Path, _mode: u32) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn set_owner<'a>(&'a self, _path: &'a Path, _owner: Owner) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn link<'a>(&'a self, path: &'a Path, name: &'a Path) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async move {
            self.change_names().await?;
            let mut state = locked(&self.0);
            let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(name.to_owned(), inode);
            state.changed(inode, OpKind::Write, ByteRange::default());
            Ok(())
        })
    }

    fn put<'a>(&'a self, path: &'a Path, file: NewFile) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async move {
            self.change_names().await?;
            let mut state = locked(&self.0);
            if !file.replace && state.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let mut image = Image { len: file.len, ..Image::default() };
            for (at, bytes) in &file.parts {
                image.bytes.write(*at, bytes);
            }
            let inode = state.put(path, Inode::durable(image));
            state.changed(inode, OpKind::Write, ByteRange::new(0, file.len));
            Ok(())
        })
    }

    fn remove<'a>(&'a self, path: &'a Path) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async move {
            self.change_names().await?;
            let mut state = locked(&self.0);
            let inode = state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
            state.changed(inode, OpKind::Discard, ByteRange::default());
            Ok(())
        })
    }

    fn remove_folder<'a>(&'a self, _folder: &'a Path) -> LocalFut<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
