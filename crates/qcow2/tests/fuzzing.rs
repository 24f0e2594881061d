//! The fuzz entry points with random bytes and with mutated images, handmade ones and QEMU's.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its images fails")]

mod handmade;
#[allow(dead_code, reason = "shared with the comparison tests, which use more of it")]
mod lab;
#[allow(dead_code, reason = "shared with the comparison tests, which use more of it")]
mod reader;

use std::sync::OnceLock;

use handmade::{COPIED, DATA_FILE, EXTENDED_L2, Handmade};
use lab::Lab;
use proptest::prelude::*;
use qcow2::fuzz;

/// A handmade image of each kind with entries of every kind.
fn handmade(version: u32, cluster_bits: u32, features: u64) -> Vec<u8> {
    let mut image = Handmade::new(version, cluster_bits, 3 << (2 * cluster_bits - 4), features);
    let table = image.grow();
    image.l1(0, table | COPIED);
    for index in 0..20 {
        let at = image.grow();
        let entry = match index % 5 {
            0 => at | COPIED,
            1 if version == 3 && features == 0 => at | 1,
            2 if features & DATA_FILE == 0 => 1 << 62 | (at + 17),
            3 => 0,
            _ => at,
        };
        image.l2(table, index, entry, 0x00ff_0000_0000_ff00 >> index);
    }
    image.bytes
}

/// Small images: all handmade, and QEMU's where its tools are there.
fn images() -> &'static [Vec<u8>] {
    static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let mut images = vec![
            handmade(2, 9, 0),
            handmade(3, 12, 0),
            handmade(3, 14, EXTENDED_L2),
            handmade(3, 16, DATA_FILE),
        ];
        images.extend(from_qemu());
        images
    })
}

fn from_qemu() -> Vec<Vec<u8>> {
    let Some(mut lab) = Lab::new("fuzzing of QEMU's images") else { return Vec::new() };
    lab.raw("source.raw", 200_000);
    [
        "compat=0.10,cluster_size=512",
        "cluster_size=4k,compression_type=zstd",
        "cluster_size=16k,extended_l2=on",
    ]
    .iter()
    .map(|options| {
        let create = ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options];
        lab.img(&[&create[..], &["source.raw", "image.qcow2"]].concat());
        lab.scribble("image.qcow2", 199_680, 4096, 8);
        std::fs::read(lab.path("image.qcow2")).unwrap()
    })
    .collect()
}

/// One change of an image; places are taken modulo its length.
#[derive(Clone, Debug)]
enum Mutation {
    Byte(usize, u8),
    /// A big-endian word, aligned as those of the tables are.
    Word(usize, u64),
    Truncate(usize),
}

impl Mutation {
    fn apply(&self, image: &mut Vec<u8>) {
        let len = image.len().max(1);
        match *self {
            Self::Byte(at, byte) => image[at % len..].first_mut().into_iter().for_each(|b| *b = byte),
            Self::Word(at, word) => {
                let at = (at % len) & !7;
                image[at..].iter_mut().zip(word.to_be_bytes()).for_each(|(b, new)| *b = new);
            }
            Self::Truncate(at) => image.truncate(at % len),
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let word = prop_oneof![
        any::<u64>(),
        (0u32..64).prop_map(|bit| 1 << bit),
        // Offsets that may be clusters of the file, with flags above.
        (0u64..64, any::<u16>()).prop_map(|(cluster, flags)| cluster << 12 | u64::from(flags) << 48),
    ];
    prop_oneof![
        // The header is small, and everything depends on it.
        2 => (0usize..256, any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        2 => any::<(usize, u8)>().prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        4 => (any::<usize>(), word).prop_map(|(at, word)| Mutation::Word(at, word)),
        1 => any::<usize>().prop_map(Mutation::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_headers(mut bytes in prop::collection::vec(any::<u8>(), 0..700), version in 2u8..4) {
        // Without these hardly anything would get beyond the first check.
        let start = [&b"QFI\xfb\0\0\0"[..], &[version]].concat();
        bytes.iter_mut().zip(start).for_each(|(byte, start)| *byte = start);
        fuzz::header(&bytes);
        fuzz::tables(&bytes);
    }

    #[test]
    fn mutated_images(which in any::<usize>(), mutations in prop::collection::vec(mutation(), 1..12)) {
        let mut image = images()[which % images().len()].clone();
        mutations.iter().for_each(|mutation| mutation.apply(&mut image));
        fuzz::header(&image);
        fuzz::tables(&image);
    }

    #[test]
    fn broken_images_are_checked_and_repaired(
        which in any::<usize>(),
        mutations in prop::collection::vec(mutation(), 0..6),
    ) {
        let mut image = images()[which % images().len()].clone();
        mutations.iter().for_each(|mutation| mutation.apply(&mut image));
        fuzz::check(&image);
    }

    #[test]
    fn random_directories(count in 0u8..4, bytes in prop::collection::vec(prop_oneof![4 => Just(0), 1 => any::<u8>()], 0..300)) {
        fuzz::directories(&[&[count], &bytes[..]].concat());
    }

    #[test]
    fn random_streams(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz::decompress(&bytes);
    }

    #[test]
    fn mutated_streams(zstd: bool, text in "[a-f]{0,3000}", changes in prop::collection::vec(any::<(usize, u8)>(), 0..6)) {
        let mut bytes = vec![u8::from(zstd)];
        bytes.extend(if zstd { zstd::encode_all(text.as_bytes(), 1).unwrap() } else { deflate(text.as_bytes()) });
        let len = bytes.len();
        changes.iter().for_each(|(at, byte)| bytes[1 + at % (len - 1)] = *byte);
        fuzz::decompress(&bytes);
    }

    #[test]
    fn random_names(name in r#"(json:|nbd:|file:)?[a-c{}\[\]"':,./1 ]{0,60}"#) {
        fuzz::name(name.as_bytes());
    }
}

fn cases() -> u32 {
    if std::env::var_os("MILLPOND_TEST_FULL").is_some() { 20_000 } else { 1_000 }
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut out = vec![0; compressor.deflate_compress_bound(bytes.len())];
    let len = compressor.deflate_compress(bytes, &mut out).unwrap();
    out.truncate(len);
    out
}

#[test]
fn unchanged_images_are_read() {
    for image in images() {
        qcow2::Header::parse(image).unwrap();
        fuzz::tables(image);
    }
}

/// What fuzzing has found: images of their place in [`images`], and bytes that were set in them.
#[test]
fn what_was_found_before() {
    let found: &[(usize, &[(usize, u8)])] = &[
        // The L1 table leaves the file: what lies in its range before the end must stay as it is.
        (0, &[(37, 1)]),
        (0, &[(38, 6)]),
        // A snapshot table beyond the end of the file, all of it incomplete: another one takes its place.
        (1, &[(62, 1), (65, 1)]),
        // Refcount blocks beyond the end of the file, which others take the place of.
        (1, &[(42, 1), (55, 1)]),
        // Rooms for zeros that are counted after all, one of them in the refcount block.
        (5, &[(38, 18)]),
    ];
    for (number, bytes) in found {
        // The later ones are QEMU's.
        let Some(mut image) = images().get(*number).cloned() else { continue };
        bytes.iter().for_each(|(at, byte)| image[*at] = *byte);
        fuzz::check(&image);
    }
}
