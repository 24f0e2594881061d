//! Which kinds of objects there are and what each takes: what `--object help` and `--object KIND,help` show.

use std::fmt::Display;

use crate::kinds::KINDS;
use crate::throttle_group::ThrottleGroupOptions;

/// What options of an I/O thread are, as QEMU shows them.
const IO_THREAD: &[(&str, &str)] = &[
    ("aio-max-batch", "int"),
    ("poll-grow", "int"),
    ("poll-max-ns", "int"),
    ("poll-shrink", "int"),
    ("thread-pool-max", "int"),
    ("thread-pool-min", "int"),
];

/// The same of a secret.
const SECRET: &[(&str, &str)] = &[
    ("data", "string"),
    ("file", "string"),
    ("format", "QCryptoSecretFormat"),
    ("iv", "string"),
    ("keyid", "string"),
];

/// The answer to `option`, the value of an `--object`, if that asks for help.
pub fn help(option: &str) -> Option<String> {
    let asks = |word: &str| matches!(word, "help" | "?");
    if option.starts_with('{') || !option.split(',').any(asks) {
        return None;
    }
    let kind = option.split(',').next().unwrap_or_default();
    let kind = kind.strip_prefix("qom-type=").unwrap_or(kind);
    Some(match options(kind) {
        Some(options) => listed(&format!("{kind} options"), options.iter()),
        None => listed("List of user creatable objects", KINDS.iter()),
    })
}

/// The options of a kind as `name=<type>`, in QEMU's order; `None` where there is no such kind.
fn options(kind: &str) -> Option<Vec<String>> {
    let shown = |(name, kind): &(&str, &str)| format!("{name}=<{kind}>");
    let mut options: Vec<String> = match kind {
        "iothread" => IO_THREAD.iter().map(shown).collect(),
        "secret" => SECRET.iter().map(shown).collect(),
        "throttle-group" => {
            let flat = ThrottleGroupOptions::FLAT.iter().map(|name| shown(&(name, "int")));
            flat.chain([shown(&("limits", "ThrottleLimits"))]).collect()
        }
        _ => return None,
    };
    options.sort_unstable();
    Some(options)
}

fn listed(title: &str, items: impl Iterator<Item: Display>) -> String {
    let items: String = items.map(|item| format!("  {item}\n")).collect();
    format!("{title}:\n{items}")
}

#[cfg(test)]
mod tests {
    use serde::de::value::Error;
    use serde::de::{Deserializer, Error as _, Visitor};

    use super::*;
    use crate::kinds::ObjectOptions;

    /// Gives no options, and notes which ones are known.
    struct Names<'n>(&'n mut Vec<&'static str>);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            Err(Error::custom("only a struct has names"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Error> {
            self.0.extend(fields);
            Err(Error::custom("enough"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    #[test]
    fn every_kind_is_shown_with_the_options_that_it_takes() {
        for kind in KINDS {
            let mut known = Vec::new();
            assert!(ObjectOptions::read(kind, Names(&mut known)).is_err());
            known.sort_unstable();
            let shown = options(kind).unwrap();
            let mut names: Vec<&str> = shown.iter().map(|option| option.split_once('=').unwrap().0).collect();
            names.sort_unstable();
            assert!(!known.is_empty() && names == known, "{kind}: {names:?}, and it takes {known:?}");
        }
    }

    #[test]
    fn only_who_asks_is_helped() {
        let kinds = "List of user creatable objects:\n  iothread\n  secret\n  throttle-group\n";
        for option in ["help", "?", "help,id=x", "nothing,help"] {
            assert_eq!(help(option).as_deref(), Some(kinds));
        }
        for option in ["secret,help", "qom-type=secret,id=s,?"] {
            let told = help(option).unwrap();
            assert!(told.starts_with("secret options:\n  data=<string>\n  file=<string>\n"), "{told}");
        }
        for option in ["secret,id=help", "secret,file=help", "nothing", "{\"a\": 1,help}", ""] {
            assert_eq!(help(option), None, "{option}");
        }
    }
}
