//! `snapshot`: not there yet.

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::verbs::{Call, Verb};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "snapshot",
    about: "list, make, apply or delete internal snapshots",
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
    flags::FORCE_SHARE,
    Flag::switch('l', "list", "list them (the default)"),
    Flag::with('c', "create", "SNAPSHOT", "make one"),
    Flag::with('a', "apply", "SNAPSHOT", "go back to one"),
    Flag::with('d', "delete", "SNAPSHOT", "delete one"),
];

async fn run(call: Call) -> Result<u8> {
    let Call { given, .. } = call;
    let operations = ["list", "create", "apply", "delete"];
    if operations.iter().filter(|name| given.has(name)).count() > 1 {
        return Err(Failure::misused("Cannot mix '-l', '-a', '-c', '-d'"));
    }
    given.one_operand()?;
    Err(Failure::new("'snapshot' is not yet supported: use qemu-img"))
}
