//! `secret`: a password or key, given in the options or in a file.
//!
//! Invariant: what it holds is shown by no `Debug` and no message, and is overwritten when it is dropped.

use std::fmt;
use std::hint::black_box;
use std::path::Path;

use block::{BlockError, ErrorKind, Result};
use io::World;
use serde::Deserialize;

use crate::base64;

/// Longest file of a secret in bytes.
const FILE_MAX: usize = 64 << 10;

/// Options, as QEMU's.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecretOptions {
    /// The secret itself. Command lines are visible to others: better give a file.
    pub data: Option<String>,
    /// A file that holds the secret, every byte of it.
    pub file: Option<String>,
    /// How `data` or the file is written.
    #[serde(default)]
    pub format: SecretFormat,
    /// Name of another secret that this one is encrypted with. Not supported yet.
    pub keyid: Option<String>,
    /// Initialisation vector for `keyid`.
    pub iv: Option<String>,
}

/// How a secret is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretFormat {
    /// As it is.
    #[default]
    Raw,
    /// In base64.
    Base64,
}

impl fmt::Debug for SecretOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = if self.data.is_some() { "given" } else { "none" };
        write!(f, "SecretOptions {{ data: {data}, file: {:?}, format: {:?} }}", self.file, self.format)
    }
}

/// A secret.
pub struct Secret {
    id: String,
    bytes: Vec<u8>,
}

impl Secret {
    pub(crate) async fn open(id: &str, options: SecretOptions, world: &dyn World) -> Result<Self> {
        let invalid = |text: &str| Err(BlockError::new(ErrorKind::Invalid, text));
        if options.keyid.is_some() || options.iv.is_some() {
            let context = format!("secret '{id}': encrypted secrets (keyid, iv) are not supported yet");
            return Err(BlockError::new(ErrorKind::Unsupported, context));
        }
        let raw = match (options.data, &options.file) {
            (Some(_), Some(_)) => return invalid("'file' and 'data' are mutually exclusive"),
            (None, None) => return invalid("Either 'file' or 'data' must be provided"),
            (Some(data), None) => data.into_bytes(),
            (None, Some(file)) => world
                .read_file(Path::new(file), FILE_MAX)
                .await
                .map_err(|e| BlockError::system(format!("Unable to read {file}"), e))?,
        };
        let mut raw = Self { id: id.to_owned(), bytes: raw };
        if options.format == SecretFormat::Base64 {
            let Some(bytes) = base64::decode(&raw.bytes) else {
                return invalid("Base64 data contains invalid characters");
            };
            raw = Self { id: id.to_owned(), bytes };
        }
        Ok(raw)
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it holds, as text.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.bytes).map_err(|_| {
            let context = format!("Data from secret {} is not valid UTF-8", self.id);
            BlockError::new(ErrorKind::Invalid, context)
        })
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.fill(0);
        // Or the compiler may drop stores that nobody reads.
        black_box(&self.bytes);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sim::{Options, SimWorld};

    fn open(options: Value) -> std::result::Result<Vec<u8>, String> {
        let world = SimWorld::new(0, Options::calm());
        world.disk().put("key", b"from a file\n");
        world.disk().put("large", &vec![b'x'; FILE_MAX + 1]);
        let options: SecretOptions = serde_json::from_value(options).map_err(|e| e.to_string())?;
        let secret = world.run(Secret::open("s", options, &world)).map_err(|e| e.to_string())?;
        Ok(secret.bytes().to_vec())
    }

    #[test]
    fn it_comes_from_options_or_a_file() {
        assert_eq!(open(json!({"data": "open sesame"})).unwrap(), b"open sesame");
        assert_eq!(open(json!({"file": "key"})).unwrap(), b"from a file\n");
        assert_eq!(open(json!({"data": "eHl6", "format": "base64"})).unwrap(), b"xyz");
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_qemus_words() {
        let cases = [
            (json!({}), "Either 'file' or 'data' must be provided"),
            (json!({"data": "x", "file": "key"}), "'file' and 'data' are mutually exclusive"),
            (json!({"data": "x*y", "format": "base64"}), "Base64 data contains invalid characters"),
            (json!({"file": "nope"}), "Unable to read nope: "),
            (json!({"file": "large"}), "Unable to read large: "),
            (json!({"data": "x", "keyid": "k"}), "secret 's': encrypted secrets"),
        ];
        for (options, expected) in cases {
            let said = open(options).unwrap_err();
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn nothing_shows_it() {
        let options: SecretOptions = serde_json::from_value(json!({"data": "sesame"})).unwrap();
        let shown = format!("{options:?}");
        let world = SimWorld::new(0, Options::calm());
        let secret = world.run(Secret::open("s", options, &world)).unwrap();
        assert!(!shown.contains("sesame") && !format!("{secret:?}").contains("sesame"));
        assert_eq!(secret.text().unwrap(), "sesame");
        let bytes = Secret { id: "s".to_owned(), bytes: vec![0xff, 0xfe] };
        assert_eq!(bytes.text().unwrap_err().to_string(), "Data from secret s is not valid UTF-8");
    }
}
