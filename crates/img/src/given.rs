//! What a command line says, taken apart: the flags of a verb with their values, and its operands.

use crate::failure::{Failure, Result};
use crate::numbers::{self, Range};

/// A flag that a verb takes.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its letter.
    pub short: Option<char>,
    /// Its long name.
    pub long: &'static str,
    /// Another long name that qemu-img takes and does not tell of; scripts may use it.
    pub also: Option<&'static str>,
    /// What its value is, as help shows it; `None`: it takes none.
    pub value: Option<&'static str>,
    /// What it means.
    pub about: &'static str,
}

impl Flag {
    /// A flag with a letter and a value.
    pub(crate) const fn with(
        short: char,
        long: &'static str,
        value: &'static str,
        about: &'static str,
    ) -> Self {
        Self { short: Some(short), long, also: None, value: Some(value), about }
    }

    /// A flag with a letter that takes no value.
    pub(crate) const fn switch(short: char, long: &'static str, about: &'static str) -> Self {
        Self { short: Some(short), long, also: None, value: None, about }
    }

    /// A flag without a letter that takes a value.
    pub(crate) const fn long_with(long: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { short: None, long, also: None, value: Some(value), about }
    }

    /// A flag without a letter and without a value.
    pub(crate) const fn long(long: &'static str, about: &'static str) -> Self {
        Self { short: None, long, also: None, value: None, about }
    }

    /// The same flag, with another long name beside its own.
    pub(crate) const fn or(self, also: &'static str) -> Self {
        Self { also: Some(also), ..self }
    }
}

/// The flags and operands of one call.
#[derive(Clone, Debug, Default)]
pub struct Given {
    flags: Vec<(&'static str, Option<String>)>,
    /// What is no flag, in order.
    pub operands: Vec<String>,
}

impl Given {
    /// Notes a flag by its long name.
    pub fn flag(&mut self, long: &'static str, value: Option<String>) {
        self.flags.push((long, value));
    }

    /// Whether it is to be shown how far the verb is.
    pub fn shows_progress(&self) -> bool {
        self.has("progress") && !self.has("quiet")
    }

    /// The objects that are to be defined.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.values("object")
    }

    /// Whether the flag was given.
    pub(crate) fn has(&self, long: &str) -> bool {
        self.flags.iter().any(|(name, _)| *name == long)
    }

    /// The value of a flag; of several the last one.
    pub(crate) fn value(&self, long: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(name, _)| *name == long)?.1.as_deref()
    }

    /// All flags with their values, in order.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        self.flags.iter().map(|(name, value)| (*name, value.as_deref()))
    }

    /// The values of a flag that may be repeated.
    pub(crate) fn values<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(name, _)| *name == long).filter_map(|(_, value)| value.as_deref())
    }

    /// The lists of options that a flag gives, which may be repeated; a list that begins or ends with a comma, or is
    /// empty, is refused.
    pub(crate) fn lists<'a>(&'a self, long: &'a str) -> Result<Vec<&'a str>> {
        let is_list = |text: &str| {
            let commas = text.len() - text.trim_end_matches(',').len();
            !text.is_empty() && !text.starts_with(',') && commas.is_multiple_of(2)
        };
        match self.values(long).find(|text| !is_list(text)) {
            Some(text) => Err(Failure::new(format!("Invalid option list: {text}"))),
            None => Ok(self.values(long).collect()),
        }
    }

    /// A number of bytes; `what` is what messages call it.
    pub(crate) fn bytes(&self, long: &str, what: &str, range: Range) -> Result<Option<u64>> {
        self.value(long).map(|text| numbers::bytes(text, what, range)).transpose()
    }

    /// A number of things; `what` is what messages call it.
    pub(crate) fn count(&self, long: &str, what: &str, range: Range) -> Result<Option<u64>> {
        self.value(long).map(|text| numbers::count(text, what, range)).transpose()
    }

    /// Whether JSON is asked for.
    pub(crate) fn json(&self) -> Result<bool> {
        match self.value("output") {
            None | Some("human") => Ok(false),
            Some("json") => Ok(true),
            Some(other) => Err(Failure::misused(format!("--output expects 'human' or 'json' not '{other}'"))),
        }
    }

    /// The one operand, or the failure that says what was expected.
    pub(crate) fn one_operand(&self) -> Result<&str> {
        match &self.operands[..] {
            [one] => Ok(one),
            _ => Err(Failure::misused("Expecting one image file name")),
        }
    }
}
