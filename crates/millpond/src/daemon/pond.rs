//! `--pond`: which one, and how.

use std::path::Path;

use block::{BlockError, ErrorKind, Result};
use engine::keyval;
use serde_json::Value;

use crate::host::{HostOptions, SOURCE_TIMEOUT};

/// What `[folder=]DIR[,runtime=DIR][,source-timeout=SECONDS]` asks for.
pub(super) fn options(text: &str) -> Result<HostOptions> {
    let invalid = |context: String| BlockError::new(ErrorKind::Invalid, format!("--pond {text}: {context}"));
    let mut map = keyval::parse(text, Some("folder")).map_err(|e| e.within(format!("--pond {text}")))?;
    let mut take = |key: &str| match map.remove(key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let (folder, runtime, seconds) = (take("folder"), take("runtime"), take("source-timeout"));
    if let Some(key) = map.keys().next() {
        return Err(invalid(format!("Parameter '{key}' is unexpected: leave it out")));
    }
    let folder =
        folder.ok_or_else(|| invalid("Parameter 'folder' is missing: add the pond's folder".to_owned()))?;
    let seconds = seconds.map(|text| {
        text.parse().map_err(|_| invalid(format!("source-timeout '{text}' is no number of seconds")))
    });
    let seconds = seconds.transpose()?.unwrap_or(SOURCE_TIMEOUT);
    HostOptions::new(Some(Path::new(&folder)), runtime.as_deref().map(Path::new), seconds)
}

#[cfg(test)]
mod tests {
    use super::options;

    #[test]
    fn a_pond_has_a_folder_and_may_have_more() {
        for text in ["/p", "folder=/p", "/p,runtime=/r,source-timeout=5"] {
            assert!(options(text).is_ok(), "{text}");
        }
        for (text, part) in [
            ("runtime=/r", "'folder' is missing"),
            ("/p,nope=1", "'nope' is unexpected"),
            ("/p,source-timeout=soon", "'soon' is no number"),
        ] {
            let error = options(text).err().unwrap().to_string();
            assert!(error.starts_with(&format!("--pond {text}: ")) && error.contains(part), "{error}");
        }
    }
}
