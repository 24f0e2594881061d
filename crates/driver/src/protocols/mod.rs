//! The protocols, one file each.

pub mod file;
pub mod memory;
pub mod nbd;
pub mod null;
