//! Flags that many verbs take.

use crate::given::Flag;

/// `-f`.
pub(crate) const FORMAT: Flag = Flag::with('f', "format", "FMT", "format of the image");
/// `--image-opts`.
pub(crate) const IMAGE_OPTS: Flag = Flag::long("image-opts", "FILENAME is a set of options (driver=...,...)");
/// `-U`.
pub(crate) const FORCE_SHARE: Flag =
    Flag::switch('U', "force-share", "without locks, while another program may write to it");
/// `--object`.
pub(crate) const OBJECT: Flag = Flag::long_with("object", "OBJDEF", "define an object (secret,id=...)");
/// `--output`.
pub(crate) const OUTPUT: Flag = Flag::long_with("output", "human|json", "how to answer");
/// `-q`.
pub(crate) const QUIET: Flag = Flag::switch('q', "quiet", "say nothing but errors");
/// `-p`.
pub(crate) const PROGRESS: Flag = Flag::switch('p', "progress", "show how far it is");
/// `-T`.
pub(crate) const READ_CACHE: Flag = Flag::with('T', "cache", "CACHE", "cache mode (writeback)");
/// `-t`.
pub(crate) const CACHE: Flag = Flag::with('t', "cache", "CACHE", "cache mode (writeback)");
