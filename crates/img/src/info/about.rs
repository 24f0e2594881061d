//! What is known of an image, and of all nodes that it lies on.

use engine::ImageFacts;

/// A node: the image, or one that it lies on.
pub(super) struct About {
    /// Its full name.
    pub(super) filename: String,
    /// Its driver, or the format.
    pub(super) format: &'static str,
    /// Whether it lies on nothing else.
    pub(super) is_protocol: bool,
    pub(super) virtual_size: u64,
    pub(super) facts: ImageFacts,
    /// What it lies on, and what lies below it if that was opened: by role, in QEMU's order.
    pub(super) children: Vec<(&'static str, About)>,
}
