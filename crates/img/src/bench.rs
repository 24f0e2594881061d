//! `bench`: not there yet.

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::verbs::{Call, Verb};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "bench",
    about: "measure requests to an image",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[flags::FORMAT, flags::IMAGE_OPTS, flags::OBJECT];

async fn run(call: Call) -> Result<u8> {
    let Call { given, .. } = call;
    let _ = given;
    Err(Failure::new("'bench' is not yet supported: use qemu-img"))
}
