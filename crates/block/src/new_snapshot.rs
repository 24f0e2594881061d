//! An internal snapshot that is to be made.

/// What is said of a snapshot that is to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewSnapshot {
    /// Its name.
    pub name: String,
    /// When it is taken: seconds since 1970.
    pub date_s: u32,
    /// And nanoseconds.
    pub date_ns: u32,
    /// How long the guest had run, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Instructions that the guest had executed, where that was counted.
    pub icount: Option<u64>,
}
