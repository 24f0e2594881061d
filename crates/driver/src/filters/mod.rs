//! The filters, one file each.
