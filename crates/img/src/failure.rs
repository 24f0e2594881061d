//! What ends a verb early.

use std::fmt;

use block::BlockError;

use crate::words;

/// The exit status of most failures.
const FAILED: u8 = 1;

/// Why a verb has ended early, in the words of qemu-img.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What is told, behind the name of the program; nothing where all has been told already.
    pub text: Option<String>,
    /// Whether the command line was wrong, so that the verb's help is of use.
    pub misused: bool,
    /// Exit status of the process.
    pub status: u8,
}

/// What a step of a verb answers.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with that text.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), misused: false, status: FAILED }
    }

    /// A mistake on the command line.
    pub(crate) fn misused(text: impl Into<String>) -> Self {
        Self { misused: true, ..Self::new(text) }
    }

    /// A failure that was told already.
    pub(crate) fn silent(status: u8) -> Self {
        Self { text: None, misused: false, status }
    }

    /// The same with another exit status.
    #[must_use]
    pub(crate) fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// The same of an image that could not be opened.
    #[must_use]
    pub(crate) fn opening(self, name: &str) -> Self {
        Self::new(format!("Could not open '{name}': {}", self.text.unwrap_or_default()))
    }

    /// The same behind what was being done, where there is anything to tell.
    #[must_use]
    pub(crate) fn doing(self, doing: &str) -> Self {
        Self { text: self.text.map(|text| format!("{doing}: {text}")), ..self }
    }

    /// An error of the engine behind what was being done: `doing: error`.
    pub(crate) fn of(doing: impl fmt::Display, error: &BlockError) -> Self {
        Self::new(format!("{doing}: {}", words::explained(error)))
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        Self::new(words::explained(&error))
    }
}
