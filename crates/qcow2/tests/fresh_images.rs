//! Fresh images and edited headers, as QEMU's tools see them.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its images fails")]
#![allow(dead_code, reason = "the laboratory is shared with other tests")]

mod lab;
mod reader;

use std::path::Path;

use lab::Lab;
use qcow2::{Backing, Header, HeaderEdit, NewImage, cache};
use serde_json::Value;

fn write(path: &Path, image: &NewImage) {
    use std::os::unix::fs::FileExt;
    let fresh = image.bytes().unwrap();
    let file = std::fs::File::create(path).unwrap();
    file.set_len(fresh.len).unwrap();
    for (at, bytes) in fresh.pieces {
        file.write_all_at(&bytes, at.0).unwrap();
    }
}

fn edit(path: &Path, edit: &HeaderEdit) {
    let mut bytes = std::fs::read(path).unwrap();
    let first = Header::needed(&bytes).unwrap();
    for write in edit.writes(&bytes[..first]).unwrap() {
        bytes[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    }
    std::fs::write(path, bytes).unwrap();
}

fn info(lab: &Lab, image: &str) -> Value {
    serde_json::from_str(&lab.img(&["info", "--output=json", image])).unwrap()
}

#[test]
fn fresh_images_are_clean_and_can_be_written() {
    let Some(mut lab) = Lab::new("fresh_images_are_clean_and_can_be_written") else { return };
    for bits in [9, 10, 12, 14, 16, 18, 21] {
        for size in [0, 1 << 20, (5 << 30) + 512, 1 << 36] {
            write(&lab.path("fresh.qcow2"), &NewImage::new(size, bits));
            lab.img(&["check", "-q", "fresh.qcow2"]);
            let info = info(&lab, "fresh.qcow2");
            assert_eq!(info["virtual-size"], size, "2^{bits}");
            assert_eq!(info["cluster-size"], 1u64 << bits);
        }
        write(&lab.path("fresh.qcow2"), &NewImage::new(8 << 20, bits));
        lab.scribble("fresh.qcow2", 8 << 20, 1 << bits, 30);
        lab.img(&["check", "-q", "fresh.qcow2"]);
        lab.compare("fresh.qcow2");
    }
}

#[test]
fn a_fresh_image_is_what_qemu_writes() {
    let Some(lab) = Lab::new("a_fresh_image_is_what_qemu_writes") else { return };
    lab.img(&["create", "-q", "-f", "raw", "base.raw", "1G"]);
    for backing in [false, true] {
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        let mut image = NewImage::new(1 << 30, 16);
        if backing {
            args.extend(["-b", "base.raw", "-F", "raw"]);
            image = image.over("base.raw", "raw");
        }
        lab.img(&[&args[..], &["theirs.qcow2", "1G"]].concat());
        write(&lab.path("ours.qcow2"), &image);
        let theirs = std::fs::read(lab.path("theirs.qcow2")).unwrap();
        let ours = std::fs::read(lab.path("ours.qcow2")).unwrap();
        assert!(ours == theirs, "backing: {backing}");
    }
}

#[test]
fn the_backing_link_is_what_qemu_follows() {
    let Some(lab) = Lab::new("the_backing_link_is_what_qemu_follows") else { return };
    lab.img(&["create", "-q", "-f", "raw", "base.raw", "1M"]);
    lab.img(&["create", "-q", "-f", "qcow2", "other.qcow2", "1M"]);
    for (bits, extension) in [(16, true), (16, false), (10, false)] {
        let path = lab.path("top.qcow2");
        let mut image = NewImage::new(1 << 20, bits).over("base.raw", "raw");
        if extension {
            image.extensions.push(cache::extension(&" ".repeat(4096)).unwrap());
            image.autoclear = cache::AUTOCLEAR;
        }
        write(&path, &image);
        let seen = info(&lab, "top.qcow2");
        assert_eq!(
            (&seen["backing-filename"], &seen["backing-filename-format"]),
            (&"base.raw".into(), &"raw".into())
        );
        let other = Backing { name: "other.qcow2".to_owned(), format: Some("qcow2".to_owned()) };
        edit(&path, &HeaderEdit::Backing(other));
        let seen = info(&lab, "top.qcow2");
        assert_eq!(
            (&seen["backing-filename"], &seen["backing-filename-format"]),
            (&"other.qcow2".into(), &"qcow2".into())
        );
        edit(&path, &HeaderEdit::NoBacking);
        assert_eq!(info(&lab, "top.qcow2").get("backing-filename"), None);
        lab.img(&["check", "-q", "top.qcow2"]);
    }
}

#[test]
fn a_writer_that_does_not_know_our_extension_disarms_it() {
    let Some(lab) = Lab::new("a_writer_that_does_not_know_our_extension_disarms_it") else { return };
    let path = lab.path("cache.qcow2");
    let json = r#"{"source":"nbd://host/debian"}"#;
    let image = NewImage {
        extensions: vec![cache::extension(json).unwrap()],
        autoclear: cache::AUTOCLEAR,
        ..NewImage::new(1 << 20, 16)
    };
    write(&path, &image);
    let header = || Header::parse(&std::fs::read(&path).unwrap()[..1 << 16]).unwrap();
    assert_eq!(cache::read(&header()).unwrap(), Some(json));
    lab.img(&["check", "-q", "cache.qcow2"]);
    assert_eq!(cache::read(&header()).unwrap(), Some(json), "reading changes nothing");
    lab.io("cache.qcow2", &["write -q -P 1 0 512".to_owned()]);
    assert_eq!(cache::read(&header()).unwrap(), None);
    // It kept the extension, so that it can be armed again.
    edit(&path, &cache::edit(json).unwrap());
    assert_eq!(cache::read(&header()).unwrap(), Some(json));
    lab.img(&["check", "-q", "cache.qcow2"]);
}
