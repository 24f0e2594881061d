//! Which numbers and sizes qemu-img takes, what it says of others, and how it shows sizes.

use driver::numbers::{NoNumber, integer, size};

use crate::failure::{Failure, Result};

/// Largest size in bytes: offsets are signed.
pub(crate) const SIZE_MAX: u64 = i64::MAX as u64;

/// Smallest and largest value that is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range(pub(crate) u64, pub(crate) u64);

/// Any size.
pub(crate) const ANY: Range = Range(0, SIZE_MAX);
/// What fits a C `int`, zero excluded.
pub(crate) const INT: Range = Range(1, i32::MAX as u64);

/// Reads a size, or a number of bytes; `what` is what messages call it.
pub(crate) fn bytes(text: &str, what: &str, range: Range) -> Result<u64> {
    within(size(text), text, what, range)
}

/// Reads a number of things, which has no unit; `what` is what messages call it.
pub(crate) fn count(text: &str, what: &str, range: Range) -> Result<u64> {
    let value = integer(text).and_then(|(negative, value)| match negative && value != 0 {
        true => Err(NoNumber::OutOfRange),
        false => Ok(value),
    });
    within(value, text, what, range)
}

fn within(value: std::result::Result<u64, NoNumber>, text: &str, what: &str, range: Range) -> Result<u64> {
    match value {
        Err(NoNumber::Malformed) => Err(Failure::new(format!("Invalid {what} specified: '{text}'."))),
        Ok(value) if (range.0..=range.1).contains(&value) => Ok(value),
        _ => Err(Failure::new(format!(
            "Invalid {what} specified. Must be between {} and {}.",
            range.0, range.1
        ))),
    }
}

/// A size for people: three digits and a unit (`12.5 KiB`).
pub(crate) fn shown(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    // The next unit from 1000 on, so that three digits are enough.
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes as f64 / (1u64 << (10 * unit)) as f64 >= 1000.0 {
        unit += 1;
    }
    format!("{} {}B", three_digits(bytes as f64 / (1u64 << (10 * unit)) as f64), UNITS[unit])
}

/// As C's `%.3g` shows what is below 1000.
fn three_digits(value: f64) -> String {
    let places = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_a_range() {
        assert_eq!(count("-0", "x", ANY).ok(), Some(0));
        let told = count("-1", "depth", INT).unwrap_err().text.unwrap();
        assert_eq!(told, "Invalid depth specified. Must be between 1 and 2147483647.");
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (12800, "12.5 KiB"),
            (102_400, "100 KiB"),
            (1_323_008, "1.26 MiB"),
            (1 << 30, "1 GiB"),
            (1023 << 20, "0.999 GiB"),
        ] {
            assert_eq!(shown(bytes), text);
        }
    }
}
