//! Tables that nobody looks at leave memory (`cache-clean-interval`).
//!
//! Invariant: what differs from the file stays: it is in the books, not only in the cache.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::image::Image;

/// From now on tables that nobody has looked at for an interval, two at the most, leave memory, as long as there is the
/// image.
pub(super) fn watch(image: &Arc<Image>, interval: Duration) {
    let image = Arc::downgrade(image);
    io::spawn(async move {
        loop {
            io::sleep(interval).await;
            if !clean(&image) {
                return;
            }
        }
    });
}

/// Answers whether the image is still there.
fn clean(image: &Weak<Image>) -> bool {
    let Some(image) = image.upgrade() else { return false };
    image.slices.drop_unused();
    if let Some(writer) = &image.writer {
        writer.books.lock().refcounts.drop_unused();
    }
    true
}
