//! What happened, in order: a digest of everything, and the last events in words for whoever reads a failure.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Mutex;

use io::Moment;

use crate::locked;
use crate::rng::mix;

/// Events that a failure report shows.
const LAST: usize = 40;

/// One event: what, and two numbers that belong to it.
type Event = (Moment, &'static str, u64, u64);

#[derive(Default)]
pub(crate) struct Trace(Mutex<State>);

#[derive(Default)]
struct State {
    digest: u64,
    last: VecDeque<Event>,
}

impl Trace {
    pub(crate) fn note(&self, at: Moment, what: &'static str, a: u64, b: u64) {
        let mut state = locked(&self.0);
        let name = what.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        for word in [at.0, name, a, b] {
            state.digest = mix(state.digest ^ word).wrapping_add(word);
        }
        if state.last.len() == LAST {
            state.last.pop_front();
        }
        state.last.push_back((at, what, a, b));
    }

    pub(crate) fn digest(&self) -> u64 {
        locked(&self.0).digest
    }

    pub(crate) fn last_events(&self) -> String {
        let mut text = String::new();
        for (at, what, a, b) in &locked(&self.0).last {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {:>14} ns  {what} {a} {b}", at.0);
        }
        text
    }
}
