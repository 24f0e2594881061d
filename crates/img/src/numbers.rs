//! Numbers and sizes as qemu-img takes them, and as it shows sizes.
//!
//! A size is decimal with an optional fraction, or hexadecimal, and may end in one of b, k, K, M, G, T, P, E (powers
//! of 1024).

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

/// Why text is no number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoNumber {
    /// It is none at all.
    Malformed,
    /// It is negative or too large.
    OutOfRange,
}

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

/// Reads a size. What is below zero is one only without a unit, in decimal: then it is out of range.
pub(crate) fn size(text: &str) -> std::result::Result<u64, NoNumber> {
    let text = text.trim_start();
    if let Some(digits) = text.strip_prefix('-') {
        return match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true if digits.bytes().all(|byte| byte == b'0') => Ok(0),
            true => Err(NoNumber::OutOfRange),
            false => Err(NoNumber::Malformed),
        };
    }
    let digits = text.strip_prefix('+').unwrap_or(text);
    match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => in_base(hex, 16),
        None => decimal(digits),
    }
}

/// Reads an integer as C does whatever its base (`0x10`, `010`, `10`): whether it is negative, and what it is without
/// its sign.
pub(crate) fn integer(text: &str) -> std::result::Result<(bool, u64), NoNumber> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, base) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    Ok((negative, in_base(digits, base)?))
}

/// Reads digits of that base, and nothing else.
fn in_base(digits: &str, base: u32) -> std::result::Result<u64, NoNumber> {
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(NoNumber::Malformed);
    }
    u64::from_str_radix(digits, base).map_err(|_| NoNumber::OutOfRange)
}

fn decimal(text: &str) -> std::result::Result<u64, NoNumber> {
    let end = text.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if digits.len() < 2 && whole.is_empty() || fraction.contains('.') {
        return Err(NoNumber::Malformed);
    }
    let shift = match suffix {
        "" | "b" | "B" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "p" | "P" => 50,
        "e" | "E" => 60,
        _ => return Err(NoNumber::Malformed),
    };
    // Before the point there may be nothing. What is too long is read up to its unit, which then stands for itself.
    let too_long = if suffix.is_empty() { NoNumber::OutOfRange } else { NoNumber::Malformed };
    let whole: u64 = format!("0{whole}").parse().map_err(|_| too_long)?;
    let has_fraction = fraction.bytes().any(|b| b != b'0');
    if has_fraction && shift == 0 {
        return Err(NoNumber::Malformed);
    }
    let part = match has_fraction {
        // Digits and a point make a number.
        true => format!("0.{fraction}").parse::<f64>().unwrap_or(0.0) * (1u64 << shift) as f64,
        false => 0.0,
    };
    let whole = whole.checked_mul(1 << shift).ok_or(NoNumber::OutOfRange)?;
    whole.checked_add((part + 0.5) as u64).ok_or(NoNumber::OutOfRange)
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
    fn sizes_are_those_of_qemu() {
        for (text, value) in [
            ("0", 0),
            ("1M", 1 << 20),
            ("1.5G", 3 << 29),
            ("0x100000", 1 << 20),
            ("1b", 1),
            (" 7", 7),
            ("-0", 0),
            ("1.0", 1),
            ("4k", 4096),
            (".5k", 512),
            ("1.k", 1024),
        ] {
            assert_eq!(size(text), Ok(value), "{text}");
        }
        for text in [
            "",
            "x",
            "1Z",
            "1kk",
            "1.5",
            "1.2.3k",
            "0x",
            "0x1k",
            ".5",
            ".k",
            ".",
            "1 M",
            "-",
            "-1k",
            "-0k",
            "-0x1",
            "-1.5",
            "99999999999999999999k",
        ] {
            assert_eq!(size(text), Err(NoNumber::Malformed), "{text}");
        }
        for text in ["-1", "16E", "99999999999999999999", "0x1ffffffffffffffff"] {
            assert_eq!(size(text), Err(NoNumber::OutOfRange), "{text}");
        }
    }

    #[test]
    fn integers_are_those_of_c() {
        for (text, value) in [("0", 0), ("010", 8), ("0x1F", 31), (" +7", 7), ("-0", 0)] {
            assert_eq!(count(text, "x", ANY).ok(), Some(value), "{text}");
        }
        assert_eq!(integer("-5"), Ok((true, 5)));
        for text in ["", "-", "x", "1k", "08", "0x", "1.0", "--1"] {
            assert_eq!(integer(text), Err(NoNumber::Malformed), "{text}");
        }
        assert_eq!(integer("99999999999999999999"), Err(NoNumber::OutOfRange));
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
