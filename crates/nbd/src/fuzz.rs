//! Entry points for fuzzers: arbitrary bytes from a peer, in arbitrary pieces, into each of the four machines.
//!
//! They panic when a machine breaks a promise: that it consumes what it is fed, that what it buffers stays
//! within its bound, that what it grants lies within the export. The first byte chooses the scene; in some of
//! them the rest is framed, so that it gets past the magics.

use block::ByteRange;

use crate::codec::{
    Cursor, OPTION_MAGIC, OPTION_REPLY_MAGIC, PAYLOAD_MAX, REQUEST_LEN, RequestHeader, TransmissionFlags,
    errno_to_wire,
};
use crate::handshake::client::{ClientHandshake, REPLY_DATA_MAX, Wish};
use crate::handshake::server::{
    ExportInfo, Exports, LIST_REPLY_MAX, OPTION_DATA_MAX, Outcome, Policy, ServerHandshake,
};
use crate::handshake::{BlockSizes, MetaContext};
use crate::transmission::client::{Chunk, ReadProgress, Reply, ReplyParser, extents};
use crate::transmission::{Limits, rule, validate};

/// A vector that grew byte by byte may own up to twice what it holds.
const SLACK: usize = 2;

/// The URI of an export. What is understood is understood again as it is shown.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(uri) = text.parse::<crate::uri::NbdUri>() else { return };
    let again = uri.to_string().parse::<crate::uri::NbdUri>();
    assert!(again.is_ok_and(|again| again == uri), "{uri} is not what it says");
}

/// A client during the handshake.
pub fn server_handshake(data: &[u8]) {
    let Some((scene, data)) = data.split_first() else { return };
    let input = match scene & 1 {
        0 => data.to_vec(),
        _ => [&[0, 0, 0, scene >> 1 & 3][..], &framed(data, option)].concat(),
    };
    let (mut server, mut out) = (ServerHandshake::new(Policy::default()), Vec::new());
    for mut piece in pieces(&input, *scene) {
        while !piece.is_empty() {
            out.clear();
            let progress = server.feed(piece, &OneExport, &mut out);
            assert!(out.len() <= LIST_REPLY_MAX + 8192, "one answer is bounded");
            assert!(server.buffered() <= SLACK * OPTION_DATA_MAX as usize, "what is buffered is bounded");
            piece = &piece[progress.consumed..];
            match progress.outcome {
                Some(Outcome::Transmission(agreed)) => return assert_eq!(agreed.export.name, "disk"),
                Some(_) => return,
                None => assert!(progress.consumed > 0, "bytes that are never consumed"),
            }
        }
    }
}

/// A client during transmission.
pub fn server_transmission(data: &[u8]) {
    let Some((scene, mut data)) = data.split_first() else { return };
    let flags = TransmissionFlags::from_bits(u16::from(*scene) * 0x101);
    let limits =
        Limits { size: 1 << (scene & 0x3f), flags, payload_max: PAYLOAD_MAX, block_status: scene & 1 == 0 };
    while let Some((header, rest)) = data.split_first_chunk::<REQUEST_LEN>() {
        let Ok(header) = RequestHeader::parse(header) else { return };
        let mut again = [0; REQUEST_LEN];
        header.encode(&mut again);
        assert_eq!(RequestHeader::parse(&again), Ok(header));
        match validate(&header, &limits) {
            Ok(command) if command.code() != 2 => {
                let range = ByteRange::checked(header.offset, header.len.into());
                assert!(range.is_some_and(|range| range.end() <= limits.size));
                assert!(header.flags.without(rule(command).allowed(flags)).is_empty());
                assert!(!rule(command).writes || !flags.contains(TransmissionFlags::READ_ONLY));
            }
            Ok(_) => return,
            Err(refusal) => assert_ne!(errno_to_wire(refusal.errno), 0),
        }
        data = rest.get(header.payload_len() as usize..).unwrap_or_default();
    }
}

/// A server during the handshake.
pub fn client_handshake(data: &[u8]) {
    let Some((scene, data)) = data.split_first() else { return };
    let wish = Wish { export: "disk".into(), structured: scene & 2 != 0, allocation: scene & 4 != 0 };
    let mut client = if scene & 8 == 0 { ClientHandshake::new(wish) } else { ClientHandshake::list() };
    let mut out = Vec::new();
    let mut data = data;
    if scene & 1 != 0 {
        client.feed(b"NBDMAGICIHAVEOPT\0\x03", &mut out);
    }
    loop {
        // One frame at a time, since what it has to answer depends on what became of the last one.
        let frame = match scene & 1 {
            0 => std::mem::take(&mut data).to_vec(),
            _ => next_frame(&mut data, |code, len| reply(client.option().code(), code, len)),
        };
        if frame.is_empty() {
            return;
        }
        for mut piece in pieces(&frame, *scene) {
            while !piece.is_empty() {
                out.clear();
                let progress = client.feed(piece, &mut out);
                assert!(out.len() <= 16384, "one request is bounded");
                assert!(client.buffered() <= SLACK * REPLY_DATA_MAX as usize, "what is buffered is bounded");
                piece = &piece[progress.consumed..];
                match progress.outcome {
                    Some(_) => return,
                    None => assert!(progress.consumed > 0, "bytes that are never consumed"),
                }
            }
        }
    }
}

/// A server during transmission, answering one read of 64 KiB at 4096.
pub fn client_transmission(data: &[u8]) {
    let Some((scene, data)) = data.split_first() else { return };
    let range = ByteRange::new(4096, 65536);
    let (mut parser, mut read) = (ReplyParser::new(scene & 1 != 0), ReadProgress::new(range));
    for mut piece in pieces(data, *scene) {
        while !piece.is_empty() {
            let missing = parser.missing();
            let Ok(progress) = parser.feed(piece) else { return };
            assert!(progress.consumed > 0, "bytes that are never consumed");
            assert!(progress.reply.is_some() || progress.consumed == piece.len());
            assert!(progress.reply.is_none() || progress.consumed >= missing, "complete too early");
            assert!(parser.buffered() <= SLACK * data.len().max(4096), "only what arrived is buffered");
            piece = &piece[progress.consumed..];
            if let Some(Reply::Chunk { done, chunk, .. }) = progress.reply
                && !take(&mut read, range, chunk, done)
            {
                return;
            }
        }
    }
}

/// Applies a chunk as a client does; answers whether the connection lives on.
fn take(read: &mut ReadProgress, range: ByteRange, chunk: Chunk, done: bool) -> bool {
    match chunk {
        Chunk::OffsetData { offset, len } | Chunk::OffsetHole { offset, len } => {
            let Ok(place) = read.content(offset, len) else { return false };
            assert!(place.end <= range.len() as usize && place.len() == len as usize);
        }
        Chunk::BlockStatus { descriptors, .. } => {
            let Ok(extents) = extents(range, &descriptors) else { return false };
            assert!(extents.iter().all(|extent| range.contains(extent.range)));
        }
        Chunk::Error { errno, .. } => read.failed(errno),
        Chunk::None => assert!(done),
    }
    let _ = read.finish();
    true
}

/// `data` in pieces whose lengths follow from `seed`.
fn pieces(data: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (data, u32::from(seed) | 1);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, tail) = rest.split_at_checked(1 + (state >> 26) as usize).unwrap_or((rest, &[]));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

/// `data` as frames: each begins with a code and a length, which `head` makes a header of.
fn framed(mut data: &[u8], head: impl Fn(u8, u32) -> Vec<u8>) -> Vec<u8> {
    let mut all = Vec::new();
    while !data.is_empty() {
        all.extend(next_frame(&mut data, &head));
    }
    all
}

fn next_frame(data: &mut &[u8], head: impl Fn(u8, u32) -> Vec<u8>) -> Vec<u8> {
    let mut cursor = Cursor::new(data);
    let (Ok(code), Ok(len)) = (cursor.bytes(1), cursor.bytes(1)) else {
        return std::mem::take(data).to_vec();
    };
    let (code, len) = (code[0], len[0]);
    let body = cursor.clone().bytes(len.into()).unwrap_or(cursor.rest());
    *data = data.get(2 + body.len()..).unwrap_or_default();
    [head(code, len.into()).as_slice(), body].concat()
}

fn option(code: u8, len: u32) -> Vec<u8> {
    let mut head = OPTION_MAGIC.to_be_bytes().to_vec();
    head.extend(u32::from(code).to_be_bytes());
    head.extend(len.to_be_bytes());
    head
}

fn reply(option: u32, code: u8, len: u32) -> Vec<u8> {
    let mut head = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    head.extend(option.to_be_bytes());
    // The upper half of the codes stands for the errors.
    head.extend((u32::from(code & 0x80) << 24 | u32::from(code & 0x7f)).to_be_bytes());
    head.extend(len.to_be_bytes());
    head
}

/// A server with one export.
struct OneExport;

impl Exports for OneExport {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        ["", "disk"].contains(&name).then(|| ExportInfo {
            name: "disk".into(),
            description: "a disk".into(),
            size: 1 << 30,
            flags: TransmissionFlags::from_bits(0xd6d),
            block_sizes: BlockSizes::DEFAULT,
            contexts: vec![MetaContext::base_allocation()],
        })
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, &str) -> bool) {
        visit("disk", "a disk");
    }
}

#[cfg(test)]
mod tests;
