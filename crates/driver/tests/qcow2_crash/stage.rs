//! What the work of a row has at hand.

use std::cell::RefCell;
use std::collections::BTreeMap;

use flow::{Request, View, seam};
use io::{Lease, LocalFut};
use sim::SimDisk;

use crate::lab::{Lab, Tree};
use crate::model::Model;

/// Work on an image: a function of the stage, whose seed decides all.
pub type Work = for<'a> fn(&'a Stage<'a>) -> LocalFut<'a, ()>;

/// Something that must be true of a disk that a power cut has left; the error says what is not.
pub type Promise = Box<dyn Fn(&SimDisk) -> Result<(), String>>;

/// Promises, each about a subject of its own.
pub type Promises = BTreeMap<&'static str, Promise>;

/// An open image in a world that may end at any moment.
pub struct Stage<'a> {
    pub lab: &'a Lab,
    /// The image, open for writing.
    pub tree: &'a Tree,
    /// Bytes of its clusters.
    pub cluster: u64,
    pub seed: u64,
    /// What each sector of the disk may hold. Whoever writes says so, before and after.
    pub model: &'a RefCell<Model>,
    /// Whether the disk may fail.
    pub fails: bool,
    pub promises: &'a RefCell<Promises>,
}

impl Stage<'_> {
    /// From now on this must be true after a power cut, in place of what was promised of the subject before; also after
    /// somebody has then written all over the image.
    pub fn promise(&self, subject: &'static str, promise: impl Fn(&SimDisk) -> Result<(), String> + 'static) {
        self.promises.borrow_mut().insert(subject, Box::new(promise));
    }
}

pub async fn flush(view: &View) {
    try_flush(view).await.unwrap();
}

pub async fn try_flush(view: &View) -> block::Result<()> {
    seam::execute(view, Request::flush(), Lease::empty()).await.0
}
