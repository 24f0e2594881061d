//! Why a command failed, from whatever room the reason comes.

use std::fmt;

use block::BlockError;
use qmp::schema::Refusal;

/// What a command answers when it was not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure(pub qmp::Error);

impl Failure {
    /// A failure of no particular class.
    pub fn new(desc: impl Into<String>) -> Self {
        Self(qmp::Error::generic(desc))
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.into())
    }
}

impl From<qmp::Error> for Failure {
    fn from(error: qmp::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {}
