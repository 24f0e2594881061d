//! The formats, one file each.

pub mod qcow2;
