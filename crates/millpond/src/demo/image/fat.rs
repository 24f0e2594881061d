//! A FAT image, written by ourselves, for machines without mke2fs.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Component, Path};

use block::{BlockError, Result};
use fatfs::{Dir, FileSystem, FormatVolumeOptions, FsOptions, ReadWriteSeek};

use super::super::worker::CallOff;
use super::files::Chosen;
use super::pages::Pages;

/// Makes the image.
pub(super) fn make(files: &[Chosen], image: &Path, size: u64, call_off: &CallOff) -> Result<()> {
    let failed = |e| BlockError::system(format!("cannot write the file system to '{}'", image.display()), e);
    let mut disk = Pages::new(create(image, size).map_err(failed)?, size);
    let label = FormatVolumeOptions::new().volume_label(*b"MILLPOND   ");
    fatfs::format_volume(&mut disk, label).map_err(failed)?;
    disk.rewind().map_err(failed)?;
    let volume = FileSystem::new(&mut disk, FsOptions::new()).map_err(failed)?;
    for file in files {
        call_off.check()?;
        if let Ok(mut from) = File::open(&file.path) {
            add(&volume.root_dir(), &file.inside, &mut from).map_err(failed)?;
        }
    }
    volume.unmount().map_err(failed)?;
    disk.save().map_err(failed)
}

fn create(image: &Path, size: u64) -> io::Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(image)?;
    file.set_len(size)?;
    Ok(file)
}

fn add<T: ReadWriteSeek>(root: &Dir<'_, T>, inside: &Path, from: &mut File) -> io::Result<()> {
    // A file and a directory whose names differ only in what FAT does not tell apart: the first one has it.
    let Ok(mut to) = place(root, inside) else { return Ok(()) };
    // Two files: the last one stays.
    to.truncate()?;
    let mut buf = vec![0; 64 << 10];
    loop {
        match io::Read::read(from, &mut buf)? {
            0 => return to.flush(),
            len => to.write_all(&buf[..len])?,
        }
    }
}

fn place<'a, T: ReadWriteSeek>(root: &Dir<'a, T>, inside: &Path) -> io::Result<fatfs::File<'a, T>> {
    let names: Vec<String> = inside.components().map(allowed).collect();
    let (name, directories) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
    let mut directory = root.clone();
    for name in directories {
        directory = directory.create_dir(name)?;
    }
    directory.create_file(name)
}

/// A name that FAT can hold.
fn allowed(component: Component<'_>) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "-_.+,;=[]()".contains(c) { c } else { '_' };
    let name: String = component.as_os_str().to_string_lossy().chars().map(fits).take(200).collect();
    // FAT drops dots at the end.
    if name.ends_with('.') { format!("{name}_") } else { name }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn files_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<u8> = (0..100_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let from = dir.path().join("from");
        std::fs::write(&from, &contents).unwrap();
        let chosen = |inside: &str| Chosen { path: from.clone(), inside: inside.into(), len: 100_000 };
        let names = ["a/b:c/Long file name.txt", "dot.", "a/LONG", "a/long", "A/DIR/x", "a/dir", "DOT._/y"];
        let files = names.map(chosen);
        let image = dir.path().join("image");
        make(&files, &image, 64 << 20, &CallOff::default()).unwrap();
        let volume = FileSystem::new(File::open(&image).map(ReadOnly).unwrap(), FsOptions::new()).unwrap();
        for name in ["a/b_c/Long_file_name.txt", "dot._", "a/long", "a/dir/x"] {
            let mut read = Vec::new();
            volume.root_dir().open_file(name).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == contents, "{name}");
        }
    }

    /// A disk that swallows what it is told (fatfs notes that it was mounted).
    struct ReadOnly(File);

    impl Read for ReadOnly {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Write for ReadOnly {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for ReadOnly {
        fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
}
