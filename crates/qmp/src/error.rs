//! Errors as QMP tells them: a class for programs, a description for people.

use std::fmt;

/// What a program may act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// There is no such command, or not now.
    CommandNotFound,
    /// A job that is asked for is not there.
    DeviceNotActive,
    /// A device that is asked for is not there.
    DeviceNotFound,
}

impl ErrorClass {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
        }
    }
}

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// For programs.
    pub class: ErrorClass,
    /// For people: one line that names the thing.
    pub desc: String,
}

impl Error {
    /// An error of the class `GenericError`.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::GenericError, desc: desc.into() }
    }

    /// An error of `class`.
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        Self { class, desc: desc.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

impl std::error::Error for Error {}

impl From<json::Error> for Error {
    fn from(error: json::Error) -> Self {
        Self::generic(error.to_string())
    }
}
