//! A dirty bitmap, as QMP tells it.

use engine::BitmapInfo;

use super::number::number;

qmp::structure! {
    /// A dirty bitmap.
    pub struct BitmapDescription {
        /// Its name.
        "name" => name: Option<String>,
        /// Dirty bytes, in whole units.
        "count" => count: i64,
        /// Bytes that a bit stands for.
        "granularity" => granularity: i64,
        /// Whether changes are recorded in it.
        "recording" => recording: bool,
        /// False: nothing keeps a bitmap for itself.
        "busy" => busy: bool,
        /// Whether it is in the image, or goes there when that is closed.
        "persistent" => persistent: bool,
        /// Given where its content is lost, so that it can only be removed.
        "inconsistent" => inconsistent: Option<bool>,
    }
}

impl BitmapDescription {
    /// How QMP tells it.
    pub fn of(bitmap: &BitmapInfo) -> Self {
        Self {
            name: Some(bitmap.name.clone()),
            count: number(bitmap.count),
            granularity: number(bitmap.granularity),
            recording: bitmap.recording,
            busy: false,
            persistent: bitmap.persistent,
            inconsistent: bitmap.inconsistent.then_some(true),
        }
    }
}
