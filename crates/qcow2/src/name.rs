//! Names of other images inside an image, understood as QEMU understands them.
//!
//! Nothing is opened here, and nothing may be opened outside the directories that the configuration allows:
//! that is the driver's check, on what [`resolve`] answers.

use block::{BlockError, ErrorKind};

use crate::Options;

/// What a name stands for.
#[derive(Clone, PartialEq, Debug)]
pub enum Target {
    /// A path: absolute, or relative to the process's working directory.
    Path(String),
    /// Something of a protocol other than `file:`.
    Protocol {
        /// The part before the colon, such as `nbd` or `nbd+unix`.
        scheme: String,
        /// The whole name, prefix included.
        name: String,
    },
    /// Options of a node, from a `json:` name. Relative file names in them are relative to the process's
    /// working directory, not to the overlay.
    Options(Options),
}

/// What `name`, a backing file name stored in the image `overlay`, stands for: a plain relative name is
/// relative to the directory of `overlay`; one with a prefix (`file:` too) or an absolute path stands for
/// itself. `overlay` is the name under which that image was opened, itself a path or a protocol name.
///
/// For the name of a data file pass an empty `overlay`: QEMU takes it as it is.
///
/// Errors: `Invalid` for an empty name, bad JSON, or a relative name in an image opened by a `json:` name or on an
/// NBD server: exports have no directory.
pub fn resolve(name: &str, overlay: &str) -> Result<Target, BlockError> {
    if name.is_empty() {
        return Err(BlockError::new(ErrorKind::Invalid, "the name of an image is empty"));
    }
    if let Some(text) = name.strip_prefix("json:") {
        return Options::parse(text).map(Target::Options);
    }
    if scheme(name).is_some() || name.starts_with('/') {
        return Ok(absolute(name));
    }
    if scheme(overlay) == Some("json") {
        return Err(BlockError::new(
            ErrorKind::Invalid,
            format!("'{name}' is relative, but the image that names it was not opened by a path"),
        ));
    }
    if scheme(overlay).is_some_and(|scheme| scheme == "nbd" || scheme.starts_with("nbd+")) {
        // Another export, of that name: nobody meant that.
        return Err(BlockError::new(ErrorKind::Invalid, "Cannot generate a base directory for NBD nodes"));
    }
    Ok(absolute(&format!("{}{name}", directory(overlay))))
}

/// The same as text, for whoever shows it: a name with a protocol, and one that is no name of a file, as it stands.
pub fn full_name(name: &str, overlay: &str) -> String {
    if scheme(name).is_some() {
        return name.to_owned();
    }
    match resolve(name, overlay) {
        Ok(Target::Path(path)) => path,
        Ok(Target::Protocol { name, .. }) => name,
        Ok(Target::Options(_)) | Err(_) => name.to_owned(),
    }
}

/// A name that does not depend on another one.
fn absolute(name: &str) -> Target {
    match scheme(name) {
        Some("file") => Target::Path(name["file:".len()..].to_owned()),
        Some(scheme) => Target::Protocol { scheme: scheme.to_owned(), name: name.to_owned() },
        None => Target::Path(name.to_owned()),
    }
}

/// The protocol prefix: what stands before a colon that comes before any slash.
pub fn scheme(name: &str) -> Option<&str> {
    let end = name.find([':', '/'])?;
    name[end..].starts_with(':').then_some(&name[..end])
}

/// `name` up to and including its last slash; its prefix where it has no slash.
fn directory(name: &str) -> &str {
    let after_prefix = scheme(name).map_or(0, |scheme| scheme.len() + 1);
    let after_slash = name.rfind('/').map_or(0, |slash| slash + 1);
    &name[..after_prefix.max(after_slash)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Target {
        Target::Path(path.to_owned())
    }

    fn protocol(scheme: &str, name: &str) -> Target {
        Target::Protocol { scheme: scheme.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn relative_names_lie_beside_the_overlay() {
        for (name, overlay, target) in [
            ("base.raw", "/pool/vm.qcow2", path("/pool/base.raw")),
            ("../base.raw", "pool/vm.qcow2", path("pool/../base.raw")),
            ("base.raw", "vm.qcow2", path("base.raw")),
            ("/base.raw", "pool/vm.qcow2", path("/base.raw")),
            ("a/b:c", "/pool/vm.qcow2", path("/pool/a/b:c")),
            ("./b:c", "vm.qcow2", path("./b:c")),
            ("base", "file:pool/vm.qcow2", path("pool/base")),
            ("base", "file:vm.qcow2", path("base")),
            ("base", "odd:vm", protocol("odd", "odd:base")),
            ("x.raw", "", path("x.raw")),
        ] {
            assert_eq!(resolve(name, overlay).unwrap(), target, "{name} in {overlay}");
        }
    }

    #[test]
    fn prefixed_names_stand_for_themselves() {
        assert_eq!(resolve("file:base.raw", "/pool/vm.qcow2").unwrap(), path("base.raw"));
        for (scheme, name) in [
            ("nbd", "nbd://host:10809/export"),
            ("nbd", "nbd:unix:/run/x.sock:exportname=y"),
            ("nbd+unix", "nbd+unix:///e?socket=/run/x.sock"),
            ("odd", "odd:name"),
        ] {
            assert_eq!(resolve(name, "/pool/vm.qcow2").unwrap(), protocol(scheme, name));
        }
        let Target::Options(options) = resolve(r#"json:{"driver":"null-co"}"#, "/vm").unwrap() else {
            panic!()
        };
        assert_eq!(options.text("driver"), Some("null-co"));
    }

    #[test]
    fn what_cannot_be_resolved_is_refused() {
        for (name, overlay) in [
            ("", "/vm"),
            ("json:", "/vm"),
            ("json:[]", "/vm"),
            ("base", "json:{}"),
            ("base", "nbd://host/dir/vm"),
        ] {
            assert_eq!(resolve(name, overlay).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        }
    }
}
