//! Arbitrary bytes, and arbitrary requests, into a whole connection.

use std::sync::Arc;
use std::time::Duration;

use nbd::codec::{CommandFlags, Cookie, PAYLOAD_MAX, RequestHeader};
use proptest::collection::vec;
use proptest::prelude::*;
use sim::{Options, SimWorld};

use crate::lab::client::{Answer, Client, connect, wish};
use crate::lab::stage::Stage;
use crate::lab::store::{Mood, Store};
use crate::play;

const LEN: usize = 100_000;
/// Far more turns than a connection needs that gets on.
const TURNS_MAX: u64 = 300_000;

fn options() -> Options {
    Options { max_turns: TURNS_MAX, ..Options::default() }
}

async fn all_is_well(stage: &Stage<SimWorld>, store: &Store) {
    stage.server.idle().await;
    store.set_mood(Mood::PROMPT);
    let mut client = stage.client().await;
    let answer = client.read(LEN as u64 - 10, 10).await;
    assert!(matches!(answer, Answer::Done(bytes) if bytes.len() == 10));
}

fn cases() -> u32 {
    if std::env::var_os("MILLPOND_TEST_FULL").is_some() { 4000 } else { 120 }
}

/// What stands before the arbitrary bytes.
const FRONTS: [&[u8]; 5] = [
    b"",
    &[0, 0, 0, 3],
    b"\0\0\0\x03IHAVEOPT",
    b"\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0",
    b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0\x25\x60\x95\x13",
];

/// A request as a client may make it up.
fn request() -> impl Strategy<Value = (u16, u16, u64, u32)> {
    let flags = prop_oneof![8 => Just(0u16), 3 => 0..0x40u16, 1 => any::<u16>()];
    let code = prop_oneof![20 => 0..9u16, 1 => any::<u16>()];
    let offset = prop_oneof![8 => 0..LEN as u64, 2 => 0..2 * LEN as u64, 1 => any::<u64>()];
    let len = prop_oneof![8 => 0..5000u32, 1 => 0..2 * LEN as u32, 1 => PAYLOAD_MAX + 1..=u32::MAX];
    (flags, code, offset, len)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_of_any_kind_end_in_an_idle_server(
        front in 0..FRONTS.len(),
        pieces in vec(vec(any::<u8>(), 0..120), 0..6),
        seed in 0..1000u64,
    ) {
        play(seed, options(), 1, async |stage| {
            let store = Store::new(vec![7; LEN], Mood::MIXED);
            stage.export(&store);
            let stream = connect(&stage.world, &stage.address).await;
            let _ = stream.send_all(FRONTS[front]).await;
            for piece in &pieces {
                let _ = stream.send_all(piece).await;
                io::sleep(Duration::from_micros(io::random() % 500)).await;
            }
            drop(stream);
            all_is_well(&stage, &store).await;
        });
    }

    #[test]
    fn requests_of_any_kind_are_answered_once_each(requests in vec(request(), 0..40), seed in 0..1000u64) {
        play(seed, options(), 1, async |stage| {
            let store = Store::new(vec![7; LEN], Mood { fail: 10, ..Mood::MIXED });
            stage.export(&store);
            let client = Client::connect(&stage.world, &stage.address, wish("disk")).await;
            ask_for_all(client, &requests, &store).await;
            all_is_well(&stage, &store).await;
        });
    }
}

/// Sends all requests; each must be answered once, up to the one that ends the connection.
async fn ask_for_all(mut client: Client, requests: &[(u16, u16, u64, u32)], store: &Arc<Store>) {
    let mut over = false;
    for (number, (flags, code, offset, len)) in requests.iter().enumerate() {
        let flags = CommandFlags::from_bits(*flags);
        let header =
            RequestHeader { flags, code: *code, cookie: Cookie(number as u64), offset: *offset, len: *len };
        // The last ones may come to nothing.
        over = *code == 2 || header.payload_len() > PAYLOAD_MAX;
        client.ask_for(&header, &vec![7; if over { 100 } else { header.payload_len() as usize }]);
        if over {
            break;
        }
    }
    while client.unanswered() > 0 {
        match client.answer().await {
            Ok(Some((_, Answer::Done(_) | Answer::Extents(_) | Answer::Failed(_)))) => {}
            Ok(None) | Err(_) => {
                assert!(over, "the connection ended early");
                break;
            }
        }
    }
    assert!(store.bytes().iter().all(|byte| [0, 7].contains(byte)));
}
