//! Types of arguments and answers that several commands share, or that are long.

pub mod address;
mod checked;
pub mod dirty_bitmap;
pub mod image_info;
pub mod job_info;
pub mod job_options;
pub mod node_info;
pub mod node_options;
pub(crate) mod number;
pub mod object_options;
pub mod schema_info;
pub mod snapshot_info;
