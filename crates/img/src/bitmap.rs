//! `bitmap`: not there yet.

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::verbs::{Call, Verb};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "bitmap",
    about: "change persistent bitmaps of an image",
    operands: "FILENAME BITMAP",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    flags::IMAGE_OPTS,
    flags::OBJECT,
    Flag::long("add", "make it"),
    Flag::long("remove", "remove it"),
    Flag::long("clear", "clear it"),
    Flag::long("enable", "record writes in it"),
    Flag::long("disable", "record no more"),
    Flag::long_with("merge", "SOURCE", "take SOURCE in"),
    Flag::with('g', "granularity", "SIZE", "of the new one"),
    Flag::with('b', "source-file", "SRC_FILENAME", "image that has SOURCE"),
    Flag::with('F', "source-format", "SRC_FMT", "its format"),
];

async fn run(call: Call) -> Result<u8> {
    let Call { given, .. } = call;
    if given.operands.len() != 2 {
        return Err(Failure::new("Expecting filename and bitmap name"));
    }
    Err(Failure::new("'bitmap' is not yet supported: use qemu-img"))
}
