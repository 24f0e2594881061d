//! `amend`: not there yet.

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::verbs::{Call, Verb};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "amend",
    about: "change options of an image",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    flags::IMAGE_OPTS,
    flags::OBJECT,
    flags::QUIET,
    flags::PROGRESS,
    flags::CACHE,
    Flag::with('o', "options", "OPTIONS", "what shall be different"),
    Flag::long("force", "allow what is not safe"),
];

async fn run(call: Call) -> Result<u8> {
    let Call { given, .. } = call;
    if !given.has("options") {
        return Err(Failure::misused("Must specify options (-o)"));
    }
    given.one_operand()?;
    Err(Failure::new("'amend' is not yet supported: use qemu-img"))
}
