//! The clock on the wall, as people read it: for dates that are stored and shown, never for measuring time.
#![allow(unsafe_code, reason = "rustix knows no time zones")]

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A date and a time of day where this process runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalTime {
    /// The year.
    pub year: i32,
    /// The month, from 1.
    pub month: i32,
    /// The day of the month, from 1.
    pub day: i32,
    /// Hours.
    pub hour: i32,
    /// Minutes.
    pub minute: i32,
    /// Seconds; 60 in a leap second.
    pub second: i32,
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

/// Time since 1970.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What the clock shows here so many seconds after the beginning of 1970; 1970 itself where it cannot be told.
pub fn local_time(seconds: u64) -> LocalTime {
    let seconds = libc::time_t::try_from(seconds).unwrap_or(0);
    // SAFETY: all fields of `tm` are numbers and one pointer, for which zero is a value.
    let mut found: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to values of ours that live as long as the call; nobody else has them.
    let known = unsafe { libc::localtime_r(&raw const seconds, &raw mut found) };
    if known.is_null() {
        return LocalTime { year: 1970, month: 1, day: 1, ..LocalTime::default() };
    }
    LocalTime {
        year: found.tm_year.saturating_add(1900),
        month: found.tm_mon + 1,
        day: found.tm_mday,
        hour: found.tm_hour,
        minute: found.tm_min,
        second: found.tm_sec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Wherever this runs: within a day of it.
        let found = local_time(1_700_000_000);
        assert!(found.year == 2023 && found.month == 11 && (13..=15).contains(&found.day), "{found}");
        assert_eq!(local_time(u64::MAX).year, 1970);
        let shown = LocalTime { year: 2026, month: 1, day: 2, hour: 3, minute: 4, second: 5 };
        assert_eq!(shown.to_string(), "2026-01-02 03:04:05");
        assert!(since_1970() > Duration::from_secs(1_700_000_000));
    }
}
