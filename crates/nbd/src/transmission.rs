//! The transmission phase: what may be asked, and how it is answered.

mod rules;
pub mod server;

pub use rules::{Rule, rule};
