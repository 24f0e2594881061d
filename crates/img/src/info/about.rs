//! What is known of an image, and of all nodes that it lies on.

use engine::SnapshotInfo;
use qcow2::{Backing, BitmapEntry, Header};

/// A node: the image, or one that it lies on.
pub(super) struct About {
    /// Its full name.
    pub(super) filename: String,
    /// Its driver, or the format.
    pub(super) format: &'static str,
    /// Whether it lies on nothing else.
    pub(super) is_protocol: bool,
    pub(super) virtual_size: u64,
    /// Bytes that it takes on a disk, where that can be found out.
    pub(super) disk_size: Option<u64>,
    pub(super) storage: Option<Storage>,
    /// Internal snapshots: of what it lies on, where it has no tables of its own.
    pub(super) snapshots: Vec<SnapshotInfo>,
    /// Of qcow2 images.
    pub(super) image: Option<Details>,
    /// What it lies on, and what lies below it if that was opened: by role, in QEMU's order.
    pub(super) children: Vec<(&'static str, About)>,
}

/// How what it holds is stored.
#[derive(Clone, Copy)]
pub(super) struct Storage {
    /// In bytes, where it has any.
    pub(super) cluster_size: Option<u64>,
    /// Whether its counts may be late.
    pub(super) is_dirty: bool,
}

/// What its own tables say.
pub(super) struct Details {
    pub(super) header: Header,
    /// Its persistent bitmaps.
    pub(super) bitmaps: Vec<BitmapEntry>,
    /// Where the backing image is, seen from here.
    pub(super) full_backing: Option<String>,
}

impl Details {
    /// What the header names to lie below it, and where that is, seen from here.
    pub(super) fn backing(&self) -> Option<(&Backing, &str)> {
        self.header.backing.as_ref().zip(self.full_backing.as_deref())
    }
}

impl Storage {
    /// Of a node of that driver on these: filters and raw images are stored as what they lie on is.
    pub(super) fn of(
        driver: &str,
        image: Option<&Details>,
        children: &[(&'static str, About)],
    ) -> Option<Self> {
        match (driver, image) {
            ("file", _) => Some(Self { cluster_size: None, is_dirty: false }),
            (_, Some(Details { header, .. })) => {
                let cluster_size = Some(1 << header.cluster_bits);
                Some(Self { cluster_size, is_dirty: header.features.dirty() })
            }
            _ => children.iter().find(|(role, _)| *role == "file").and_then(|(_, file)| file.storage),
        }
    }
}
