//! What is to be played, said in variables of the environment.
//!
//! Invariant: what cannot be understood is refused, never taken for something else.

use std::env;
use std::ops::Range;

use super::Budgets;
use crate::disk::CrashPoint;

/// What is to be played.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// `MILLPOND_SIM_LIST`: only the names.
    pub list: bool,
    /// `MILLPOND_SIM_SCENARIO`: the one of this name; `None`: all.
    pub scenario: Option<String>,
    /// `MILLPOND_SIM_SEEDS`, as `FIRST..END`. When it is given, all points of each run are played.
    pub seeds: Range<u64>,
    /// Points of each run, at most.
    pub points: usize,
    /// `MILLPOND_SIM_POINT`, as `write:N` or `flush:N`: this point alone, looked at as closely as can be.
    pub point: Option<CrashPoint>,
    /// Points that it must come to.
    pub(super) points_min: u64,
}

impl Wishes {
    /// What the environment says; where it says nothing the quick test, or with `MILLPOND_TEST_FULL` the full one.
    ///
    /// Panics at values that it does not understand.
    pub fn from_env(budgets: &Budgets) -> Self {
        let said = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let full = said("MILLPOND_TEST_FULL").is_some();
        let budget = if full { budgets.full } else { budgets.quick };
        let seeds = said("MILLPOND_SIM_SEEDS").map(|text| {
            parse_seeds(&text).unwrap_or_else(|| panic!("MILLPOND_SIM_SEEDS={text}: FIRST..END is wanted"))
        });
        let point = said("MILLPOND_SIM_POINT").map(|text| {
            parse_point(&text)
                .unwrap_or_else(|| panic!("MILLPOND_SIM_POINT={text}: write:N or flush:N is wanted"))
        });
        let scenario = said("MILLPOND_SIM_SCENARIO");
        let all = full && scenario.is_none() && seeds.is_none();
        Self {
            list: said("MILLPOND_SIM_LIST").is_some(),
            points_min: if all { budgets.full_points } else { 0 },
            scenario,
            points: if seeds.is_some() { usize::MAX } else { budget.points },
            seeds: seeds.unwrap_or(0..budget.seeds),
            point,
        }
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.scenario.as_ref().is_none_or(|wanted| wanted == name)
    }
}

fn parse_seeds(text: &str) -> Option<Range<u64>> {
    let (first, end) = text.split_once("..")?;
    Some(first.parse().ok()?..end.parse().ok()?)
}

fn parse_point(text: &str) -> Option<CrashPoint> {
    let (kind, number) = text.split_once(':')?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    match kind {
        "write" => Some(CrashPoint::Write(number)),
        "flush" => Some(CrashPoint::Flush(number)),
        _ => None,
    }
}

/// What [`parse_point`] reads.
pub(super) fn point_text(point: CrashPoint) -> String {
    match point {
        CrashPoint::Write(number) => format!("write:{number}"),
        CrashPoint::Flush(number) => format!("flush:{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_understood_or_refused() {
        assert_eq!(parse_seeds("3..9"), Some(3..9));
        assert_eq!(parse_seeds("9"), None);
        for point in [CrashPoint::Write(7), CrashPoint::Flush(1)] {
            assert_eq!(parse_point(&point_text(point)), Some(point));
        }
        for wrong in ["write:0", "read:1", "write", "flush:-1"] {
            assert_eq!(parse_point(wrong), None, "{wrong}");
        }
    }
}
