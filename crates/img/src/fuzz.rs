//! Entry points for fuzzers: any bytes as what a user, a script or the header of an image says.
//!
//! They panic when a promise is broken: names and options are understood or refused, never more; what was understood is
//! said again in the same words.

use crate::numbers;
use crate::option_list;
use crate::settings::{Settings, Value};
use crate::{naming, words};

/// The name of an image: a path, a protocol's, `json:`, or options. The first byte chooses how it is read.
pub fn name(data: &[u8]) {
    let Some((scene, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let format = (scene & 1 != 0).then_some("qcow2");
    let named = naming::named(text, format, scene & 2 != 0);
    let Ok(named) = named else { return };
    assert!(words::escaped(&named.filename(text)).chars().all(|c| !c.is_control()), "shown on one line");
    if scene & 2 == 0 && naming::path(text).is_some() {
        assert_eq!(named.driver(), "file", "a path names a file");
        assert_eq!(named.format.as_deref(), format, "no format is guessed");
    }
}

/// What stands behind `-o` for a qcow2 image.
pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let table = || option_list::of_format("qcow2").map(Settings::new);
    let (Ok(mut settings), Ok(mut again)) = (table(), table()) else { panic!("qcow2 has settings") };
    if settings.parse(text).is_err() {
        return;
    }
    again.parse(&said(&settings)).unwrap_or_else(|_| panic!("{} is refused", said(&settings)));
    assert_eq!(settings.shown(), again.shown(), "what was understood is understood again");
}

/// The settings that were given, as `-o` takes them.
fn said(settings: &Settings) -> String {
    let item = |(name, value): &(&str, Value)| match value {
        Value::Text(text) => format!("{name}={}", text.replace(',', ",,")),
        Value::Switch(_, word) => format!("{name}={word}"),
        Value::Number(number) => format!("{name}={number}"),
    };
    settings.given().iter().map(item).collect::<Vec<_>>().join(",")
}

/// A size: what is shown of it is a size again.
pub fn size(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(size) = driver::numbers::size(text) else { return };
    assert_eq!(driver::numbers::size(&size.to_string()).ok(), Some(size));
    assert!(!numbers::shown(size).is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn noise_passes(data: Vec<u8>) {
            name(&data);
            options(&data);
            size(&data);
        }

        #[test]
        fn what_looks_like_names_passes(
            scene: u8,
            text in "(json:|nbd://|file:|[{}\\[\\]:,='\"\\\\.0-9a-c]|driver|file|filename|qcow2|raw){0,20}",
        ) {
            name(&[&[scene][..], text.as_bytes()].concat());
        }

        #[test]
        fn what_looks_like_options_passes(
            text in "((size|backing_file|extended_l2|refcount_bits|cache_img_quota)(=[,0-9a-kKMGx.e-]{0,6})?,{0,2}){0,6}",
        ) {
            options(text.as_bytes());
        }

        #[test]
        fn what_looks_like_sizes_passes(text in "[ +-]{0,2}(0x)?[0-9a-f]{0,20}[.0-9e-]{0,6}[bkKMGTPE]{0,2}") {
            size(text.as_bytes());
        }
    }
}
