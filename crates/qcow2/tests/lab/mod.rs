//! Images made by QEMU's tools, compared with what the crate makes of them.

mod images;

use std::ops::{Deref, DerefMut};

use block::{ByteRange, Place};
use serde_json::Value;

use crate::reader::Disk;
use images::Images;

pub(crate) struct Lab(Images);

impl Lab {
    /// A fresh directory; `None` where QEMU's tools are missing.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Images::with_tools(&format!("qcow2 {test}"), &["qemu-img", "qemu-io"]).map(Self)
    }

    /// Reads `image` through the crate, in pieces of several sizes, and compares with qemu-img's raw copy.
    pub(crate) fn compare(&self, image: &str) -> Disk {
        let expected = self.raw_copy(image);
        for piece in [usize::MAX >> 1, 1 << 20, 12_345] {
            let disk = Disk::open(self.dir(), image, "qcow2").unwrap();
            let got = disk.read_all(piece).unwrap_or_else(|error| panic!("{image}: {error}"));
            assert_eq!(got.len(), expected.len(), "{image}: size");
            let wrong = got.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{image}: first wrong byte, read in pieces of {piece}");
        }
        Disk::open(self.dir(), image, "qcow2").unwrap()
    }

    /// Compares where the crate says that the bytes of an image without a backing file are with where
    /// `qemu-img map` says so.
    pub(crate) fn compare_map(&self, image: &str) {
        let map = self.img(&["map", "-f", "qcow2", "--output=json", image]);
        let map: Vec<Value> = serde_json::from_str(&map).unwrap();
        let disk = Disk::open(self.dir(), image, "qcow2").unwrap();
        for (range, place) in disk.image().runs().unwrap() {
            for extent in &map {
                let number = |key: &str| extent[key].as_u64().unwrap();
                let flag = |key: &str| extent[key].as_bool().unwrap();
                let common = range.intersection(ByteRange::new(number("start"), number("length")));
                if common.is_empty() {
                    continue;
                }
                let agrees = match place {
                    Place::Special => flag("compressed"),
                    Place::Zero | Place::Unallocated => flag("zero") && !flag("data"),
                    // QEMU also looks for holes in the image file.
                    Place::Data { offset, .. } => {
                        let at = offset + (common.start() - range.start());
                        !flag("compressed") && number("offset") + (common.start() - number("start")) == at
                    }
                };
                assert!(agrees, "{image}: {range:?} {place:?}, but qemu-img says {extent}");
            }
        }
    }
}

impl Deref for Lab {
    type Target = Images;
    fn deref(&self) -> &Images {
        &self.0
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Images {
        &mut self.0
    }
}
