//! Transcripts: what clients send, against what qemu-nbd 10.0.2 answered to the same bytes; and our bounds.

use super::*;
use crate::codec::TransmissionFlags;
use crate::handshake::BlockSizes;
use crate::handshake::layout::put_option;
use crate::transcript;

const OPTIONS: &str = include_str!("../../../transcripts/options.txt");
const FLAGS: &str = include_str!("../../../transcripts/flags.txt");

/// Exports of which the second has no description, no contexts and blocks of 4096 bytes.
struct Two;

fn disk() -> ExportInfo {
    ExportInfo {
        name: "disk".into(),
        description: "a description".into(),
        size: 1 << 20,
        flags: TransmissionFlags::from_bits(0xd6d),
        block_sizes: BlockSizes::DEFAULT,
        contexts: vec![MetaContext::base_allocation()],
    }
}

fn strict() -> ExportInfo {
    let block_sizes = BlockSizes::new(4096, 65536, PAYLOAD_MAX).unwrap();
    ExportInfo { name: "strict".into(), description: String::new(), block_sizes, contexts: vec![], ..disk() }
}

impl Exports for Two {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        [disk(), strict()].into_iter().find(|export| export.name == name)
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, &str) -> bool) {
        visit("disk", "a description");
    }
}

/// Feeds all of `input` in pieces of `piece` bytes; answers what was sent and how it ended.
fn feed(server: &mut ServerHandshake, input: &[u8], piece: usize) -> (Vec<u8>, Option<Outcome>) {
    let (mut out, mut outcome) = (Vec::new(), None);
    for mut piece in input.chunks(piece) {
        while !piece.is_empty() && outcome.is_none() {
            let progress = server.feed(piece, &Two, &mut out);
            piece = &piece[progress.consumed..];
            outcome = progress.outcome;
        }
    }
    (out, outcome)
}

fn option(code: OptionCode, data: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    put_option(&mut out, code, data);
    out
}

/// A client that has sent its flags.
fn greeted(policy: Policy) -> ServerHandshake {
    let mut server = ServerHandshake::new(policy);
    assert!(feed(&mut server, &[0, 0, 0, 3], 4).1.is_none());
    server
}

/// The type of the last reply in `out`, and its text.
fn last_reply(mut out: &[u8]) -> (OptionReply, String) {
    loop {
        let mut cursor = Cursor::new(out);
        cursor.bytes(12).unwrap();
        let reply = OptionReply::from_code(cursor.u32().unwrap()).unwrap();
        let len = cursor.u32().unwrap();
        let text = String::from_utf8_lossy(cursor.bytes(len as usize).unwrap()).into_owned();
        if cursor.is_empty() {
            return (reply, text);
        }
        out = cursor.rest();
    }
}

#[test]
fn greeting_is_qemus() {
    assert_eq!(&ServerHandshake::new(Policy::default()).greeting(), b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn options_are_answered_as_qemu_answers_them() {
    let opening = [vec![0, 0, 0, 3], option(OptionCode::StructuredReply, &[])].concat();
    for case in transcript::cases(OPTIONS) {
        for piece in [1, 7, usize::MAX] {
            let mut server = ServerHandshake::new(Policy::default());
            feed(&mut server, &opening, 100);
            let (out, outcome) = feed(&mut server, &case.client, piece);
            assert_eq!(out, case.server, "{}", case.label);
            let closed = matches!(outcome, Some(Outcome::Abort | Outcome::Close(_)));
            assert_eq!(closed, case.closed, "{}", case.label);
        }
    }
}

#[test]
fn flags_are_answered_as_qemu_answers_them() {
    for case in transcript::cases(FLAGS) {
        let mut server = ServerHandshake::new(Policy::default());
        let (out, outcome) = feed(&mut server, &case.client, usize::MAX);
        assert_eq!(out, case.server, "{}", case.label);
        assert_eq!(matches!(outcome, Some(Outcome::Close(_))), case.closed, "{}", case.label);
    }
}

#[test]
fn go_ends_where_the_requests_begin_and_says_what_was_agreed() {
    let mut server = greeted(Policy::default());
    let meta: [&[u8]; 5] = [b"\0\0\0\x04", b"disk", b"\0\0\0\x01", b"\0\0\0\x0f", b"base:allocation"];
    let mut input = option(OptionCode::StructuredReply, &[]);
    input.extend(option(OptionCode::SetMetaContext, &meta));
    feed(&mut server, &input, 5);
    let mut input = option(OptionCode::Go, &[b"\0\0\0\x04disk\0\x01\0\x03"]);
    let len = input.len();
    input.extend_from_slice(b"first request");
    let progress = server.feed(&input, &Two, &mut Vec::new());
    assert_eq!(progress.consumed, len);
    let Some(Outcome::Transmission(agreed)) = progress.outcome else { panic!("{progress:?}") };
    assert!(agreed.structured && agreed.obeys_block_sizes);
    assert_eq!(agreed.contexts, [MetaContext::base_allocation()]);
    assert_eq!(agreed.limits().flags.bits(), 0xded);
    assert!(agreed.limits().block_status);
    let after = server.feed(b"more", &Two, &mut Vec::new());
    assert!(after.consumed == 0 && after.outcome.is_none());
}

#[test]
fn contexts_belong_to_the_export_they_were_set_on_and_to_the_last_request() {
    let meta: [&[u8]; 2] = [b"\0\0\0\x04disk\0\0\0\x01", b"\0\0\0\x0fbase:allocation"];
    let unset: [&[u8]; 1] = [b"\0\0\0\x04disk\0\0\0\x09"];
    let go = |name: &[u8]| option(OptionCode::Go, &[&[0, 0, 0, name.len() as u8], name, &[0, 0]]);
    let set = option(OptionCode::SetMetaContext, &meta);
    let cases = [
        (vec![], go(b"disk"), 0),
        (set.clone(), go(b"disk"), 1),
        (set.clone(), go(b"strict"), 0),
        ([set.clone(), option(OptionCode::SetMetaContext, &unset)].concat(), go(b"disk"), 0),
        (set, option(OptionCode::ExportName, &[b"disk"]), 1),
    ];
    for (options, enter, expected) in cases {
        let mut server = greeted(Policy::default());
        feed(&mut server, &[option(OptionCode::StructuredReply, &[]), options].concat(), 100);
        let (_, outcome) = feed(&mut server, &enter, 100);
        let Some(Outcome::Transmission(agreed)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(agreed.contexts.len(), expected);
    }
}

#[test]
fn strict_block_sizes_are_told_to_those_who_obey_them() {
    let mut server = greeted(Policy::default());
    let info = |code, wish: &[u8]| option(code, &[b"\0\0\0\x06strict", wish]);
    let (out, _) = feed(&mut server, &info(OptionCode::Info, &[0, 0]), 100);
    assert_eq!(last_reply(&out).0, OptionReply::ErrBlockSizeRequired);
    assert!(out.windows(6).any(|w| w == [0, 3, 0, 0, 16, 0]), "the sizes come before the error");
    let (out, _) = feed(&mut server, &info(OptionCode::Info, &[0, 1, 0, 3]), 100);
    assert_eq!(last_reply(&out).0, OptionReply::Ack);
    let (out, outcome) = feed(&mut server, &info(OptionCode::Go, &[0, 0]), 100);
    assert!(out.windows(6).any(|w| w == [0, 3, 0, 0, 0, 1]), "whoever does not ask may use every byte");
    let Some(Outcome::Transmission(agreed)) = outcome else { panic!("{outcome:?}") };
    assert!(!agreed.obeys_block_sizes);
}

#[test]
fn what_is_too_much_is_skipped_or_cut_off() {
    let mut server = greeted(Policy { options_max: 3, ..Policy::default() });
    let long = option(OptionCode::Info, &[&vec![b'x'; OPTION_DATA_MAX as usize + 1]]);
    let (out, outcome) = feed(&mut server, &long, 1000);
    assert_eq!(last_reply(&out).0, OptionReply::ErrTooBig);
    assert!(outcome.is_none() && server.intake.held().is_empty());
    let unknown = [b"IHAVEOPT".as_slice(), &[0, 0, 0, 77, 2, 0, 0, 0], &vec![0; 32 << 20]].concat();
    let (out, outcome) = feed(&mut server, &unknown, 1 << 20);
    assert_eq!(last_reply(&out), (OptionReply::ErrUnsupported, "Unsupported option 77 (<unknown>)".into()));
    assert!(outcome.is_none() && server.intake.held().is_empty());
    feed(&mut server, &option(OptionCode::List, &[]), 100);
    let (_, outcome) = feed(&mut server, &option(OptionCode::List, &[]), 100);
    assert!(matches!(outcome, Some(Outcome::Close(CloseReason::TooManyOptions))));
}

#[test]
fn one_answer_per_call_and_no_more() {
    let mut server = greeted(Policy::default());
    let twice = [option(OptionCode::List, &[]), option(OptionCode::List, &[])].concat();
    let mut out = Vec::new();
    let progress = server.feed(&twice, &Two, &mut out);
    assert_eq!(progress.consumed, twice.len() / 2);
}

#[test]
fn lists_are_bounded() {
    struct Many;
    impl Exports for Many {
        fn find(&self, _: &str) -> Option<ExportInfo> {
            None
        }
        fn visit(&self, visit: &mut dyn FnMut(&str, &str) -> bool) {
            let name = "n".repeat(STRING_MAX);
            while visit(&name, "") {}
        }
    }
    let (mut server, mut out) = (greeted(Policy::default()), Vec::new());
    server.feed(&option(OptionCode::List, &[]), &Many, &mut out);
    assert_eq!(last_reply(&out).0, OptionReply::ErrTooBig);
    assert!(out.len() <= LIST_REPLY_MAX + 100);
}

#[test]
fn withheld_options_are_unknown() {
    let mut server = greeted(Policy { withheld: &[OptionCode::Go], ..Policy::default() });
    let (out, outcome) = feed(&mut server, &option(OptionCode::Go, &[b"\0\0\0\x04disk\0\0"]), 100);
    assert_eq!(last_reply(&out).0, OptionReply::ErrUnsupported);
    assert!(outcome.is_none());
}

#[test]
fn an_export_that_has_to_be_looked_for_is_answered_as_if_it_had_been_there() {
    use std::cell::Cell;
    struct Slow(Cell<bool>);
    impl Exports for Slow {
        fn is_pending(&self, name: &str) -> bool {
            assert_eq!(name, "disk");
            !self.0.get()
        }
        fn find(&self, name: &str) -> Option<ExportInfo> {
            assert!(self.0.get(), "asked before it was found");
            Two.find(name)
        }
        fn is_list_pending(&self) -> bool {
            !self.0.get()
        }
        fn visit(&self, visit: &mut dyn FnMut(&str, &str) -> bool) {
            assert!(self.0.get(), "asked before it was found");
            Two.visit(visit);
        }
    }
    let base = b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation";
    for (code, data) in [
        (OptionCode::Info, &b"\0\0\0\x04disk\0\0"[..]),
        (OptionCode::Go, b"\0\0\0\x04disk\0\0"),
        (OptionCode::ListMetaContext, base),
        (OptionCode::SetMetaContext, base),
        (OptionCode::ExportName, b"disk"),
        (OptionCode::List, b""),
    ] {
        let [mut slow, mut prompt] = [(); 2].map(|()| greeted(Policy::default()));
        for server in [&mut slow, &mut prompt] {
            feed(server, &option(OptionCode::StructuredReply, &[]), 100);
        }
        let bytes = option(code, &[data]);
        let exports = Slow(Cell::new(false));
        let mut out = Vec::new();
        assert_eq!(slow.feed(&bytes, &exports, &mut out).consumed, bytes.len());
        assert!(slow.feed(&[], &exports, &mut out).outcome.is_none() && out.is_empty());
        exports.0.set(true);
        let late = slow.feed(&[], &exports, &mut out);
        let (expected, outcome) = feed(&mut prompt, &bytes, 100);
        assert_eq!(out, expected, "{code:?}");
        assert_eq!(format!("{:?}", late.outcome), format!("{outcome:?}"));
    }
}
