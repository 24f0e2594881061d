//! Entry point for fuzzers: any bytes as the record of an image or a clone.
//!
//! It panics when a promise is broken: a record is refused or understood, and what was understood is understood again
//! when it has been written.

use std::fmt::Debug;

use serde::Serialize;

use crate::record::{self, CloneRecord, ImageRecord, Record};

/// What lies in the file of a record.
pub fn records(data: &[u8]) {
    one::<ImageRecord>(data);
    one::<CloneRecord>(data);
}

fn one<T: Record + Serialize + PartialEq + Debug>(data: &[u8]) {
    let Ok(record) = record::parse::<T>(data) else { return };
    let written = serde_json::to_vec(&record).expect("it is made of texts and numbers");
    assert_eq!(record::parse::<T>(&written).as_ref(), Ok(&record), "what was understood is understood again");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    #[test]
    fn records_are_understood_again() {
        let image = ImageRecord::new("nbd://h/e".into(), "i".into(), None, Mode::WorkingSet, u64::MAX);
        let clone = CloneRecord::new("/o\u{7f}".into(), "i".into(), "\"".into(), 0);
        let written = [serde_json::to_vec(&image), serde_json::to_vec_pretty(&clone)];
        for bytes in written.map(|bytes| bytes.expect("it can be written")) {
            records(&bytes);
            for cut in 0..bytes.len() {
                assert!(record::parse::<ImageRecord>(&bytes[..cut]).is_err(), "{cut}");
                records(&bytes[..cut]);
            }
        }
    }

    #[test]
    fn another_version_or_more_than_is_known_is_refused() {
        let image = ImageRecord::new("s".into(), "i".into(), None, Mode::Complete, 1);
        let mut value = serde_json::to_value(&image).expect("it can be written");
        let parse = |value: &serde_json::Value| record::parse::<ImageRecord>(value.to_string().as_bytes());
        assert_eq!(parse(&value), Ok(image));
        value["version"] = 2.into();
        assert!(parse(&value).is_err_and(|why| why.contains("version")));
        value["version"] = 1.into();
        value["more"] = 1.into();
        assert!(parse(&value).is_err_and(|why| why.contains("more")));
    }
}
