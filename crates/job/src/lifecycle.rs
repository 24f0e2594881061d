//! The tables of the lifecycle: which state may follow which, and which verb is taken in which.
//!
//! Invariant: they are the only place that says so; the words of refusals are QEMU's.

use block::JobState::{
    self, Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby, Waiting,
};
use block::{BlockError, ErrorKind, Result};

/// What somebody wants a job to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// End without an outcome.
    Cancel,
    /// Rest.
    Pause,
    /// Go on.
    Resume,
    /// Go faster or slower.
    SetSpeed,
    /// End now that it can.
    Complete,
    /// Make the outcome lasting.
    Finalize,
    /// Be gone.
    Dismiss,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::SetSpeed,
        Self::Complete,
        Self::Finalize,
        Self::Dismiss,
    ];

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SetSpeed => "set-speed",
            Self::Complete => "complete",
            Self::Finalize => "finalize",
            Self::Dismiss => "dismiss",
        }
    }
}

/// States that may follow a state.
pub const FOLLOWS: [(JobState, &[JobState]); 10] = [
    (Created, &[Running, Aborting, Null]),
    (Running, &[Paused, Ready, Waiting, Aborting]),
    (Paused, &[Running]),
    (Ready, &[Standby, Waiting, Aborting]),
    (Standby, &[Ready]),
    (Waiting, &[Pending, Aborting]),
    (Pending, &[Aborting, Concluded]),
    (Aborting, &[Concluded]),
    (Concluded, &[Null]),
    (Null, &[]),
];

/// States in which a verb is taken.
pub const TAKEN: [(Verb, &[JobState]); 7] = [
    (Verb::Cancel, &[Created, Running, Paused, Ready, Standby, Waiting, Pending]),
    (Verb::Pause, &[Created, Running, Paused, Ready, Standby]),
    (Verb::Resume, &[Created, Running, Paused, Ready, Standby]),
    (Verb::SetSpeed, &[Created, Running, Paused, Ready, Standby]),
    (Verb::Complete, &[Ready]),
    (Verb::Finalize, &[Pending]),
    (Verb::Dismiss, &[Concluded]),
];

/// Whether `to` may follow `from`.
pub fn may_follow(from: JobState, to: JobState) -> bool {
    FOLLOWS.iter().any(|(state, next)| *state == from && next.contains(&to))
}

/// Whether `verb` is taken in `state`.
pub fn takes(state: JobState, verb: Verb) -> bool {
    TAKEN.iter().any(|(its, states)| *its == verb && states.contains(&state))
}

/// Fails when job `id` does not take `verb` in `state`.
pub fn check(id: &str, state: JobState, verb: Verb) -> Result<()> {
    if takes(state, verb) {
        return Ok(());
    }
    let context =
        format!("Job '{id}' in state '{}' cannot accept command verb '{}'", state.name(), verb.name());
    Err(BlockError::new(ErrorKind::Busy, context))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: verbs as in [`Verb::ALL`]; columns: states as in [`JobState::ALL`].
    const VERBS: [&str; 7] = [
        "xxxxxxx...", // cancel
        "xxxxx.....", // pause
        "xxxxx.....", // resume
        "xxxxx.....", // set-speed
        "...x......", // complete
        "......x...", // finalize
        "........x.", // dismiss
    ];

    /// Rows: from; columns: to.
    const STEPS: [&str; 10] = [
        ".x.....x.x", // created
        "..xx.x.x..", // running
        ".x........", // paused
        "....xx.x..", // ready
        "...x......", // standby
        "......xx..", // waiting
        ".......xx.", // pending
        "........x.", // aborting
        ".........x", // concluded
        "..........", // null
    ];

    #[test]
    fn every_verb_in_every_state() {
        for (verb, row) in Verb::ALL.into_iter().zip(VERBS) {
            for (state, cell) in JobState::ALL.into_iter().zip(row.chars()) {
                assert_eq!(takes(state, verb), cell == 'x', "{verb:?} in {state:?}");
                assert_eq!(check("j", state, verb).is_ok(), cell == 'x');
            }
        }
        let refusal = check("j", Running, Verb::Finalize).unwrap_err().to_string();
        assert_eq!(refusal, "Job 'j' in state 'running' cannot accept command verb 'finalize'");
    }

    #[test]
    fn every_step_between_two_states() {
        for (from, row) in JobState::ALL.into_iter().zip(STEPS) {
            for (to, cell) in JobState::ALL.into_iter().zip(row.chars()) {
                assert_eq!(may_follow(from, to), cell == 'x', "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn every_state_is_reached_and_left_but_the_last() {
        for state in JobState::ALL {
            assert_eq!(FOLLOWS.iter().any(|(from, next)| *from == state && !next.is_empty()), state != Null);
            assert_eq!(FOLLOWS.iter().any(|(_, next)| next.contains(&state)), state != Created);
        }
    }
}
