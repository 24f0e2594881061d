//! The limits of a throttle group, under QEMU's names and checked by QEMU's rules.

use serde::Deserialize;

/// Largest value of a limit.
const VALUE_MAX: u64 = 1_000_000_000_000_000;

/// One limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Units per second in the long run; 0: no limit.
    pub average: u64,
    /// Units per second in a burst; 0: bursts of a tenth of a second's worth.
    pub max: u64,
    /// Longest burst in seconds, at most `u32::MAX`.
    pub max_length: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { average: 0, max: 0, max_length: 1 }
    }
}

/// All limits of a group. Those of a running group have been checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThrottleLimits {
    /// Bytes: in total, of reads, of writes.
    pub bps: [Rate; 3],
    /// Operations: in total, of reads, of writes.
    pub iops: [Rate; 3],
    /// Bytes that count as one operation; 0: every request counts as one.
    pub iops_size: u64,
}

impl ThrottleLimits {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        self.rates().all(|rate| rate.average == 0)
    }

    fn rates(&self) -> impl Iterator<Item = &Rate> {
        self.bps.iter().chain(&self.iops)
    }

    /// Checks them; the error is QEMU's text.
    fn check(&self) -> Result<(), &'static str> {
        let mixed = |rates: &[Rate; 3], of: fn(&Rate) -> u64| {
            of(&rates[0]) > 0 && (of(&rates[1]) > 0 || of(&rates[2]) > 0)
        };
        let sets = [&self.bps, &self.iops];
        if sets.iter().any(|rates| mixed(rates, |rate| rate.average) || mixed(rates, |rate| rate.max)) {
            return Err("bps/iops/max total values and read/write values cannot be used at the same time");
        }
        if self.iops_size > 0 && self.iops.iter().all(|rate| rate.average == 0) {
            return Err("iops size requires an iops value to be set");
        }
        self.rates().try_for_each(Rate::check)
    }
}

impl Rate {
    fn check(&self) -> Result<(), &'static str> {
        let Self { average, max, max_length } = *self;
        let rules = [
            (
                average > VALUE_MAX || max > VALUE_MAX,
                "bps/iops/max values must be within [0, 1000000000000000]",
            ),
            (max_length == 0, "the burst length cannot be 0"),
            (max_length > 1 && max == 0, "burst length set without burst rate"),
            (max > 0 && max_length > VALUE_MAX / max.max(1), "burst length too high for this burst rate"),
            (max > 0 && average == 0, "bps_max/iops_max require corresponding bps/iops values"),
            (max > 0 && max < average, "bps_max/iops_max cannot be lower than bps/iops"),
        ];
        rules.into_iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, text)| Err(text))
    }
}

/// Where a limit lies.
type Place = fn(&mut ThrottleLimits) -> &mut u64;

/// From one table: the options that change limits, and the same under the names that QEMU's command lines used first.
macro_rules! limits {
    ($($field:ident $name:literal $old:literal ($place:expr) $doc:literal;)*) => {
        /// Some of the limits. What is not named stays as it is.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct LimitsPatch {
            $(#[doc = $doc] #[serde(rename = $name)] pub $field: Option<u64>,)*
        }

        /// Options of a throttle group.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ThrottleGroupOptions {
            /// The limits.
            #[serde(default)]
            pub limits: LimitsPatch,
            $(#[doc = $doc] #[serde(rename = $old)] pub $field: Option<u64>,)*
        }

        impl LimitsPatch {
            /// Changes `limits`; the error is QEMU's text.
            pub(super) fn over(&self, mut limits: ThrottleLimits) -> Result<ThrottleLimits, String> {
                $(if let Some(value) = self.$field {
                    in_range($name, value)?;
                    let place: Place = $place;
                    *place(&mut limits) = value;
                })*
                limits.check()?;
                Ok(limits)
            }
        }

        impl ThrottleGroupOptions {
            /// Names of its options beside `limits`.
            pub(crate) const FLAT: &[&str] = &[$($old,)*];

            /// The limits that they ask for; the error is QEMU's text.
            pub fn limits(&self) -> Result<ThrottleLimits, String> {
                let mut patch = self.limits;
                $(patch.$field = patch.$field.or(self.$field);)*
                patch.over(ThrottleLimits::default())
            }
        }

        impl ThrottleLimits {
            /// Every limit with its name, as `qom-get` shows them.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                let mut limits = *self;
                let places: &[(&'static str, Place)] = &[$(($name, $place),)*];
                places.iter().map(|(name, place)| (*name, *place(&mut limits))).collect()
            }
        }
    };
}

limits! {
    iops_total "iops-total" "x-iops-total" (|l| &mut l.iops[0].average) "Most operations per second of all requests together; 0: no limit.";
    iops_total_max "iops-total-max" "x-iops-total-max" (|l| &mut l.iops[0].max) "Most operations per second of all requests together in a burst; 0: a tenth of a second's worth at once.";
    iops_total_max_length "iops-total-max-length" "x-iops-total-max-length" (|l| &mut l.iops[0].max_length) "Longest burst of all requests together in seconds, 1 without it.";
    iops_read "iops-read" "x-iops-read" (|l| &mut l.iops[1].average) "Most operations per second of reads; 0: no limit.";
    iops_read_max "iops-read-max" "x-iops-read-max" (|l| &mut l.iops[1].max) "Most operations per second of reads in a burst; 0: a tenth of a second's worth at once.";
    iops_read_max_length "iops-read-max-length" "x-iops-read-max-length" (|l| &mut l.iops[1].max_length) "Longest burst of reads in seconds, 1 without it.";
    iops_write "iops-write" "x-iops-write" (|l| &mut l.iops[2].average) "Most operations per second of writes (and zeroing and discards); 0: no limit.";
    iops_write_max "iops-write-max" "x-iops-write-max" (|l| &mut l.iops[2].max) "Most operations per second of writes (and zeroing and discards) in a burst; 0: a tenth of a second's worth at once.";
    iops_write_max_length "iops-write-max-length" "x-iops-write-max-length" (|l| &mut l.iops[2].max_length) "Longest burst of writes (and zeroing and discards) in seconds, 1 without it.";
    bps_total "bps-total" "x-bps-total" (|l| &mut l.bps[0].average) "Most bytes per second of all requests together; 0: no limit.";
    bps_total_max "bps-total-max" "x-bps-total-max" (|l| &mut l.bps[0].max) "Most bytes per second of all requests together in a burst; 0: a tenth of a second's worth at once.";
    bps_total_max_length "bps-total-max-length" "x-bps-total-max-length" (|l| &mut l.bps[0].max_length) "Longest burst of all requests together in seconds, 1 without it.";
    bps_read "bps-read" "x-bps-read" (|l| &mut l.bps[1].average) "Most bytes per second of reads; 0: no limit.";
    bps_read_max "bps-read-max" "x-bps-read-max" (|l| &mut l.bps[1].max) "Most bytes per second of reads in a burst; 0: a tenth of a second's worth at once.";
    bps_read_max_length "bps-read-max-length" "x-bps-read-max-length" (|l| &mut l.bps[1].max_length) "Longest burst of reads in seconds, 1 without it.";
    bps_write "bps-write" "x-bps-write" (|l| &mut l.bps[2].average) "Most bytes per second of writes (and zeroing and discards); 0: no limit.";
    bps_write_max "bps-write-max" "x-bps-write-max" (|l| &mut l.bps[2].max) "Most bytes per second of writes (and zeroing and discards) in a burst; 0: a tenth of a second's worth at once.";
    bps_write_max_length "bps-write-max-length" "x-bps-write-max-length" (|l| &mut l.bps[2].max_length) "Longest burst of writes (and zeroing and discards) in seconds, 1 without it.";
    iops_size "iops-size" "x-iops-size" (|l| &mut l.iops_size) "Bytes that count as one operation; 0: every request counts as one.";
}

fn in_range(name: &str, value: u64) -> Result<(), String> {
    if name.ends_with("-max-length") && value > u64::from(u32::MAX) {
        return Err(format!("{name} value must be in the range [0, {}]", u32::MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn limits(options: Value) -> Result<ThrottleLimits, String> {
        let options: ThrottleGroupOptions = serde_json::from_value(options).map_err(|e| e.to_string())?;
        options.limits()
    }

    #[test]
    fn both_ways_to_name_them_give_the_same() {
        let new = json!({"limits": {"iops-read": 10, "iops-read-max": 20, "iops-read-max-length": 3, "bps-total": 7}});
        let old =
            json!({"x-iops-read": 10, "x-iops-read-max": 20, "x-iops-read-max-length": 3, "x-bps-total": 7});
        let limits_of_new = limits(new).unwrap();
        assert_eq!(limits_of_new, limits(old).unwrap());
        assert_eq!(limits_of_new.iops[1], Rate { average: 10, max: 20, max_length: 3 });
        assert_eq!(limits_of_new.bps[0], Rate { average: 7, ..Rate::default() });
        assert!(limits(json!({})).unwrap().is_unlimited() && !limits_of_new.is_unlimited());
        let named = limits_of_new.named();
        assert_eq!((named.len(), named[3]), (19, ("iops-read", 10)));
    }

    #[test]
    fn nonsense_is_refused_in_qemus_words() {
        const RANGE: &str = "bps/iops/max values must be within [0, 1000000000000000]";
        const MIXED: &str = "bps/iops/max total values and read/write values cannot be used at the same time";
        let cases = [
            (json!({"iops-total": 10, "iops-read": 5}), MIXED),
            (json!({"bps-total": 10, "bps-write": 5}), MIXED),
            (json!({"iops-total": 2_000_000_000_000_000u64}), RANGE),
            (json!({"iops-size": 4}), "iops size requires an iops value to be set"),
            (json!({"iops-total": 1, "iops-total-max-length": 0}), "the burst length cannot be 0"),
            (json!({"iops-total": 1, "iops-total-max-length": 3}), "burst length set without burst rate"),
            (json!({"iops-total-max": 3}), "bps_max/iops_max require corresponding bps/iops values"),
            (
                json!({"iops-total": 10, "iops-total-max": 3}),
                "bps_max/iops_max cannot be lower than bps/iops",
            ),
            (
                json!({"iops-total": 10, "iops-total-max": 1_000_000_000_000_000u64, "iops-total-max-length": 5000}),
                "burst length too high for this burst rate",
            ),
            (
                json!({"iops-total": 1, "iops-total-max-length": 5_000_000_000u64}),
                "iops-total-max-length value must be in the range [0, 4294967295]",
            ),
        ];
        for (options, expected) in cases {
            assert_eq!(limits(json!({"limits": options})).unwrap_err(), expected);
        }
        assert!(limits(json!({"limits": {"iops": 1}})).unwrap_err().contains("iops"));
    }

    #[test]
    fn a_patch_leaves_alone_what_it_does_not_name() {
        let before = limits(json!({"limits": {"iops-total": 10, "iops-total-max": 20}})).unwrap();
        let patch = LimitsPatch { bps_read: Some(100), ..LimitsPatch::default() };
        let after = patch.over(before).unwrap();
        assert_eq!((after.iops, after.bps[1].average), (before.iops, 100));
        let patch = LimitsPatch { iops_total: Some(0), ..LimitsPatch::default() };
        assert_eq!(patch.over(after).unwrap_err(), "bps_max/iops_max require corresponding bps/iops values");
    }
}
