//! The transmission phase: what may be asked, and how it is answered.

pub mod client;
mod limits;
mod rules;
pub mod server;

pub use limits::{Limits, Refusal, validate};
pub use rules::{Rule, rule};

#[cfg(test)]
mod tests;
