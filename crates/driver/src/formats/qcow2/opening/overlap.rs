//! The option `overlap-check`: which of an image's own structures nothing else is written over.

use std::fmt;

use block::{BlockError, ErrorKind, Result};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::super::space::structures::{Structure, Watched};

/// The templates, by name, and how many of [`ORDER`] each watches from the front.
const TEMPLATES: [(&str, usize); 4] = [("none", 0), ("constant", 5), ("cached", 8), ("all", 9)];
/// What is watched unless the option says otherwise.
const DEFAULT: &str = "cached";
/// The structures, those first that lie where they lie as long as the image is open, last what is not in memory.
const ORDER: [Structure; 9] = [
    Structure::Header,
    Structure::ActiveL1,
    Structure::RefcountTable,
    Structure::SnapshotTable,
    Structure::BitmapDirectory,
    Structure::ActiveL2,
    Structure::RefcountBlock,
    Structure::InactiveL1,
    Structure::InactiveL2,
];

/// What the option says: a template, or one and what differs from it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Choice {
    template: Option<String>,
    main_header: Option<bool>,
    active_l1: Option<bool>,
    active_l2: Option<bool>,
    refcount_table: Option<bool>,
    refcount_block: Option<bool>,
    snapshot_table: Option<bool>,
    inactive_l1: Option<bool>,
    inactive_l2: Option<bool>,
    bitmap_directory: Option<bool>,
}

/// The option as it was given.
#[derive(Debug, Default)]
pub(crate) struct OverlapCheck(Choice);

impl OverlapCheck {
    /// Which structures are watched. `Invalid` for a template that there is not.
    pub(crate) fn watched(&self) -> Result<Watched> {
        let choice = &self.0;
        let template = choice.template.as_deref().unwrap_or(DEFAULT);
        let Some((_, count)) = TEMPLATES.iter().find(|(name, _)| *name == template) else {
            let names: Vec<_> = TEMPLATES.iter().map(|(name, _)| *name).collect();
            let context = format!(
                "Unsupported value '{template}' for qcow2 option 'overlap-check'. Allowed are any of the following: {}",
                names.join(", ")
            );
            return Err(BlockError::new(ErrorKind::Invalid, context));
        };
        let mut watched = Watched::default();
        for (number, structure) in ORDER.into_iter().enumerate() {
            watched.set(structure, choice.of(structure).unwrap_or(number < *count));
        }
        Ok(watched)
    }
}

impl Choice {
    fn of(&self, structure: Structure) -> Option<bool> {
        match structure {
            Structure::Header => self.main_header,
            Structure::ActiveL1 => self.active_l1,
            Structure::ActiveL2 => self.active_l2,
            Structure::RefcountBlock => self.refcount_block,
            Structure::RefcountTable => self.refcount_table,
            Structure::SnapshotTable => self.snapshot_table,
            Structure::InactiveL1 => self.inactive_l1,
            Structure::InactiveL2 => self.inactive_l2,
            Structure::BitmapDirectory => self.bitmap_directory,
        }
    }
}

impl<'de> Deserialize<'de> for OverlapCheck {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(Either)
    }
}

/// Reads the name of a template, or the members of a [`Choice`].
struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = OverlapCheck;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("string or object")
    }

    fn visit_str<E>(self, template: &str) -> std::result::Result<OverlapCheck, E> {
        Ok(OverlapCheck(Choice { template: Some(template.to_owned()), ..Choice::default() }))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> std::result::Result<OverlapCheck, A::Error> {
        Choice::deserialize(MapAccessDeserializer::new(members)).map(OverlapCheck)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn watched(option: Value) -> Result<Vec<Structure>> {
        #[derive(Deserialize)]
        struct Options {
            option: OverlapCheck,
        }
        let options = serde_json::from_value::<serde_json::Map<_, _>>(json!({"option": option}));
        let options: Options = crate::options::parse(options.expect("an object"))?;
        let watched = options.option.watched()?;
        Ok(ORDER.into_iter().filter(|structure| watched.has(*structure)).collect())
    }

    #[test]
    fn templates_and_what_differs_from_them() {
        let count = |option| watched(option).expect("fine").len();
        let counts: Vec<_> = ["none", "constant", "cached", "all"].map(|name| count(json!(name))).into();
        assert_eq!(counts, [0, 5, 8, 9]);
        assert_eq!(count(json!({})), 8);
        assert_eq!(count(json!({"template": "all", "main-header": false})), 8);
        let one = watched(json!({"template": "none", "inactive-l2": "on"})).expect("fine");
        assert_eq!(one, [Structure::InactiveL2]);
    }

    #[test]
    fn what_is_refused_is_named() {
        let said = |option| watched(option).expect_err("refused").to_string();
        for wrong in [json!("foo"), json!({"template": "foo"})] {
            assert!(said(wrong).contains("Unsupported value 'foo' for qcow2 option 'overlap-check'"));
        }
        assert!(said(json!({"foo": true})).contains("foo"));
        assert!(said(json!({"main-header": 3})).contains("main-header"));
        assert!(said(json!(7)).contains("expected: string or object"));
    }
}
