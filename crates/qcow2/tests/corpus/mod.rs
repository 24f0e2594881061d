//! Hand-broken images, made by a recipe each: a small whole image, and what is changed in it.
//!
//! The whole ones were made by qemu-img 10.0.2 and packed with zstd (clusters of 4 KiB, disks of 4 MiB):
//! `plain`, `v2` (compat=0.10), `snapshots` (two), `bitmaps` (two), `datafile` and `backing` by `create`, with
//! `write -P 1 0 32k`, `write -z 1M 16k` and `write -P 2 2M 8k`; `extended` (extended_l2=on, clusters of 16 KiB) with
//! other writes; `compressed` by `convert -c` of 19 clusters. `cases.txt` has a line for each broken one:
//!
//! ```text
//! whole image | what is broken | what is changed: OFFSET=BYTES, in hex, and len=LENGTH | verdict [| what QEMU does otherwise]
//! ```
//!
//! Verdicts: `refused: TEXT` (it is not opened), `uncheckable: TEXT`, `mendable: TEXT` (the same, but a repair of
//! everything leaves a whole image), `found C L E, left C L E` or `found C L E, unrepaired: TEXT`: corruptions, leaks
//! and errors that a check finds, and what a repair of everything leaves.

/// A line of `cases.txt`.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) image: Vec<u8>,
    pub(crate) verdict: String,
    /// What QEMU does otherwise, where it does.
    pub(crate) otherwise: Option<String>,
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let lines = include_str!("cases.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(case).collect()
}

/// The whole images, by name.
pub(crate) fn whole(name: &str) -> Vec<u8> {
    let packed: &[u8] = match name {
        "plain" => include_bytes!("plain.zst"),
        "v2" => include_bytes!("v2.zst"),
        "snapshots" => include_bytes!("snapshots.zst"),
        "bitmaps" => include_bytes!("bitmaps.zst"),
        "compressed" => include_bytes!("compressed.zst"),
        "extended" => include_bytes!("extended.zst"),
        "datafile" => include_bytes!("datafile.zst"),
        "backing" => include_bytes!("backing.zst"),
        other => panic!("no image '{other}'"),
    };
    zstd::decode_all(packed).unwrap()
}

fn case(line: &str) -> Case {
    let fields: Vec<_> = line.split('|').map(str::trim).collect();
    let [base, what, changes, verdict, otherwise @ ..] = &fields[..] else { panic!("{line}") };
    let mut image = whole(base);
    changes.split_whitespace().for_each(|change| apply(change, &mut image));
    Case {
        name: format!("{base}: {what}"),
        image,
        verdict: (*verdict).to_owned(),
        otherwise: otherwise.first().map(|text| (*text).to_owned()),
    }
}

fn apply(change: &str, image: &mut Vec<u8>) {
    let (at, what) = change.split_once('=').unwrap();
    let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
    match at {
        "len" => image.truncate(number(what)),
        _ => {
            let bytes: Vec<_> = (0..what.len()).step_by(2).map(|i| number(&what[i..i + 2]) as u8).collect();
            image[number(at)..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
}
