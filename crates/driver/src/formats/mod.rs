//! The formats, one file each.

pub mod memory_format;
pub mod qcow2;
pub mod raw;
