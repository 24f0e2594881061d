//! Numbers and sizes as QEMU's command lines spell them.
//!
//! A size is decimal with an optional fraction, or hexadecimal, and may end in one of b, k, K, M, G, T, P, E (powers
//! of 1024).

/// Why text is no number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoNumber {
    /// It is none at all.
    Malformed,
    /// It is negative or too large.
    OutOfRange,
}

impl NoNumber {
    /// What `--image-opts` and `-o` say where `text` is given for a size.
    pub fn as_size(self, name: &str, text: &str) -> String {
        match self {
            Self::OutOfRange => format!("Value '{text}' is out of range for parameter '{name}'"),
            Self::Malformed => format!("Parameter '{name}' expects a non-negative number below 2^64"),
        }
    }

    /// The same for a number without a unit.
    pub fn as_number(self, name: &str, text: &str) -> String {
        match self {
            Self::OutOfRange => format!("Value '{text}' is too large for parameter '{name}'"),
            Self::Malformed => format!("Parameter '{name}' expects a number"),
        }
    }
}

/// Reads a size. What is below zero is one only without a unit, in decimal: then it is out of range.
pub fn size(text: &str) -> std::result::Result<u64, NoNumber> {
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
pub fn integer(text: &str) -> std::result::Result<(bool, u64), NoNumber> {
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
        for (text, value) in [("0", 0), ("010", 8), ("0x1F", 31), (" +7", 7)] {
            assert_eq!(integer(text), Ok((false, value)), "{text}");
        }
        assert_eq!(integer("-0"), Ok((true, 0)));
        assert_eq!(integer("-5"), Ok((true, 5)));
        for text in ["", "-", "x", "1k", "08", "0x", "1.0", "--1"] {
            assert_eq!(integer(text), Err(NoNumber::Malformed), "{text}");
        }
        assert_eq!(integer("99999999999999999999"), Err(NoNumber::OutOfRange));
    }
}
