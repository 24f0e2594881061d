//! The corpus of hand-broken images: each has the verdict that its line states, here and (in numbers) from qemu-img.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test uses a part of it")]
mod checking;
mod corpus;
#[path = "lab/images.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod images;

use std::process::Command;

use block::BlockError;
use corpus::Case;
use images::Images;
use qcow2::check::{Found, Repair};
use qcow2::{Geometry, Header, L1Table};

/// What opening the image comes to.
fn open(file: &[u8]) -> Result<(), BlockError> {
    let needed = Header::needed(file)?.min(file.len());
    let geometry = Geometry::new(&Header::parse(&file[..needed])?);
    let l1 = geometry.l1_range(file.len() as u64)?;
    L1Table::parse(&geometry, &file[l1.start() as usize..l1.end() as usize]).map(drop)
}

fn numbers(found: &Found) -> String {
    format!("{} {} {}", found.corruptions, found.leaks, found.check_errors)
}

/// What we make of it, as `cases.txt` has it.
fn verdict(image: &[u8]) -> String {
    let opened = open(image);
    let checked = checking::check(&mut image.to_vec(), Repair::Nothing);
    let found = match (opened, checked) {
        (Err(error), Err(_)) => return format!("refused: {error}"),
        (Ok(()), Err(error)) if is_mended(image) => return format!("mendable: {error}"),
        (Ok(()), Err(error)) => return format!("uncheckable: {error}"),
        (_, Ok(outcome)) => numbers(&outcome.found),
    };
    let mut repaired = image.to_vec();
    match checking::check(&mut repaired, Repair::All) {
        Err(error) => format!("found {found}, unrepaired: {error}"),
        Ok(outcome) => {
            let again = checking::check(&mut repaired, Repair::Nothing).unwrap();
            assert_eq!(
                numbers(&outcome.found),
                numbers(&again.found),
                "what a repair leaves is what is found"
            );
            format!("found {found}, left {}", numbers(&again.found))
        }
    }
}

/// Whether a repair of everything leaves a whole image.
fn is_mended(image: &[u8]) -> bool {
    let mut repaired = image.to_vec();
    checking::check(&mut repaired, Repair::All).is_ok() && verdict(&repaired) == "found 0 0 0, left 0 0 0"
}

/// Whether the stated verdict is the one that was found; texts may be the beginning of it.
fn is_stated(stated: &str, found: &str) -> bool {
    match stated.split_once(": ") {
        Some((kind, text)) => found.split_once(": ").is_some_and(|(k, t)| k == kind && t.contains(text)),
        None => stated == found,
    }
}

#[test]
fn each_has_the_verdict_that_its_line_states() {
    let cases = corpus::cases();
    assert!(cases.len() >= 40);
    let mut wrong = Vec::new();
    for case in &cases {
        let found = verdict(&case.image);
        if !is_stated(&case.verdict, &found) {
            wrong.push(format!("{} | {} | {found}", case.name, case.verdict));
        }
    }
    assert!(wrong.is_empty(), "case | stated | found\n{}", wrong.join("\n"));
}

#[test]
fn the_whole_ones_are_whole() {
    for name in ["plain", "v2", "snapshots", "bitmaps", "compressed", "extended", "datafile", "backing"] {
        assert_eq!(verdict(&corpus::whole(name)), "found 0 0 0, left 0 0 0", "{name}");
    }
}

/// What qemu-img says of it: whether it opens, and what it finds.
fn theirs(lab: &Images, case: &Case) -> (bool, Option<String>) {
    std::fs::write(lab.path("disk"), &case.image).unwrap();
    let info = ["info", "-f", "qcow2", "--output=json", "disk"];
    let info = Command::new("qemu-img").args(info).current_dir(lab.dir()).output().unwrap();
    let (found, ..) = checking::qemu(&lab.path("disk"), &[]);
    (info.status.success(), found.as_ref().map(numbers))
}

/// Where we and QEMU differ, in the words of `cases.txt`.
fn difference(lab: &Images, case: &Case) -> Option<String> {
    let (opens, theirs) = theirs(lab, case);
    let ours = case.verdict.strip_prefix("found ").and_then(|verdict| verdict.split_once(','));
    let ours = ours.map(|(found, _)| found);
    match theirs {
        Some(theirs) if Some(&*theirs) == ours => None,
        Some(theirs) => Some(format!("finds {theirs}")),
        None if ours.is_some() => Some("does not check it".to_owned()),
        None if opens != case.verdict.starts_with("refused") => None,
        None => Some(if opens { "opens it" } else { "does not open it" }.to_owned()),
    }
}

#[test]
fn qemu_says_the_same_but_where_it_is_stated() {
    let tools = ["qemu-img"];
    let Some(lab) = Images::with_tools("qcow2 corpus beside QEMU", &tools) else { return };
    std::fs::write(lab.path("data"), vec![0; 4 << 20]).unwrap();
    let mut wrong = Vec::new();
    for case in corpus::cases() {
        let difference = difference(&lab, &case);
        if difference != case.otherwise {
            wrong.push(format!("{} | {} | {:?} | {difference:?}", case.name, case.verdict, case.otherwise));
        }
    }
    assert!(wrong.is_empty(), "case | verdict | stated | found\n{}", wrong.join("\n"));
}
