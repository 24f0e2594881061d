//! Headers good and bad, built by code.

use super::*;

/// A version 3 header of an empty 1 MiB disk with 64 KiB clusters, 104 bytes long.
fn v3() -> Vec<u8> {
    let mut bytes = vec![0; 1 << 16];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    put32(&mut bytes, 4, 3);
    put32(&mut bytes, 20, 16);
    put64(&mut bytes, 24, 1 << 20);
    put32(&mut bytes, 36, 1);
    put64(&mut bytes, 40, 3 << 16);
    put64(&mut bytes, 48, 1 << 16);
    put32(&mut bytes, 56, 1);
    put32(&mut bytes, 96, 4);
    put32(&mut bytes, 100, 104);
    bytes
}

fn v2() -> Vec<u8> {
    let mut bytes = v3();
    put32(&mut bytes, 4, 2);
    bytes[72..104].fill(0);
    bytes
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Appends an extension at `at`, answers where the next one goes.
fn extend(bytes: &mut [u8], at: usize, kind: u32, data: &[u8]) -> usize {
    put32(bytes, at, kind);
    put32(bytes, at + 4, data.len() as u32);
    bytes[at + 8..at + 8 + data.len()].copy_from_slice(data);
    at + 8 + data.len().next_multiple_of(8)
}

fn error(bytes: &[u8]) -> (ErrorKind, String) {
    let error = Header::parse(bytes).expect_err("this header lies");
    (error.kind(), error.to_string())
}

/// Changes a good header and expects `Corrupt` with `words` in the message.
fn lies(words: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = v3();
    change(&mut bytes);
    let (kind, text) = error(&bytes);
    assert_eq!(kind, ErrorKind::Corrupt, "{text}");
    assert!(text.contains(words), "'{text}' does not say '{words}'");
}

#[test]
fn plain_headers_of_both_versions() {
    let header = Header::parse(&v3()).unwrap();
    assert_eq!((header.version, header.virtual_size, header.cluster_bits), (Version::V3, 1 << 20, 16));
    assert_eq!((header.l1_offset, header.l1_entries), (HostOffset(3 << 16), 1));
    assert_eq!(header.refcount_table.bits, 16);
    assert_eq!((header.backing, header.data_file, header.bitmaps), (None, None, None));
    let header = Header::parse(&v2()).unwrap();
    assert_eq!((header.version, header.header_len, header.refcount_table.bits), (Version::V2, 72, 16));
    assert_eq!(Header::needed(&v2()[..Header::PREFIX]).unwrap(), 1 << 16);
}

#[test]
fn backing_names_and_extensions() {
    let mut bytes = v3();
    let mut at = extend(&mut bytes, 104, 0xe279_2aca, b"raw");
    at = extend(&mut bytes, at, 0x1234_5678, b"future");
    at = extend(&mut bytes, at, 0, b"");
    bytes[at..at + 9].copy_from_slice(b"base.raw\0");
    put64(&mut bytes, 8, at as u64);
    put32(&mut bytes, 16, 9);
    let header = Header::parse(&bytes).unwrap();
    let backing = header.backing.unwrap();
    assert_eq!((backing.name.as_str(), backing.format.as_deref()), ("base.raw", Some("raw")));
    assert_eq!(header.unknown_extensions, [UnknownExtension { kind: 0x1234_5678, data: b"future".to_vec() }]);
}

#[test]
fn data_files_and_bitmaps_are_reported() {
    let mut bytes = v3();
    put64(&mut bytes, 72, 4);
    put64(&mut bytes, 88, 3);
    let mut bitmaps = [0; 24];
    put32(&mut bitmaps, 0, 2);
    put64(&mut bitmaps, 8, 64);
    put64(&mut bitmaps, 16, 5 << 16);
    let at = extend(&mut bytes, 104, 0x4441_5441, b"disk.raw");
    extend(&mut bytes, at, 0x2385_2875, &bitmaps);
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.data_file, Some(DataFile { name: Some("disk.raw".to_owned()), raw: true }));
    let directory = BitmapsExtension { count: 2, directory_len: 64, directory: HostOffset(5 << 16) };
    assert_eq!(header.bitmaps, Some(directory));
    // Without its autoclear bit the extension is not to be believed, whatever it holds.
    put64(&mut bytes, 88, 0);
    put32(&mut bytes, at + 8, 0);
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.bitmaps, None);
    assert!(!header.data_file.unwrap().raw);
}

#[test]
fn unknown_features_are_refused_by_name() {
    let mut bytes = v3();
    put64(&mut bytes, 72, 1 << 5 | 1 << 63);
    let mut table = [0u8; 96];
    table[..2].copy_from_slice(&[1, 5]);
    table[2..7].copy_from_slice(b"wrong");
    table[48..50].copy_from_slice(&[0, 5]);
    table[50..58].copy_from_slice(b"time\nbox");
    extend(&mut bytes, 104, 0x6803_f857, &table);
    let (kind, text) = error(&bytes);
    assert_eq!(kind, ErrorKind::Unsupported);
    let told = r"Unsupported qcow2 feature(s): time\nbox, Unknown incompatible feature: 8000000000000000";
    assert_eq!(text, told);
    // Also when nothing else of the header makes sense, and where the last name is cut short.
    put32(&mut bytes, 20, 99);
    put32(&mut bytes, 108, 54);
    assert_eq!(error(&bytes).1, told.replace(r"\nbox", ""));
}

#[test]
fn what_we_do_not_do_is_named() {
    for (method, name) in [(1, "AES-CBC"), (2, "LUKS"), (7, "unknown method 7")] {
        let mut bytes = v2();
        put32(&mut bytes, 32, method);
        let (kind, text) = error(&bytes);
        assert!(kind == ErrorKind::Unsupported && text.contains(name), "{text}");
    }
    for (version, name) in [(1, "version 1"), (4, "version 4")] {
        let mut bytes = v3();
        put32(&mut bytes, 4, version);
        assert_eq!(error(&bytes).0, ErrorKind::Unsupported);
        assert!(error(&bytes).1.contains(name));
    }
    let mut bytes = v3();
    put64(&mut bytes, 72, 8);
    put32(&mut bytes, 100, 112);
    bytes[104] = 2;
    assert_eq!(error(&bytes).0, ErrorKind::Unsupported);
}

#[test]
fn dirty_and_corrupt_images_are_read_but_not_written() {
    for (bit, word) in [(1, "dirty"), (2, "corrupt")] {
        let mut bytes = v3();
        put64(&mut bytes, 72, bit);
        let refusal = Header::parse(&bytes).unwrap().writable().unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::NotPermitted);
        assert!(refusal.to_string().contains(word));
    }
    Header::parse(&v3()).unwrap().writable().unwrap();
}

#[test]
fn lying_fields_are_refused() {
    lies("magic", |b| b[3] = 0);
    lies("middle of the header", |b| b.truncate(103));
    lies("header length 103", |b| put32(b, 100, 103));
    lies("header length 105", |b| put32(b, 100, 105));
    lies("too small for a header of 65544", |b| put32(b, 100, 65544));
    lies("cluster size 2^8", |b| put32(b, 20, 8));
    lies("cluster size 2^22", |b| put32(b, 20, 22));
    lies("at least 16 KiB", |b| {
        put64(b, 72, 16);
        put32(b, 20, 13);
    });
    lies("refcount order 7", |b| put32(b, 96, 7));
    lies("refcount table at", |b| put64(b, 48, 0x10200));
    lies("refcount table at", |b| put64(b, 48, 1 << 56));
    lies("refcount table of", |b| put32(b, 56, u32::MAX));
    lies("snapshot table at", |b| put64(b, 64, 1));
    lies("L1 table at", |b| put64(b, 40, 0x30008));
    lies("more than 32 MiB", |b| put32(b, 36, (4 << 20) + 1));
    lies("L1 table is too small", |b| put64(b, 24, (1 << 30) + 1));
    lies("Image is too big", |b| put64(b, 24, u64::MAX));
    lies("deflate", |b| put64(b, 72, 8));
    lies("compression type 1 without", |b| {
        put32(b, 100, 112);
        b[104] = 1;
    });
}

#[test]
fn lying_names_and_extensions_are_refused() {
    lies("starts at byte 71", |b| put64(b, 8, 71));
    lies("starts at byte 65537", |b| put64(b, 8, 65537));
    lies("starts at byte 18446744073709551615", |b| put64(b, 8, u64::MAX));
    lies("claims 1024 bytes", |b| {
        put64(b, 8, 200);
        put32(b, 16, 1024);
    });
    lies("leaves the first cluster", |b| {
        put64(b, 8, 65530);
        put32(b, 16, 7);
    });
    lies("not UTF-8", |b| {
        put64(b, 8, 104);
        put32(b, 16, 1);
        b[104] = 0xff;
    });
    lies("claims 4294967295 bytes", |b| {
        put32(b, 104, 77);
        put32(b, 108, u32::MAX);
    });
    lies("claims 9 bytes, but only 8 are left", |b| {
        put64(b, 8, 120);
        put32(b, 104, 77);
        put32(b, 108, 9);
    });
    for (len, words) in [(23, "24 bytes"), (24, "0 bitmaps")] {
        lies(words, |b| {
            put64(b, 88, 1);
            extend(b, 104, 0x2385_2875, &vec![0; len]);
        });
    }
}

#[test]
fn of_extensions_that_say_the_same_the_last_one_counts() {
    let mut first = v3();
    let at = extend(&mut first, 104, 0xe279_2aca, b"raw");
    extend(&mut first, at, 0xe279_2aca, b"foo");
    put64(&mut first, 8, 200);
    put32(&mut first, 16, 1);
    first[200] = b'/';
    let backing = |first: &[u8]| Header::parse(first).unwrap().backing.unwrap().format;
    assert_eq!(backing(&first).as_deref(), Some("foo"));
    let named = crate::Backing { name: "/".to_owned(), format: Some("qcow2".to_owned()) };
    for write in crate::HeaderEdit::Backing(named).writes(&first).unwrap() {
        first[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    }
    assert_eq!(backing(&first).as_deref(), Some("qcow2"));
}
