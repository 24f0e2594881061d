//! Who is waiting for a request.

/// Priority of a request: a lower one yields to a higher one at every queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Background copying: nobody waits for it.
    Fill,
    /// Somebody will probably want it soon.
    Prefetch,
    /// A guest is waiting.
    #[default]
    Demand,
}
