//! What an error does to a job: a policy that is passed in, and a table.

use block::{ErrorKind, JobAction};

/// What a job does about errors (`on-error`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnError {
    /// It fails.
    #[default]
    Report,
    /// It goes on, and fails in the end.
    Ignore,
    /// It pauses.
    Stop,
    /// It pauses where there is no room left, and fails otherwise.
    NoSpace,
    /// As [`OnError::NoSpace`].
    Auto,
}

/// Policy, then what it does where there is no room left, and otherwise.
const ACTIONS: [(OnError, JobAction, JobAction); 5] = [
    (OnError::Report, JobAction::Report, JobAction::Report),
    (OnError::Ignore, JobAction::Ignore, JobAction::Ignore),
    (OnError::Stop, JobAction::Stop, JobAction::Stop),
    (OnError::NoSpace, JobAction::Stop, JobAction::Report),
    (OnError::Auto, JobAction::Stop, JobAction::Report),
];

impl OnError {
    /// What is done about an error of this kind.
    pub fn action(self, error: ErrorKind) -> JobAction {
        let row = ACTIONS.iter().find(|(policy, ..)| *policy == self);
        row.map_or(
            JobAction::Report,
            |(_, full, other)| if error == ErrorKind::NoSpace { *full } else { *other },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_for_a_full_disk_and_for_another_error() {
        use JobAction::{Ignore, Report, Stop};
        let expected = [
            (OnError::Report, Report, Report),
            (OnError::Ignore, Ignore, Ignore),
            (OnError::Stop, Stop, Stop),
            (OnError::NoSpace, Stop, Report),
            (OnError::Auto, Stop, Report),
        ];
        for (policy, full, other) in expected {
            assert_eq!((policy.action(ErrorKind::NoSpace), policy.action(ErrorKind::Io)), (full, other));
        }
    }
}
