//! An internal snapshot, as QMP tells it.

use engine::SnapshotInfo;

use super::number::number;

qmp::structure! {
    /// An internal snapshot.
    pub struct SnapshotDescription {
        /// Its id.
        "id" => id: String,
        /// Its name.
        "name" => name: String,
        /// Bytes of the guest's own state.
        "vm-state-size" => vm_state_size: i64,
        /// When it was taken: seconds since 1970.
        "date-sec" => date_sec: i64,
        /// And nanoseconds.
        "date-nsec" => date_nsec: i64,
        /// How long the guest had run: seconds.
        "vm-clock-sec" => vm_clock_sec: i64,
        /// And nanoseconds.
        "vm-clock-nsec" => vm_clock_nsec: i64,
        /// Instructions that the guest had executed.
        "icount" => icount: Option<i64>,
    }
}

impl SnapshotDescription {
    /// How QMP tells it.
    pub fn of(snapshot: &SnapshotInfo) -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            id: snapshot.id.clone(),
            name: snapshot.name.clone(),
            vm_state_size: number(snapshot.vm_state_size),
            date_sec: snapshot.date_s.into(),
            date_nsec: snapshot.date_ns.into(),
            vm_clock_sec: number(snapshot.vm_clock_ns / SECOND),
            vm_clock_nsec: number(snapshot.vm_clock_ns % SECOND),
            icount: snapshot.icount.map(number),
        }
    }
}
