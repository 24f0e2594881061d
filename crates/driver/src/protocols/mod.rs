//! The protocols, one file each.

pub mod file;
pub mod nbd;
