//! Both ends against each other: what one writes the other reads, in pieces of any size.

use block::{ByteRange, Errno, Extent, ExtentState};
use proptest::collection::vec;
use proptest::prelude::*;

use super::client::{Chunk, Reply, ReplyParser, encode_request, extents};
use super::server::put_block_status;
use super::*;
use crate::codec::*;

fn extent_states() -> impl Strategy<Value = Vec<(u32, ExtentState)>> {
    let state =
        prop_oneof![Just(ExtentState::Data), Just(ExtentState::AllocatedZero), Just(ExtentState::Hole)];
    vec((1u32..1 << 20, state), 1..20)
}

/// What a server may say; the strategy's shadow of [`Reply`].
#[derive(Clone, Debug)]
enum Said {
    Simple(Option<Errno>),
    None,
    Data(u64, Vec<u8>),
    Hole(u64, u32),
    Status(Vec<(u32, ExtentState)>),
    Error(String),
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        prop_oneof![Just(None), Just(Some(Errno::NOSPC))].prop_map(Said::Simple),
        Just(Said::None),
        (any::<u64>(), vec(any::<u8>(), 1..50)).prop_map(|(offset, data)| Said::Data(offset, data)),
        (any::<u64>(), 1u32..).prop_map(|(offset, len)| Said::Hole(offset, len)),
        extent_states().prop_map(Said::Status),
        ".{0,30}".prop_map(Said::Error),
    ]
}

/// Consecutive extents from 0 on.
fn laid_out(states: &[(u32, ExtentState)]) -> Vec<Extent> {
    let mut start = 0;
    let extent = |(len, state): &(u32, ExtentState)| {
        let range = ByteRange::new(start, u64::from(*len));
        start = range.end();
        Extent { range, state: *state }
    };
    states.iter().map(extent).collect()
}

fn write(said: &Said, cookie: Cookie, done: bool) -> Vec<u8> {
    let mut out = vec![0; 1000];
    let len = match said {
        Said::Simple(error) => {
            put_simple_reply(out.first_chunk_mut().unwrap(), cookie, *error);
            SIMPLE_REPLY_LEN
        }
        Said::None => {
            put_none(out.first_chunk_mut().unwrap(), cookie);
            CHUNK_LEN
        }
        Said::Data(offset, data) => {
            put_offset_data(out.first_chunk_mut().unwrap(), cookie, done, *offset, data.len() as u32);
            out[OFFSET_DATA_LEN..][..data.len()].copy_from_slice(data);
            OFFSET_DATA_LEN + data.len()
        }
        Said::Hole(offset, len) => {
            put_offset_hole(out.first_chunk_mut().unwrap(), cookie, done, *offset, *len);
            OFFSET_HOLE_LEN
        }
        Said::Status(states) => put_block_status(&mut out, cookie, done, 3, &laid_out(states)).unwrap(),
        Said::Error(text) => put_error(&mut out, cookie, done, Errno::IO, text).unwrap(),
    };
    out.truncate(len);
    out
}

/// Whether `reply` is what `said` means; joined extents are compared as extents.
fn same(reply: &Reply, said: &Said, cookie: Cookie, done: bool) -> bool {
    let chunk = match (reply, said) {
        (Reply::Simple { cookie: seen, error }, Said::Simple(sent)) => {
            return *seen == cookie && error == sent;
        }
        (Reply::Chunk { cookie: seen, done: last, chunk }, _)
            if *seen == cookie && (*last == done || chunk == &Chunk::None) =>
        {
            chunk
        }
        _ => return false,
    };
    match (chunk, said) {
        (Chunk::None, Said::None) => true,
        (Chunk::OffsetData { offset, len }, Said::Data(start, data)) => {
            offset == start && *len as usize == data.len()
        }
        (Chunk::OffsetHole { offset, len }, Said::Hole(start, size)) => offset == start && len == size,
        (Chunk::BlockStatus { context: 3, descriptors }, Said::Status(states)) => {
            let mut joined = Vec::new();
            laid_out(states).into_iter().for_each(|extent| block::push_extent(&mut joined, extent));
            extents(ByteRange::new(0, 1 << 40), descriptors) == Ok(joined)
        }
        (Chunk::Error { errno: Errno::IO, message, offset: None }, Said::Error(text)) => message == text,
        _ => false,
    }
}

proptest! {
    #[test]
    fn replies_arrive_as_they_were_sent(
        stream in vec((said(), any::<u64>(), any::<bool>()), 1..10),
        pieces in vec(1usize..70, 1..10),
    ) {
        let bytes: Vec<u8> = stream.iter().flat_map(|(s, cookie, done)| write(s, Cookie(*cookie), *done)).collect();
        let (mut parser, mut rest, mut expected) = (ReplyParser::new(true), bytes.as_slice(), stream.iter());
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let progress = parser.feed(&rest[..rest.len().min(*piece)]).unwrap();
            rest = &rest[progress.consumed..];
            let Some(reply) = progress.reply else { continue };
            let (said, cookie, done) = expected.next().unwrap();
            prop_assert!(same(&reply, said, Cookie(*cookie), *done), "{:?} {:?}", reply, said);
            if let Said::Data(_, data) = said {
                prop_assert_eq!(&rest[..data.len()], data);
                rest = &rest[data.len()..];
            }
        }
        prop_assert!(parser.is_idle() && expected.next().is_none());
    }

    #[test]
    fn what_a_client_may_send_a_server_grants(
        flags: u16, command in prop::sample::select(Command::ALL), modifiers in 0u16..64,
        offset in 0u64..3000, len in 0u64..3000, status: bool,
    ) {
        let limits = Limits {
            size: 4096,
            flags: TransmissionFlags::from_bits(flags),
            payload_max: 2048,
            block_status: status,
        };
        let mut out = [0; REQUEST_LEN];
        let modifiers = CommandFlags::from_bits(modifiers);
        let sent = encode_request(&mut out, &limits, command, modifiers, Cookie(5), ByteRange::new(offset, len));
        if sent.is_ok() {
            let header = RequestHeader::parse(&out).unwrap();
            prop_assert_eq!(validate(&header, &limits), Ok(command));
            prop_assert_eq!((header.offset, u64::from(header.len)), (offset, len));
        } else {
            prop_assert_eq!(out, [0; REQUEST_LEN]);
        }
    }
}

#[test]
fn a_range_beyond_32_bits_is_no_request() {
    let limits = Limits {
        size: 1 << 40,
        flags: TransmissionFlags::from_bits(0xded),
        payload_max: PAYLOAD_MAX,
        block_status: true,
    };
    let range = ByteRange::new(0, 1 << 32);
    let sent = encode_request(
        &mut [0; REQUEST_LEN],
        &limits,
        Command::BlockStatus,
        CommandFlags::NONE,
        Cookie(0),
        range,
    );
    assert_eq!(sent.unwrap_err().errno, Errno::INVAL);
}
