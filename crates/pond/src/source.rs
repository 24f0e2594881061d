//! Where the images of caches come from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use nbd::uri::{Address, NbdUri};
use serde_json::{Value, json};

/// An image that caches are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// An export of an NBD server, by its URI.
    Nbd {
        /// `nbd://...` or `nbd+unix://...`, as [`NbdUri`] writes it.
        uri: String,
    },
    /// A file of this machine.
    File {
        /// Absolute.
        path: PathBuf,
        /// Driver name of its format.
        format: &'static str,
    },
}

impl Source {
    /// What a user names: an NBD URI, or the path of a file whose name says its format. `folder` is what relative paths
    /// are relative to.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let invalid = |context: String| BlockError::new(ErrorKind::Invalid, context);
        if text.contains("://") {
            let uri: NbdUri =
                text.parse().map_err(|e| BlockError::from(e).within(format_args!("source '{text}'")))?;
            if matches!(&uri.address, Address::Unix(path) if !path.starts_with(b"/")) {
                return Err(invalid(format!("source '{text}': the path of its socket must be absolute")));
            }
            return Ok(Self::Nbd { uri: text.to_owned() });
        }
        let path = folder.join(text);
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("qcow2") => "qcow2",
            Some("raw" | "img") => "raw",
            _ => {
                return Err(invalid(format!(
                    "source '{text}': a file must be named .qcow2, .raw or .img, since formats are never guessed; an \
                     export is named nbd://HOST/NAME"
                )));
            }
        };
        Ok(Self::File { path, format })
    }

    /// The options of a node that reads it, without its name. `identity` is what it was the last time.
    pub(crate) fn options(&self, patience: Duration, identity: Option<&str>) -> Value {
        match self {
            Self::Nbd { uri } => {
                let mut options = json!({
                    "driver": "nbd",
                    "filename": uri,
                    "reconnect-delay": patience.as_secs(),
                });
                if let Some(identity) = identity {
                    options["identity"] = json!(identity);
                }
                options
            }
            Self::File { path, format } => json!({
                "driver": format,
                "file": { "driver": "file", "filename": path },
            }),
        }
    }

    /// The last part of its name.
    pub(crate) fn stem(&self) -> String {
        let text = self.to_string();
        let text = text.split(['?', '#']).next().unwrap_or_default();
        let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let stem: String = last.chars().map(plain).take(40).collect();
        let stem = stem.trim_start_matches('.');
        if stem.is_empty() { "image".to_owned() } else { stem.to_owned() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nbd { uri } => f.write_str(uri),
            Self::File { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_exports_or_files_with_a_known_ending() {
        let here = Path::new("/here");
        for (text, stem) in [
            ("nbd://host/debian.qcow2", "debian.qcow2"),
            ("nbd://host:99/os/a%20b", "a_20b"),
            ("nbd+unix:///disk?socket=/run/s", "disk"),
            ("nbd://host", "host"),
            ("images/x.raw", "x.raw"),
            ("/abs/.y.qcow2", "y.qcow2"),
        ] {
            let source = Source::parse(text, here).unwrap();
            assert_eq!(source.stem(), stem, "{text}");
            assert_eq!(Source::parse(&source.to_string(), here).unwrap(), source);
        }
        for (text, words) in [
            ("http://host/x", "http"),
            ("x.iso", ".qcow2, .raw or .img"),
            ("nbd+unix:///x?socket=rel", "absolute"),
            ("nbd://", "nbd://"),
        ] {
            let error = Source::parse(text, here).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
