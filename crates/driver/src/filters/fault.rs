//! `fault`: makes requests fail by rule, to see what broken storage does to those above. A test filter.
//!
//! Invariants: a request is judged and counted once, whatever way it takes; nothing of one that fails reaches the
//! child; which requests fail depends on the rules, the seed and the order of requests alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::{BlockError, ChildIndex, ErrorKind, Result};
use flow::{Body, Execute, Limits, Next, Now, Powers, Request, Role, Stats, Window};
use io::{Lease, LocalFut};
use serde::Deserialize;

use crate::context::{OpenContext, Opened};
use crate::labels::{Label, LabelOptions, OpName, PriorityName};

const CHILD: ChildIndex = ChildIndex(0);
/// EIO.
const ERRNO_DEFAULT: i32 = 5;
/// Largest errno of Linux.
const ERRNO_MAX: i32 = 4095;

/// Options.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Which requests fail. Every rule counts the requests that it is about; the first that says so makes one fail.
    pub rules: Vec<RuleOptions>,
    /// Decides where rules have a probability.
    pub seed: u64,
}

/// A rule: which requests it is about, and which of these fail with what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuleOptions {
    /// Its name, for counters and messages; `rule-N` without it, N counting from 0.
    pub label: Option<String>,
    /// It is about requests that do this.
    pub op: Option<OpName>,
    /// It is about requests that touch a byte from here on.
    pub offset: Option<u64>,
    /// It is about requests that touch one of so many bytes from `offset` (or 0) on.
    pub length: Option<u64>,
    /// It is about requests of this priority.
    pub priority: Option<PriorityName>,
    /// From the how manyeth of them on they fail, counting from 1; 1 without it.
    pub nth: Option<u64>,
    /// Share of them that fails, from 0 to 1; 1 without it.
    pub probability: Option<f64>,
    /// With which errno of Linux; 5 (EIO) without it.
    pub errno: Option<i32>,
    /// Only one of them fails.
    pub once: bool,
}

/// Opens a `fault` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let options: Options = context.parse()?;
        let limits = super::limits_above(context.child(Role::Filtered)?);
        let seed = options.seed;
        let rule = |(at, rule)| Rule::new(rule, at, seed);
        let rules = options.rules.into_iter().enumerate().map(rule).collect::<Result<_>>()?;
        Ok(Opened::new(Body::Executes(Arc::new(Fault { rules, limits }))))
    })
}

struct Rule {
    label: Label,
    nth: u64,
    probability: f64,
    errno: i32,
    once: bool,
    seed: u64,
    failed: AtomicU64,
}

impl Rule {
    fn new(options: RuleOptions, at: usize, seed: u64) -> Result<Self> {
        let RuleOptions { label, op, offset, length, priority, nth, probability, errno, once } = options;
        let errno = errno.unwrap_or(ERRNO_DEFAULT);
        let (nth, probability) = (nth.unwrap_or(1), probability.unwrap_or(1.0));
        let refused = |name, value: &dyn std::fmt::Display| {
            let context = format!("Parameter 'rules.{at}.{name}' does not accept value '{value}'");
            Err(BlockError::new(ErrorKind::Invalid, context))
        };
        if !(1..=ERRNO_MAX).contains(&errno) {
            return refused("errno", &errno);
        }
        if !(0.0..=1.0).contains(&probability) {
            return refused("probability", &probability);
        }
        if nth == 0 {
            return refused("nth", &nth);
        }
        let options = LabelOptions { label, op, offset, length, priority };
        let label = Label::new(options, format!("rule-{at}"))?;
        let seed = mix(seed ^ mix(at as u64));
        Ok(Self { label, nth, probability, errno, once, seed, failed: AtomicU64::new(0) })
    }

    /// Counts a request that it is about; answers whether that fails.
    fn judge(&self) -> bool {
        let number = self.label.count();
        // 53 random bits: all that a float between 0 and 1 can hold.
        let dice = (mix(self.seed ^ number) >> 11) as f64 / (1u64 << 53) as f64;
        if number < self.nth || dice >= self.probability {
            return false;
        }
        if self.once {
            return self.failed.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        true
    }

    #[cold]
    fn error(&self, next: Next<'_>, rq: &Request) -> BlockError {
        let (node, label) = (next.node().name(), self.label.name());
        let context = format!("node '{node}': fault '{label}' in {:?} of {}", rq.op, rq.range);
        BlockError::system(context, std::io::Error::from_raw_os_error(self.errno))
    }
}

/// Spreads a number over all 64 bits (splitmix64).
fn mix(number: u64) -> u64 {
    let a = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ (c >> 31)
}

struct Fault {
    rules: Vec<Rule>,
    limits: Limits,
}

impl Fault {
    fn judge(&self, rq: &mut Request, next: Next<'_>) -> Result<()> {
        if !rq.act(next.slot()) {
            return Ok(());
        }
        let mut failing = None;
        for rule in self.rules.iter().filter(|rule| rule.label.fits(rq)) {
            // All count it; a rule that comes too late has not made it fail.
            if failing.is_some() {
                rule.label.count();
            } else if rule.judge() {
                failing = Some(rule);
            }
        }
        failing.map_or(Ok(()), |rule| Err(rule.error(next, rq)))
    }
}

impl Execute for Fault {
    fn size(&self) -> Option<u64> {
        None
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, next: Next<'_>) -> Result<Now> {
        self.judge(rq, next)?;
        next.try_now(CHILD, rq, window)
    }

    fn execute<'a>(
        &'a self,
        mut rq: Request,
        lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        match self.judge(&mut rq, next) {
            Ok(()) => next.execute(CHILD, rq, lease),
            Err(error) => Box::pin(async move { (Err(error), lease) }),
        }
    }

    fn powers(&self) -> Powers<'_> {
        Powers { stats: Some(self), ..Powers::default() }
    }
}

impl Stats for Fault {
    fn stats(&self) -> Vec<(String, u64)> {
        let both = |rule: &Rule| {
            let name = rule.label.name();
            let failed = rule.failed.load(Ordering::Relaxed);
            [(format!("{name}.seen"), rule.label.seen()), (format!("{name}.failed"), failed)]
        };
        self.rules.iter().flat_map(both).collect()
    }
}
