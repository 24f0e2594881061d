//! The only list of verbs.

use std::rc::Rc;

use io::LocalFut;

use crate::failure::Failure;
use crate::given::{Flag, Given};
use crate::session::Session;
use crate::{
    amend, bench, bitmap, check, commit, compare, convert, create, dd, info, map, measure, rebase, resize,
    snapshot,
};

/// What a verb is called with.
pub struct Call {
    /// The session that it runs in.
    pub session: Rc<Session>,
    /// What the command line says.
    pub given: Given,
}

/// A verb of qemu-img.
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its operands, as help shows them.
    pub operands: &'static str,
    /// The flags that it takes.
    pub flags: &'static [Flag],
    /// Whether an operand may be a number below zero, which looks like a flag.
    pub signed: bool,
    /// Runs it; answers the exit status.
    pub run: fn(Call) -> LocalFut<'static, Result<u8, Failure>>,
}

/// All verbs, by name.
pub const VERBS: &[Verb] = &[
    amend::VERB,
    bench::VERB,
    bitmap::VERB,
    check::VERB,
    commit::VERB,
    compare::VERB,
    convert::VERB,
    create::VERB,
    dd::VERB,
    info::VERB,
    map::VERB,
    measure::VERB,
    rebase::VERB,
    resize::VERB,
    snapshot::VERB,
];

/// The verb called `name`.
pub fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}
