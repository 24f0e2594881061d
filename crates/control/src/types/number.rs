//! Numbers as QMP tells them: signed.

/// The same number, or the largest that there is.
pub(crate) fn number(value: u64) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
