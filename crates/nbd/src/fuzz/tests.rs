//! The entry points, run briefly: over noise, over frames, and over damaged recordings.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::codec::{Command, Cookie};
use crate::transcript::{self, Case};

fn run_all(data: &[u8]) {
    server_handshake(data);
    server_transmission(data);
    client_handshake(data);
    client_transmission(data);
}

/// Every recorded case, with what the client says before it.
fn recorded() -> Vec<Case> {
    let files = [
        include_str!("../../transcripts/options.txt"),
        include_str!("../../transcripts/flags.txt"),
        include_str!("../../transcripts/requests.txt"),
    ];
    files.into_iter().flat_map(transcript::cases).collect()
}

#[test]
fn recordings_pass() {
    for case in recorded() {
        for scene in 0..16 {
            run_all(&[&[scene], case.client.as_slice()].concat());
            run_all(&[&[scene], case.server.as_slice()].concat());
        }
    }
}

#[test]
fn requests_at_the_edges_pass() {
    for command in Command::ALL {
        for offset in [0, 1 << 20, u64::MAX] {
            for len in [0, 1, u32::MAX] {
                let mut input = [0x14; 1 + REQUEST_LEN];
                let code = command.code();
                let header =
                    RequestHeader { flags: Default::default(), code, cookie: Cookie(0), offset, len };
                header.encode(input.last_chunk_mut().unwrap());
                server_transmission(&input);
            }
        }
    }
}

proptest! {
    #[test]
    fn noise_passes(data in vec(any::<u8>(), 0..600)) {
        run_all(&data);
    }

    #[test]
    fn frames_pass(scene: u8, frames in vec((prop_oneof![0u8..12, any::<u8>()], vec(any::<u8>(), 0..40)), 0..12)) {
        let mut data = vec![scene | 1];
        for (code, body) in frames {
            data.extend([code, body.len() as u8]);
            data.extend(body);
        }
        run_all(&data);
    }

    #[test]
    fn damaged_recordings_pass(
        scene: u8,
        picks in vec((any::<prop::sample::Index>(), any::<bool>()), 1..6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let cases = recorded();
        let mut data = vec![scene];
        data.extend_from_slice(&[0, 0, 0, 3]);
        for (pick, client) in picks {
            let case = pick.get(&cases);
            data.extend_from_slice(if client { &case.client } else { &case.server });
        }
        for (place, byte) in damage {
            let place = place.index(data.len());
            data[place] = byte;
        }
        run_all(&data);
        data.drain(1..5);
        run_all(&data);
    }
}
