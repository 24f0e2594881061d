//! The table: each verb that changes images, and kinds of them.

use qcow2::{DataFile, NewImage};
use sim::{Options, Rng, SimDisk, SimWorld};

use crate::host::{self, Command};
use crate::row::{Row, TOP};

const K: u64 = 1 << 10;
const SIZE: u64 = 128 * K;

/// All rows. Their names are theirs alone among all tables of the project.
pub fn all() -> Vec<Row> {
    [copies(), resizes()].into_iter().flatten().collect()
}

fn copies() -> Vec<Row> {
    vec![
        commit("a commit into a raw image", |rng| over_raw(rng, SIZE, 12), &[TOP], "raw"),
        commit("a commit into a shorter raw image", |rng| over_raw(rng, 50 * K, 9), &[TOP], "raw"),
        commit("a commit into a qcow2 image", |rng| over_qcow2(rng, SIZE, 12), &[TOP, "base"], "qcow2"),
        commit("a commit of an image with a data file", with_data_file, &[TOP], "raw"),
        commit(
            "a commit into a shorter qcow2 image",
            |rng| over_qcow2(rng, 50 * K, 9),
            &[TOP, "base"],
            "qcow2",
        ),
        Row {
            command: || Command {
                verb: "commit",
                flags: vec![("format", Some("qcow2")), ("base", Some("base"))],
                operands: vec![TOP],
            },
            after: |disk, before| host_has(&disk, "base", "raw", |found| found == before),
            ..commit("a commit past an image between", past_another, &[TOP, "other"], "raw")
        },
        Row {
            errors: 0.2,
            ..commit("a commit on a disk that fails", |rng| over_raw(rng, SIZE, 12), &[TOP], "raw")
        },
        rebase("a rebase onto another image", || rebased("other")),
        rebase("a rebase onto nothing", || rebased("")),
    ]
}

fn resizes() -> Vec<Row> {
    let resized = Row {
        name: "resize makes an image longer",
        command: || resize(&[], "300k"),
        disk: |rng| scribbled(rng, &[(TOP, image(9), "qcow2")]),
        images: &[TOP],
        after: |disk, _| host_has(&disk, TOP, "qcow2", |found| found.len() as u64 == 300 * K),
        sizes: &[300 * K],
        is_done: "",
        errors: 0.0,
    };
    vec![
        Row {
            name: "resize with preallocation",
            command: || resize(&[("preallocation", Some("metadata"))], "300k"),
            is_done: "Preallocation can only be used for growing images",
            ..resized
        },
        Row {
            name: "resize makes an image shorter",
            command: || resize(&[("shrink", None)], "40k"),
            after: |disk, _| host_has(&disk, TOP, "qcow2", |found| found.len() as u64 == 40 * K),
            sizes: &[40 * K],
            ..resized
        },
        resized,
    ]
}

fn commit(
    name: &'static str,
    disk: fn(&mut Rng) -> SimDisk,
    images: &'static [&'static str],
    base: &'static str,
) -> Row {
    let command = || Command { verb: "commit", flags: vec![("format", Some("qcow2"))], operands: vec![TOP] };
    let after: fn(SimDisk, &[u8]) -> Result<(), String> = match base {
        "raw" => |disk, before| committed(&disk, "raw", before),
        _ => |disk, before| committed(&disk, "qcow2", before),
    };
    Row { name, command, disk, images, after, sizes: &[], is_done: "", errors: 0.0 }
}

/// The image below has it all, and the overlay nothing.
fn committed(disk: &SimDisk, base: &'static str, before: &[u8]) -> Result<(), String> {
    host_has(disk, "base", base, |found| found == before)?;
    let map = Command {
        verb: "map",
        flags: vec![("format", Some("qcow2")), ("output", Some("json"))],
        operands: vec![TOP],
    };
    let world = calm(disk);
    match world.run(map.run(&world)) {
        (0, said) if !said.contains("\"depth\": 0") => Ok(()),
        (_, said) => Err(format!("the overlay is not empty: {said}")),
    }
}

fn rebase(name: &'static str, command: fn() -> Command) -> Row {
    let disk = |rng: &mut Rng| {
        let other: Vec<u8> = (0..SIZE).map(|_| rng.below(3) as u8).collect();
        let disk = over_raw(rng, SIZE, 11);
        let base = disk.bytes("base").unwrap();
        // Half of it is the same.
        let mixed = base
            .iter()
            .zip(&other)
            .enumerate()
            .map(|(at, (base, other))| if at / 9000 % 2 == 0 { *base } else { *other });
        disk.put("other", &mixed.collect::<Vec<_>>());
        disk
    };
    Row { name, command, disk, images: &[TOP], after: |_, _| Ok(()), sizes: &[], is_done: "", errors: 0.0 }
}

fn rebased(onto: &'static str) -> Command {
    let flags = vec![("format", Some("qcow2")), ("backing", Some(onto)), ("backing-format", Some("raw"))];
    Command { verb: "rebase", flags, operands: vec![TOP] }
}

fn resize(flags: &[(&'static str, Option<&'static str>)], size: &'static str) -> Command {
    let flags = [&[("format", Some("qcow2"))], flags].concat();
    Command { verb: "resize", flags, operands: vec![TOP, size] }
}

fn host_has(
    disk: &SimDisk,
    image: &str,
    format: &str,
    is_right: impl Fn(&[u8]) -> bool,
) -> Result<(), String> {
    let world = calm(disk);
    let found = world.run(host::read(&world, image, format))?;
    if is_right(&found) { Ok(()) } else { Err(format!("{image} does not hold what it should")) }
}

/// A world of its own for each look: engines that are gone have had theirs.
fn calm(disk: &SimDisk) -> SimWorld {
    SimWorld::with_disk(7, Options::calm(), disk.clone())
}

fn image(bits: u32) -> NewImage {
    NewImage::new(SIZE, bits)
}

fn over_raw(rng: &mut Rng, base: u64, bits: u32) -> SimDisk {
    let disk = scribbled(rng, &[]);
    let bytes: Vec<u8> = (0..base).map(|_| rng.below(256) as u8).collect();
    disk.put("base", &bytes);
    host::put(&disk, TOP, &image(bits).over("base", "raw"));
    written(rng, disk, &[(TOP, "qcow2")])
}

/// Over a raw image, its data in another file.
fn with_data_file(rng: &mut Rng) -> SimDisk {
    let disk = over_raw(rng, SIZE, 12);
    let data = DataFile { name: Some("data".to_owned()), raw: false };
    host::put(&disk, TOP, &NewImage { data_file: Some(data), ..image(12) }.over("base", "raw"));
    disk.put("data", &[]);
    written(rng, disk, &[(TOP, "qcow2")])
}

/// Over a short image over a raw one.
fn past_another(rng: &mut Rng) -> SimDisk {
    let disk = over_raw(rng, SIZE, 12);
    host::put(&disk, "other", &NewImage::new(50 * K, 9).over("base", "raw"));
    host::put(&disk, TOP, &image(12).over("other", "qcow2"));
    written(rng, disk, &[("other", "qcow2"), (TOP, "qcow2")])
}

fn over_qcow2(rng: &mut Rng, base: u64, bits: u32) -> SimDisk {
    let disk = scribbled(rng, &[("base", NewImage::new(base, bits), "qcow2")]);
    host::put(&disk, TOP, &image(bits).over("base", "qcow2"));
    written(rng, disk, &[(TOP, "qcow2")])
}

/// A disk with these images, written to here and there.
fn scribbled(rng: &mut Rng, images: &[(&str, NewImage, &str)]) -> SimDisk {
    let disk = SimDisk::new();
    for (path, image, _) in images {
        host::put(&disk, path, image);
    }
    let images: Vec<_> = images.iter().map(|(path, _, format)| (*path, *format)).collect();
    written(rng, disk, &images)
}

fn written(rng: &mut Rng, disk: SimDisk, images: &[(&str, &str)]) -> SimDisk {
    let world = SimWorld::with_disk(7, Options::calm(), disk);
    for (path, format) in images {
        world.run(host::scribble(&world, path, format, rng));
    }
    world.disk()
}
