//! LUKS containers, as far as they are measured: how many bytes lie in front of the payload. They are neither read nor
//! made.
//!
//! The layout is LUKS 1's: a header, then eight key slots of a master key that is spread over 4000 stripes, each slot
//! at a multiple of 4096 bytes.

use crate::failure::{Failure, Result};
use crate::session::Session;
use crate::settings::{Setting, Settings, Takes};

const SECTOR: u64 = 512;
/// What key slots begin at multiples of, in sectors; as many the header takes.
const SLOT_ALIGN: u64 = 8;
const SLOTS: u64 = 8;
const STRIPES: u64 = 4000;

/// Ciphers that QEMU has, and the bytes of their keys.
const CIPHERS: [(&str, u64); 10] = [
    ("aes-128", 16),
    ("aes-192", 24),
    ("aes-256", 32),
    ("cast5-128", 16),
    ("serpent-128", 16),
    ("serpent-192", 24),
    ("serpent-256", 32),
    ("twofish-128", 16),
    ("twofish-192", 24),
    ("twofish-256", 32),
];
/// Those that it knows and does not take here.
const REFUSED: [&str; 3] = ["des", "3des", "sm4"];
const MODES: [&str; 4] = ["ecb", "cbc", "xts", "ctr"];
const IV_GENERATORS: [&str; 3] = ["plain", "plain64", "essiv"];
const HASHES: [&str; 8] = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"];

/// The settings of the format, with QEMU's names and texts.
#[rustfmt::skip]
pub(crate) const SETTINGS: &[Setting] = &[
    row("cipher-alg", Takes::Text, "Name of encryption cipher algorithm"),
    row("cipher-mode", Takes::Text, "Name of encryption cipher mode"),
    row("detached-header", Takes::Switch, "Create a detached LUKS header"),
    row("hash-alg", Takes::Text, "Name of encryption hash algorithm"),
    row("iter-time", Takes::Number, "Time to spend in PBKDF in milliseconds"),
    row("ivgen-alg", Takes::Text, "Name of IV generator algorithm"),
    row("ivgen-hash-alg", Takes::Text, "Name of IV generator hash algorithm"),
    row("key-secret", Takes::Text, "ID of the secret that provides the keyslot passphrase"),
    row("size", Takes::Size, "Virtual disk size"),
];

const fn row(name: &'static str, takes: Takes, about: &'static str) -> Setting {
    Setting { name, takes, about, default: None }
}

/// Bytes in front of the payload of a container with these settings, whose names begin with `prefix`. Refused as QEMU
/// refuses to make it.
pub(crate) fn payload_offset(session: &Session, prefix: &str, settings: &Settings) -> Result<u64> {
    let value = |name: &str| settings.text(&format!("{prefix}{name}"));
    let ciphers: Vec<_> = CIPHERS.iter().map(|(name, _)| *name).chain(REFUSED).collect();
    let checked = [
        ("cipher-alg", &ciphers[..]),
        ("cipher-mode", &MODES[..]),
        ("ivgen-alg", &IV_GENERATORS[..]),
        ("ivgen-hash-alg", &HASHES[..]),
        ("hash-alg", &HASHES[..]),
    ];
    for (name, allowed) in checked {
        if let Some(other) = value(name).filter(|value| !allowed.contains(value)) {
            return Err(Failure::new(format!("Parameter '{name}' does not accept value '{other}'")));
        }
    }
    if settings.any_of(&[&format!("{prefix}detached-header")]).is_some() {
        return Err(Failure::new("Parameter 'detached-header' is unexpected"));
    }
    let Some(secret) = value("key-secret") else {
        return Err(Failure::new(format!("Parameter '{prefix}key-secret' is required for cipher")));
    };
    session.engine.objects().secret(secret)?;
    key_slots_end(value("cipher-alg").unwrap_or("aes-256"), value("cipher-mode").unwrap_or("xts"))
}

fn key_slots_end(cipher: &str, mode: &str) -> Result<u64> {
    let Some((_, key)) = CIPHERS.iter().find(|(name, _)| *name == cipher) else {
        return Err(Failure::new(format!("Algorithm '{cipher}' not supported")));
    };
    let key = match (cipher, mode) {
        ("cast5-128", "xts") => return Err(Failure::new("Unsupported cipher mode xts")),
        // One half for the tweak.
        (_, "xts") => key * 2,
        _ => *key,
    };
    let slot = (key * STRIPES).div_ceil(SECTOR).next_multiple_of(SLOT_ALIGN);
    Ok((SLOT_ALIGN + SLOTS * slot) * SECTOR)
}

#[cfg(test)]
mod tests {
    use super::key_slots_end;

    #[test]
    fn payloads_begin_where_qemu_has_them() {
        let found = [("aes-256", "xts"), ("aes-128", "xts"), ("aes-192", "xts"), ("aes-128", "cbc")];
        let found = found.map(|(cipher, mode)| key_slots_end(cipher, mode).expect("known"));
        assert_eq!(found, [2_068_480, 1_052_672, 1_544_192, 528_384]);
    }
}
