//! What each verb does to an image that somebody else holds: refused and allowed as by qemu-img, in its words.

use std::path::Path;

use block::Permissions;
use io::real::RealWorld;
use io::{OpenOptions, World};

use super::{Answer, answer, lab, program, words};
use lab::Lab;

/// `F` is the format of `r`, which is held, and of `r2`; `ov` is an overlay on `r`. Left out is where we are more
/// careful (`create` over an image that is written to) or need less (`check` of an overlay opens nothing below).
const VERBS: &[&str] = &[
    "info -f F r",
    "info -f F -U r",
    "info -f qcow2 --backing-chain ov",
    "map -f F r",
    "map -f qcow2 ov",
    "map -f qcow2 -U ov",
    "measure -f F -O qcow2 r",
    "compare -f F -F F r r2",
    "compare -f qcow2 -F F ov r2",
    "bench -f F -c 1 r",
    "bench -w -f F -c 1 r",
    "convert -f F -O raw r o",
    "convert -U -f F -O raw r o",
    "convert -f qcow2 -O raw ov o",
    "convert -f F -n -O F r2 r",
    "dd -f F -O raw if=r of=o",
    "create -f qcow2 -b r -F F o",
    "rebase -f qcow2 -F F -b r2 ov",
    "rebase -f qcow2 -F F -b r ov",
    "rebase -u -f qcow2 -F F -b r ov",
    "commit -f qcow2 ov",
    "resize -f F r 1M",
    "resize -f F r 2M",
];
/// Those that only qcow2 has.
const TABLES: &[&str] = &[
    "check -f F r",
    "check -r all -f F r",
    "snapshot -l r",
    "snapshot -c a r",
    "amend -f F -o size=1M r",
    "bitmap -f F --add r b",
];
const FILES: &[&str] = &["r", "r2", "ov"];
const READ: Permissions = Permissions::CONSISTENT_READ;

#[test]
fn raw_images_in_use_are_refused_as_by_qemu_img() {
    table("raw_images_in_use_are_refused_as_by_qemu_img", "raw", VERBS.iter());
}

#[test]
fn qcow2_images_in_use_are_refused_as_by_qemu_img() {
    table("qcow2_images_in_use_are_refused_as_by_qemu_img", "qcow2", VERBS.iter().chain(TABLES));
}

/// Somebody reads `ov`, and it would read as something else.
#[test]
fn what_others_read_is_not_changed_by_a_commit_past_it() {
    let test = "what_others_read_is_not_changed_by_a_commit_past_it";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    let link = lab.path("bin/qemu-img");
    std::os::unix::fs::symlink(lab::MILLPOND, &link).unwrap();
    let (dir, world) = (lab.path("dir"), RealWorld::new());
    std::fs::create_dir(&dir).unwrap();
    let run = |name: &str, line: &str| answer(&mut program(name, &dir, &lab), &words(line));
    for made in ["-f raw r 1M", "-f qcow2 -b r -F raw ov", "-f qcow2 -b ov -F qcow2 top"] {
        assert_eq!(run("qemu-img", &format!("create -q {made}")).status, Some(0), "{made}");
    }
    assert_eq!(run("qemu-io", "-f qcow2 -c 'write -P 3 0 64k' top").status, Some(0));
    let commit = "commit -f qcow2 -b r top";
    let both = ["qemu-img", link.to_str().unwrap()];
    let [theirs, ours] =
        both.map(|name| held(&world, &dir.join("ov"), (READ, Permissions::ALL), || run(name, commit)));
    assert_eq!((theirs.status, &theirs), (Some(1), &ours));
    let reads = |image: &str, byte: u8| {
        let read = run("qemu-io", &format!("-r -f {image} -c 'read -P {byte} 0 64k'"));
        assert!(read.status == Some(0) && !read.out.contains("failed"), "{image}: {read:?}");
    };
    reads("raw r", 0);
    assert_eq!(run(link.to_str().unwrap(), commit).status, Some(0));
    reads("raw r", 3);
    reads("qcow2 top", 3);
}

fn table<'a>(test: &str, format: &str, verbs: impl Iterator<Item = &'a &'a str>) {
    let Some(lab) = Lab::new(test, &["qemu-img"]) else { return };
    let link = lab.path("bin/qemu-img");
    std::os::unix::fs::symlink(lab::MILLPOND, &link).unwrap();
    let (new, world) = (lab.path("new"), RealWorld::new());
    std::fs::create_dir(&new).unwrap();
    for made in [format!("{format} r 1M"), format!("{format} r2 1M"), format!("qcow2 -b r -F {format} ov")] {
        let made = words(&format!("create -q -f {made}"));
        assert_eq!(answer(&mut program("qemu-img", &new, &lab), &made).status, Some(0), "{made:?}");
    }
    let (mut differences, mut refused) = (Vec::new(), 0);
    for verb in verbs {
        let arguments = words(&verb.replace(" F ", &format!(" {format} ")));
        for (uses, shares) in holds() {
            let run = |name: &str| {
                let dir = lab.path("dir");
                let _ = std::fs::remove_dir_all(&dir);
                std::fs::create_dir(&dir).unwrap();
                for file in FILES {
                    std::fs::copy(new.join(file), dir.join(file)).unwrap();
                }
                held(&world, &dir.join("r"), (uses, shares), || {
                    answer(&mut program(name, &dir, &lab), &arguments)
                })
            };
            let (theirs, ours) = (run("qemu-img"), run(link.to_str().unwrap()));
            refused += usize::from(theirs.err.contains("lock"));
            if theirs != ours {
                differences.push(format!(
                    "{arguments:?}, used {uses:?}, shared {shares:?}\n  theirs {theirs:?}\n  ours   {ours:?}"
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(refused > 10, "only {refused} were refused");
}

/// One permission used, or one not shared. That nobody else may read, no program asks.
fn holds() -> Vec<(Permissions, Permissions)> {
    let each = Permissions::NAMES.iter().map(|(one, _)| *one);
    let used = each.clone().map(|one| (one, Permissions::ALL));
    let unshared = each.filter(|one| *one != READ);
    used.chain(unshared.map(|one| (Permissions::NONE, !one))).collect()
}

fn held(
    world: &RealWorld,
    path: &Path,
    (uses, shares): (Permissions, Permissions),
    run: impl FnOnce() -> Answer,
) -> Answer {
    let file = world.block_on(world.open(path, OpenOptions { write: true, ..Default::default() })).unwrap();
    file.lock(uses, shares).unwrap();
    run()
}
