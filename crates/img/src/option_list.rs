//! Which options images of each format are made with: the tables behind `-o`, `-o help` and `Formatting ...`.

use engine::keyval;

use crate::failure::{Failure, Result};
use crate::foreign;
use crate::luks;
use crate::settings::{Setting, Takes};

/// A setting without a default.
const fn row(name: &'static str, takes: Takes, about: &'static str) -> Setting {
    Setting { name, takes, about, default: None }
}

/// A setting with a default.
const fn set(name: &'static str, takes: Takes, about: &'static str, default: &'static str) -> Setting {
    Setting { name, takes, about, default: Some(default) }
}

/// Of qcow2, in the order in which they are shown. Names, types and texts are QEMU's: scripts read the list. The last
/// one is ours.
#[rustfmt::skip]
const QCOW2: &[Setting] = &[
    row("encryption", Takes::Switch, "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"),
    row("encrypt.format", Takes::Text, "Encrypt the image, format choices: 'aes', 'luks'"),
    row("encrypt.key-secret", Takes::Text, "ID of secret providing qcow AES key or LUKS passphrase"),
    row("encrypt.cipher-alg", Takes::Text, "Name of encryption cipher algorithm"),
    row("encrypt.cipher-mode", Takes::Text, "Name of encryption cipher mode"),
    row("encrypt.ivgen-alg", Takes::Text, "Name of IV generator algorithm"),
    row("encrypt.ivgen-hash-alg", Takes::Text, "Name of IV generator hash algorithm"),
    row("encrypt.hash-alg", Takes::Text, "Name of encryption hash algorithm"),
    row("encrypt.iter-time", Takes::Number, "Time to spend in PBKDF in milliseconds"),
    set("cluster_size", Takes::Size, "qcow2 cluster size", "65536"),
    set("extended_l2", Takes::Switch, "Extended L2 tables", "off"),
    row("preallocation", Takes::Text, "Preallocation mode (allowed values: off, metadata, falloc, full)"),
    set("compression_type", Takes::Text, "Compression method used for image cluster compression", "zlib"),
    row("size", Takes::Size, "Virtual disk size"),
    row("compat", Takes::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    row("backing_file", Takes::Text, "File name of a base image"),
    row("backing_fmt", Takes::Text, "Image format of the base image"),
    row("data_file", Takes::Text, "File name of an external data file"),
    row("data_file_raw", Takes::Switch, "The external data file must stay valid as a raw image"),
    set("lazy_refcounts", Takes::Switch, "Postpone refcount updates", "off"),
    set("refcount_bits", Takes::Number, "Width of a reference count entry in bits", "16"),
    row(QUOTA, Takes::Size, "Largest size of the file that copy-on-read may fill it to (a cache)"),
];

/// What can be made different of a qcow2 image that is there; as [`QCOW2`].
#[rustfmt::skip]
const AMEND: &[Setting] = &[
    row("encrypt.state", Takes::Text, "Select new state of affected keyslots (active/inactive)"),
    row("encrypt.keyslot", Takes::Number, "Select a single keyslot to modify explicitly"),
    row("encrypt.old-secret", Takes::Text, "Select all keyslots that match this password"),
    row("encrypt.new-secret", Takes::Text, "New secret to set in the matching keyslots. Empty string to erase"),
    row("encrypt.iter-time", Takes::Number, "Time to spend in PBKDF in milliseconds"),
    row("size", Takes::Size, "Virtual disk size"),
    row("compat", Takes::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    row("backing_file", Takes::Text, "File name of a base image"),
    row("backing_fmt", Takes::Text, "Image format of the base image"),
    row("data_file", Takes::Text, "File name of an external data file"),
    row("data_file_raw", Takes::Switch, "The external data file must stay valid as a raw image"),
    row("lazy_refcounts", Takes::Switch, "Postpone refcount updates"),
    row("refcount_bits", Takes::Number, "Width of a reference count entry in bits"),
    row(QUOTA, Takes::Size, "Largest size of the file that copy-on-read may fill it to, 0 for none"),
];

/// The setting that makes a qcow2 image a cache (`docs/formats/cache.md`).
pub(crate) const QUOTA: &str = "cache_img_quota";

const RAW: &[Setting] = &[row("size", Takes::Size, "Virtual disk size")];

/// Of files of the machine.
#[rustfmt::skip]
const FILE: &[Setting] = &[
    row("preallocation", Takes::Text, "Preallocation mode (allowed values: off, falloc, full)"),
    row("nocow", Takes::Switch, "Turn off copy-on-write (valid only on btrfs)"),
    row("extent_size_hint", Takes::Size, "Extent size hint for the image file, 0 to disable"),
];

/// Settings of a format alone; the name that is none is in the failure.
pub(crate) fn of_format(format: &str) -> Result<Vec<Setting>> {
    match format {
        "qcow2" => Ok(QCOW2.to_vec()),
        "raw" => Ok(RAW.to_vec()),
        _ if foreign::is_foreign(format) => Err(foreign::not_made_yet(format)),
        _ => Err(Failure::new(format!("Unknown file format '{format}'"))),
    }
}

/// Settings of a format and of the file that it lies on.
pub(crate) fn on_file(format: &str) -> Result<Vec<Setting>> {
    let mut table = of_format(format)?;
    let more = FILE.iter().filter(|row| !table.iter().any(|other| other.name == row.name));
    let more: Vec<_> = more.copied().collect();
    table.extend(more);
    Ok(table)
}

/// Settings of a format whose images are measured, and of the file that they lie on: one more than are made.
pub(crate) fn measurable(format: &str) -> Result<Vec<Setting>> {
    let mut table = match format {
        "luks" => luks::SETTINGS.to_vec(),
        _ => return on_file(format),
    };
    table.extend(FILE);
    Ok(table)
}

/// What `amend` makes different of images of a format.
pub(crate) fn amendable(format: &str) -> Result<Vec<Setting>> {
    of_format(format)?;
    match format {
        "qcow2" => Ok(AMEND.to_vec()),
        _ => Err(Failure::new(format!("Format driver '{format}' does not support option amendment"))),
    }
}

/// The list that `amend -o help` shows.
pub(crate) fn amendable_shown(format: &str) -> Result<String> {
    Ok(listed(&format!("Amend options for '{format}'"), amendable(format)?))
}

/// Whether new images of a format take the setting.
pub(crate) fn is_of_new(format: &str, name: &str) -> bool {
    of_format(format).is_ok_and(|table| table.iter().any(|row| row.name == name))
}

/// The list that `-o help` shows: without the settings of files unless a name of a file was given.
pub(crate) fn shown(format: &str, with_file: bool) -> Result<String> {
    let table = if with_file { on_file(format)? } else { of_format(format)? };
    let title =
        if with_file { "Supported options".to_owned() } else { format!("Supported {format} options") };
    let mut text = listed(&title, table);
    if !with_file {
        text.push_str(
            "\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n",
        );
    }
    Ok(text)
}

fn listed(title: &str, mut table: Vec<Setting>) -> String {
    table.sort_by_key(|row| row.name);
    let mut text = format!("{title}:\n");
    for row in &table {
        let head = format!("{}={}", row.name, row.takes.shown());
        text.push_str(&format!("  {head:<22} - {}\n", row.about));
    }
    text
}

/// Whether `-o` asks for the list.
pub(crate) fn asks_for_help(text: &str) -> bool {
    keyval::items(text).iter().any(|item| item == "help" || item == "?")
}
