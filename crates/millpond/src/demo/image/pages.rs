//! A file behind pages in memory: fatfs changes its tables four bytes at a time, which is slow as system calls.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;
/// Pages in memory at most: 32 MiB.
const PAGES_MAX: usize = 8192;

/// A file of fixed length; [`Write::flush`] alone writes nothing, [`Pages::save`] does.
pub(super) struct Pages {
    file: File,
    len: u64,
    at: u64,
    pages: BTreeMap<u64, Page>,
}

struct Page {
    bytes: Box<[u8; PAGE as usize]>,
    changed: bool,
}

impl Pages {
    /// `len` must be a multiple of a page.
    pub(super) fn new(file: File, len: u64) -> Self {
        Self { file, len, at: 0, pages: BTreeMap::new() }
    }

    /// Writes what has been changed to the file.
    pub(super) fn save(&mut self) -> io::Result<()> {
        for (number, page) in std::mem::take(&mut self.pages) {
            if page.changed {
                self.file.write_all_at(&page.bytes[..], number * PAGE)?;
            }
        }
        Ok(())
    }

    /// The page at the position, where in it that is, and how many of `wanted` bytes it has.
    fn page(&mut self, wanted: usize) -> io::Result<(&mut Page, usize, usize)> {
        let (number, from) = (self.at / PAGE, (self.at % PAGE) as usize);
        let len = wanted.min(PAGE as usize - from).min(self.len.saturating_sub(self.at) as usize);
        if self.pages.len() >= PAGES_MAX && !self.pages.contains_key(&number) {
            self.save()?;
        }
        let page = match self.pages.entry(number) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let mut bytes = Box::new([0; PAGE as usize]);
                if number * PAGE < self.len {
                    self.file.read_exact_at(&mut bytes[..], number * PAGE)?;
                }
                free.insert(Page { bytes, changed: false })
            }
        };
        self.at += len as u64;
        Ok((page, from, len))
    }
}

impl Read for Pages {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (page, from, len) = self.page(buf.len())?;
        buf[..len].copy_from_slice(&page.bytes[from..from + len]);
        Ok(len)
    }
}

impl Write for Pages {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (page, from, len) = self.page(buf.len())?;
        page.bytes[from..from + len].copy_from_slice(&buf[..len]);
        page.changed |= len > 0;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Pages {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_like_the_file() {
        let len = PAGE * (PAGES_MAX as u64 + 100);
        let [plain, behind] = [(), ()].map(|()| tempfile::tempfile().unwrap());
        plain.set_len(len).unwrap();
        behind.set_len(len).unwrap();
        let (mut model, mut pages) = (plain, Pages::new(behind.try_clone().unwrap(), len));
        for step in 0..30_000_u64 {
            let at = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (len - 9000);
            let bytes = vec![step as u8 | 1; (step % 9000) as usize];
            model.seek(SeekFrom::Start(at)).unwrap();
            pages.seek(SeekFrom::Start(at)).unwrap();
            match step % 3 {
                0 => {
                    let mut read = [bytes.clone(), bytes];
                    model.read_exact(&mut read[0]).unwrap();
                    pages.read_exact(&mut read[1]).unwrap();
                    assert!(read[0] == read[1], "step {step}");
                }
                _ => {
                    model.write_all(&bytes).unwrap();
                    pages.write_all(&bytes).unwrap();
                }
            }
        }
        pages.save().unwrap();
        let read = |file: &File| {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(read(&model) == read(&behind));
        assert_eq!((pages.seek(SeekFrom::End(-3)).unwrap(), pages.write(&[1; 9]).unwrap()), (len - 3, 3));
        assert_eq!(pages.write(&[1; 9]).unwrap(), 0);
    }
}
