//! The filters, one file each.

pub mod copy_on_read;
