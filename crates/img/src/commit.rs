//! `commit`: not there yet.

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::verbs::{Call, Verb};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "commit",
    about: "write an overlay into the image below it",
    operands: "FILENAME",
    flags: FLAGS,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[flags::FORMAT, flags::IMAGE_OPTS, flags::OBJECT];

async fn run(call: Call) -> Result<u8> {
    let Call { given, .. } = call;
    let _ = given;
    Err(Failure::new("'commit' is not yet supported: use qemu-img"))
}
