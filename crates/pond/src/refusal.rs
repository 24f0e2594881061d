//! Why the pond does not do what it is asked for, and what would help.
//!
//! What would help is told apart rather than put into words: a command line names its options, a QMP client its
//! arguments.

use std::fmt;

use block::{BlockError, ErrorKind};

/// Shorthand for results of the pond's verbs.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// What a user can do about a refusal, or about a trouble that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// Name another overlay, or have this one overwritten.
    OverwriteOverlay,
    /// Ask for a size that is at least the image's.
    Enlarge,
    /// Shut down the VM that uses the overlay.
    StopVm,
    /// Wait until the image is complete.
    AwaitComplete,
    /// Remove the overlays on the image first.
    RemoveOverlays,
    /// Remove the image: it is fetched anew when it is wanted.
    RemoveImage,
    /// Make a new clone.
    NewClone,
    /// Stop the daemon that has the pond, or take another pond.
    OtherPond,
    /// Look at what there is.
    SeeList,
    /// Run the daemon as root, or as the user whose VMs it serves.
    RunAsOwner,
    /// Remove this file, which is the pond's.
    RemoveFile,
}

/// An error, and what would help.
pub struct Refusal {
    error: BlockError,
    remedy: Option<Remedy>,
}

impl Refusal {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>, remedy: Remedy) -> Self {
        Self { error: BlockError::new(kind, context), remedy: Some(remedy) }
    }

    pub(crate) fn of(error: BlockError, remedy: Remedy) -> Self {
        Self { error, remedy: Some(remedy) }
    }

    /// What went wrong.
    pub fn error(&self) -> &BlockError {
        &self.error
    }

    /// What would help, as far as the pond knows.
    pub fn remedy(&self) -> Option<Remedy> {
        self.remedy
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// The same refusal seen from further up.
    pub(crate) fn within(self, outer: impl fmt::Display) -> Self {
        Self { error: self.error.within(outer), ..self }
    }
}

impl From<BlockError> for Refusal {
    fn from(error: BlockError) -> Self {
        Self { error, remedy: None }
    }
}

impl From<Refusal> for BlockError {
    /// For whoever has no words for what would help.
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?})", self.error, self.remedy)
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// What is wrong with an image or a clone for the time being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In words.
    pub what: String,
    /// What would help, as far as the pond knows.
    pub remedy: Option<Remedy>,
}

impl From<&Refusal> for Trouble {
    fn from(refusal: &Refusal) -> Self {
        Self { what: refusal.to_string(), remedy: refusal.remedy }
    }
}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Self { what, remedy: None }
    }
}

impl From<Trouble> for Refusal {
    /// Of a thing that stays as it is.
    fn from(trouble: Trouble) -> Self {
        Self { error: BlockError::new(ErrorKind::Corrupt, trouble.what), remedy: trouble.remedy }
    }
}
