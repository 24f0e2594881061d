//! The client's machine against ours and against what qemu-nbd sends, in pieces of any size.

use proptest::prelude::*;

use super::*;
use crate::codec::{PAYLOAD_MAX, TransmissionFlags};
use crate::handshake::server::{self, ExportInfo, Exports, Policy, ServerHandshake};
use crate::handshake::{BlockSizes, MetaContext};
use crate::transcript;

const OPTIONS: &str = include_str!("../../../transcripts/options.txt");
const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

/// Two exports; the second wants blocks of 512 bytes and has no contexts.
struct Shelf;

fn export(name: &str) -> ExportInfo {
    let strict = name == "strict";
    ExportInfo {
        name: name.into(),
        description: if strict { String::new() } else { "a description".into() },
        size: 1 << 20,
        flags: TransmissionFlags::from_bits(0xd6d),
        block_sizes: if strict { BlockSizes::new(512, 4096, 65536).unwrap() } else { BlockSizes::DEFAULT },
        contexts: if strict { vec![] } else { vec![MetaContext { id: 7, name: BASE_ALLOCATION.into() }] },
    }
}

impl Exports for Shelf {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        ["disk", "strict"].contains(&name).then(|| export(name))
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, &str) -> bool) {
        let _ = visit("disk", "a description") && visit("strict", "");
    }
}

type Ends = (Result<Outcome, HandshakeError>, Option<server::Outcome>);

/// Lets both ends talk, each transfer at most as long as the next of `pieces` says, until the client is done.
fn converse(mut client: ClientHandshake, policy: Policy, pieces: &[usize]) -> Ends {
    let mut server = ServerHandshake::new(policy);
    let (mut to_client, mut to_server) = (server.greeting().to_vec(), Vec::new());
    let (mut result, mut ended) = (None, None);
    for piece in pieces.iter().cycle() {
        let fed = &to_client[..to_client.len().min(*piece)];
        let progress = client.feed(fed, &mut to_server);
        to_client.drain(..progress.consumed);
        result = result.or(progress.outcome);
        let fed = &to_server[..to_server.len().min(*piece)];
        let progress = server.feed(fed, &Shelf, &mut to_client);
        to_server.drain(..progress.consumed);
        ended = ended.or(progress.outcome);
        if ended.is_some() && result.is_none() && to_client.is_empty() {
            result = Some(Err(client.closed()));
        }
        if to_server.is_empty()
            && let Some(result) = result.take()
        {
            return (result, ended);
        }
    }
    unreachable!("the pieces repeat for ever")
}

fn wish(export: &str) -> Wish {
    Wish { export: export.into(), structured: true, allocation: true }
}

fn ready(ends: Ends) -> RemoteExport {
    match ends {
        (Ok(Outcome::Ready(export)), Some(server::Outcome::Transmission(agreed))) => {
            assert_eq!(agreed.structured, export.structured);
            assert_eq!(agreed.export.flags, export.flags);
            assert_eq!(agreed.contexts.first().map(|context| context.id), export.allocation);
            *export
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_that_is_wished_is_granted() {
    let seen = ready(converse(ClientHandshake::new(wish("disk")), Policy::default(), &[1]));
    let expected = RemoteExport {
        name: "disk".into(),
        size: 1 << 20,
        flags: TransmissionFlags::from_bits(0xded),
        block_sizes: Some(BlockSizes::DEFAULT),
        description: Some("a description".into()),
        structured: true,
        allocation: Some(7),
    };
    assert_eq!(seen, expected);
    let seen = ready(converse(ClientHandshake::new(wish("strict")), Policy::default(), &[100]));
    assert_eq!((seen.allocation, seen.description.clone()), (None, None));
    assert_eq!(seen.block_sizes.unwrap().minimum(), 512);
    assert_eq!(seen.limits().payload_max, 65536);
}

#[test]
fn less_is_wished_or_less_is_granted() {
    let modest = Wish { structured: false, ..wish("disk") };
    let seen = ready(converse(ClientHandshake::new(modest), Policy::default(), &[9]));
    assert!(!seen.structured && seen.allocation.is_none());
    assert!(!seen.flags.contains(TransmissionFlags::SEND_DF));
    let old: [&'static [OptionCode]; 3] = [
        &[OptionCode::StructuredReply],
        &[OptionCode::SetMetaContext],
        &[OptionCode::StructuredReply, OptionCode::Go],
    ];
    for withheld in old {
        let policy = Policy { withheld, ..Policy::default() };
        let seen = ready(converse(ClientHandshake::new(wish("disk")), policy, &[9]));
        assert!(seen.allocation.is_none() && seen.size == 1 << 20);
        assert_eq!(seen.structured, !withheld.contains(&OptionCode::StructuredReply));
        // Without GO there are no infos.
        assert_eq!(seen.block_sizes.is_none(), withheld.contains(&OptionCode::Go));
    }
}

#[test]
fn an_export_that_is_not_there_is_named() {
    let (result, ended) = converse(ClientHandshake::new(wish("nope")), Policy::default(), &[64]);
    let error = result.unwrap_err();
    assert!(error.is(OptionReply::ErrUnknown) && matches!(ended, Some(server::Outcome::Abort)));
    assert_eq!(error.to_string(), "option 'go' refused: export unknown (export \\'nope\\' not present)");
    let policy = Policy { withheld: &[OptionCode::Go], ..Policy::default() };
    let (result, _) = converse(ClientHandshake::new(wish("nope")), policy, &[64]);
    assert_eq!(result, Err(HandshakeError::ExportDenied("nope".into())));
}

#[test]
fn lists_come_with_details() {
    for pieces in [[1, 1], [50, 3], [1000, 1000]] {
        let (result, ended) = converse(ClientHandshake::list(), Policy::default(), &pieces);
        let Ok(Outcome::Listed(listed)) = result else { panic!("{result:?}") };
        assert!(matches!(ended, Some(server::Outcome::Abort)));
        let names: Vec<_> = listed.iter().map(|export| export.name.as_str()).collect();
        assert_eq!(names, ["disk", "strict"]);
        assert_eq!(listed[0].description, "a description");
        assert_eq!(listed[1].details.as_ref().unwrap().block_sizes.unwrap().maximum(), 65536);
    }
    let policy = Policy { withheld: &[OptionCode::Info], ..Policy::default() };
    let Ok(Outcome::Listed(listed)) = converse(ClientHandshake::list(), policy, &[100]).0 else { panic!() };
    assert!(listed.iter().all(|export| export.details.is_err()));
}

/// What a client makes of `greeting` and `replies`.
fn hear(wish: Wish, greeting: &[u8], replies: &[&[u8]]) -> Option<Result<Outcome, HandshakeError>> {
    let (mut client, mut out) = (ClientHandshake::new(wish), Vec::new());
    let mut outcome = client.feed(greeting, &mut out).outcome;
    for mut reply in replies.iter().copied() {
        while !reply.is_empty() && outcome.is_none() {
            let progress = client.feed(&reply[..reply.len().min(11)], &mut out);
            reply = &reply[progress.consumed..];
            outcome = progress.outcome;
        }
    }
    outcome
}

#[test]
fn qemus_server_is_understood() {
    let cases = transcript::cases(OPTIONS);
    let said = |label| cases.iter().find(|case| case.label == label).unwrap().server.as_slice();
    let ack = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0";
    let replies = [ack.as_slice(), said("set meta, base:allocation"), said("go with all infos")];
    let Some(Ok(Outcome::Ready(export))) = hear(wish("disk"), GREETING, &replies) else { panic!() };
    assert_eq!((export.allocation, export.flags.bits(), export.size), (Some(0), 0xded, 1 << 20));
    assert_eq!(export.block_sizes, Some(BlockSizes::DEFAULT));
    assert_eq!(export.block_sizes.unwrap().maximum(), PAYLOAD_MAX);
    // The requests are those that the server was sent for these answers.
    let (mut client, mut out) = (ClientHandshake::new(wish("disk")), Vec::new());
    client.feed(GREETING, &mut out);
    replies[..2].iter().for_each(|reply| while client.feed(reply, &mut out).consumed < reply.len() {});
    let asked = |label| cases.iter().find(|case| case.label == label).unwrap().client.as_slice();
    let options = [asked("structured again"), asked("set meta, base:allocation"), asked("go with all infos")];
    assert_eq!(out, [&[0, 0, 0, 3], options.concat().as_slice()].concat());
}

fn reply(option: OptionCode, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::handshake::layout::put_reply(&mut out, option.code(), OptionReply::Ack, &[data]);
    out[12..16].copy_from_slice(&kind.to_be_bytes());
    out
}

#[test]
fn other_handshakes_are_refused_by_name() {
    let cases: [(&[u8], HandshakeError); 3] = [
        (b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0", HandshakeError::Oldstyle),
        (b"NBDMAGICIHAVEOPT\0\0", HandshakeError::NotFixedNewstyle),
        (b"SSH-2.0-OpenSSH_9.2", HandshakeError::NotNbd),
    ];
    for (greeting, error) in cases {
        assert_eq!(hear(wish(""), greeting, &[]), Some(Err(error)));
    }
}

#[test]
fn replies_that_break_the_protocol_end_it() {
    let simple = || Wish { structured: false, ..wish("disk") };
    let go = |kind: u32, data: &[u8]| reply(OptionCode::Go, kind, data);
    let mut long = go(3, &[]);
    long[16..].copy_from_slice(&(REPLY_DATA_MAX + 1).to_be_bytes());
    let broken = [
        reply(OptionCode::List, 1, &[]),
        go(2, &[0; 8]),
        go(1, &[]),
        go(3, &[0]),
        go(3, &[0, 0, 0, 0, 0, 0]),
        go(3, b"\0\0\x80\0\0\0\0\0\0\0\0\x01"),
        go(3, b"\0\x03\0\0\0\x03\0\0\x10\0\x02\0\0\0"),
        go(3, b"\0\x01\xff"),
        vec![0; 20],
        long,
        go(3, b"\0\x99").repeat(REPLIES_MAX as usize + 1),
    ];
    for bytes in broken {
        let outcome = hear(simple(), GREETING, &[&bytes]);
        assert!(matches!(outcome, Some(Err(HandshakeError::BadReply(_)))), "{outcome:?} {bytes:?}");
    }
}

#[test]
fn contexts_of_a_refused_selection_do_not_count() {
    let replies = [
        reply(OptionCode::StructuredReply, 1, &[]),
        reply(OptionCode::SetMetaContext, 4, b"\0\0\0\x05base:allocation"),
        reply(OptionCode::SetMetaContext, 0x8000_0009, b"no more"),
        reply(OptionCode::Go, 3, b"\0\0\0\0\0\0\0\0\x10\0\0\x01"),
        reply(OptionCode::Go, 1, &[]),
    ];
    let Some(Ok(Outcome::Ready(export))) = hear(wish("disk"), GREETING, &replies.each_ref().map(|r| &r[..]))
    else {
        panic!()
    };
    assert!(export.structured && export.allocation.is_none());
}

#[test]
fn tls_and_shutdown_are_said_at_once() {
    for (kind, expected) in
        [(0x8000_0005, block::ErrorKind::Unsupported), (0x8000_0007, block::ErrorKind::Disconnected)]
    {
        let refusal = reply(OptionCode::StructuredReply, kind, b"say \x1b please");
        let Some(Err(error)) = hear(wish("disk"), GREETING, &[&refusal]) else { panic!() };
        assert!(!error.to_string().contains('\x1b'));
        assert_eq!(block::BlockError::from(error).kind(), expected);
    }
}

proptest! {
    #[test]
    fn pieces_of_any_size_lead_to_the_same_end(pieces in proptest::collection::vec(1usize..60, 1..20)) {
        let seen = ready(converse(ClientHandshake::new(wish("disk")), Policy::default(), &pieces));
        let whole = ready(converse(ClientHandshake::new(wish("disk")), Policy::default(), &[10_000]));
        prop_assert_eq!(seen, whole);
    }
}
