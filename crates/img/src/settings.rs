//! `-o key=value,...`: text becomes settings of known names and types, as QEMU's option lists do it.
//!
//! A comma is doubled in a value; a key without a value is a switch that is on; of a key that is given twice the last
//! one counts.

use engine::keyval;

use crate::failure::{Failure, Result};
use crate::words;

/// What a setting takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    /// Text.
    Text,
    /// `on` or `off`.
    Switch,
    /// A whole number.
    Number,
    /// A size in bytes.
    Size,
}

impl Takes {
    /// As lists of options show it.
    pub(crate) const fn shown(self) -> &'static str {
        match self {
            Self::Text => "<str>",
            Self::Switch => "<bool (on/off)>",
            Self::Number => "<num>",
            Self::Size => "<size>",
        }
    }
}

/// A setting that a format takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) takes: Takes,
    /// What lists of options say of it.
    pub(crate) about: &'static str,
    /// What it is where it is not given.
    pub(crate) default: Option<&'static str>,
}

/// A value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Text(String),
    /// Whether it is on, and the word that said so.
    Switch(bool, String),
    Number(u64),
}

/// Settings with their values, in the order of their table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    table: Vec<Setting>,
    given: Vec<(&'static str, Value)>,
}

impl Settings {
    /// No setting of those in `table`.
    pub(crate) fn new(table: Vec<Setting>) -> Self {
        Self { table, given: Vec::new() }
    }

    /// Takes over what one `-o` says.
    pub(crate) fn parse(&mut self, text: &str) -> Result<()> {
        for item in keyval::items(text) {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) if !key.contains(',') => (key, value),
                // A doubled comma is one in values alone.
                _ => flag(item.split(',').next().unwrap_or_default()),
            };
            self.set(key, value)?;
        }
        Ok(())
    }

    /// Sets what `-b` and `-F` say of a new image of `format`, which may have no backing image.
    pub(crate) fn set_backing(
        &mut self,
        format: &str,
        name: Option<&str>,
        its_format: Option<&str>,
    ) -> Result<()> {
        let said =
            [(name, "backing_file", "Backing file"), (its_format, "backing_fmt", "Backing file format")];
        for (value, key, what) in said {
            if let Some(value) = value {
                let refused = |_| Failure::new(format!("{what} not supported for file format '{format}'"));
                self.set(key, value).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// Sets one of them.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let setting = self.table.iter().find(|setting| setting.name == key).copied();
        let setting = setting.ok_or_else(|| Failure::new(format!("Invalid parameter '{key}'")))?;
        let value = typed(&setting, value)?;
        self.given.retain(|(name, _)| *name != setting.name);
        self.given.push((setting.name, value));
        Ok(())
    }

    /// All that were given.
    pub(crate) fn given(&self) -> &[(&'static str, Value)] {
        &self.given
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value)
    }

    /// A text that was given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            Value::Switch(..) | Value::Number(_) => None,
        }
    }

    /// A number that was given.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Number(number) => Some(*number),
            Value::Switch(..) | Value::Text(_) => None,
        }
    }

    /// Whether a switch was given and is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Switch(true, _)))
    }

    /// The first setting that was given and is among `names`.
    pub(crate) fn any_of<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        names.iter().copied().find(|name| self.value(name).is_some())
    }

    /// All that were given or have a default, as `key=value` in the order of the table.
    pub(crate) fn shown(&self) -> String {
        let shown = |setting: &Setting| {
            let value = match self.value(setting.name) {
                Some(Value::Text(text)) => text.replace(',', ",,"),
                Some(Value::Switch(_, word)) => word.clone(),
                // With a sign, as QEMU shows them.
                Some(Value::Number(number)) => number.cast_signed().to_string(),
                None => setting.default?.to_owned(),
            };
            Some(format!(" {}={value}", setting.name))
        };
        self.table.iter().filter_map(shown).collect()
    }
}

/// What an item without a value says: `lazy_refcounts`, `nolazy_refcounts`.
fn flag(item: &str) -> (&str, &str) {
    match item.strip_prefix("no") {
        Some(key) => (key, "off"),
        None => (item, "on"),
    }
}

fn typed(setting: &Setting, text: &str) -> Result<Value> {
    let name = setting.name;
    match setting.takes {
        Takes::Text => Ok(Value::Text(text.to_owned())),
        Takes::Switch => match driver::options::switch(text) {
            Some(on) => Ok(Value::Switch(on, text.to_owned())),
            None => Err(Failure::new(format!("Parameter '{name}' expects 'on' or 'off'"))),
        },
        Takes::Number => match driver::numbers::integer(text) {
            // As C's `strtoull`.
            Ok((negative, value)) => Ok(Value::Number(if negative { value.wrapping_neg() } else { value })),
            Err(why) => Err(Failure::new(why.as_number(name, text))),
        },
        Takes::Size => size(name, text).map(Value::Number),
    }
}

/// Reads the size that is the value of `name`.
pub(crate) fn size(name: &str, text: &str) -> Result<u64> {
    driver::numbers::size(text).map_err(|why| Failure::new(words::of_qemu(&why.as_size(name, text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let setting = |name, takes, default| Setting { name, takes, about: "", default };
        Settings::new(vec![
            setting("name", Takes::Text, None),
            setting("fast", Takes::Switch, Some("off")),
            setting("bits", Takes::Number, Some("16")),
            setting("size", Takes::Size, None),
        ])
    }

    #[test]
    fn values_have_types_and_the_last_counts() {
        let mut settings = settings();
        settings.parse("size=1M,name=a,,b,fast,size=2M").unwrap();
        assert_eq!((settings.number("size"), settings.text("name")), (Some(2 << 20), Some("a,b")));
        assert!(settings.is_on("fast"));
        assert_eq!(settings.shown(), " name=a,,b fast=on bits=16 size=2097152");
        settings.parse("bits=-1").unwrap();
        assert_eq!(settings.number("bits"), Some(u64::MAX));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("x=1", "Invalid parameter 'x'"),
            ("fast=maybe", "Parameter 'fast' expects 'on' or 'off'"),
            ("bits=x", "Parameter 'bits' expects a number"),
            ("bits=--1", "Parameter 'bits' expects a number"),
            ("a,,b=1", "Invalid parameter 'a'"),
            ("size", "Parameter 'size' expects a non-negative number"),
        ] {
            let told = settings().parse(text).unwrap_err().text.unwrap();
            assert!(told.starts_with(why), "{text}: {told}");
        }
    }
}
