//! Named handles: secrets, I/O threads, throttle groups.
//!
//! An object is what several nodes, exports or jobs share by a name. Whoever uses one holds its `Arc`; that is what
//! "in use" means.
//!
//! Invariants: an object's name is unique over all kinds; one that is in use is not deleted; no message and no
//! `Debug` output ever holds a secret.

mod base64;
mod help;
mod iothread;
mod kinds;
mod objects;
mod secret;
mod throttle_group;

pub use help::help;
pub use iothread::{IoThread, IoThreadOptions};
pub use kinds::{KINDS, Object, ObjectOptions};
pub use objects::Objects;
pub use secret::{Secret, SecretFormat, SecretOptions};
pub use throttle_group::{
    Admit, Direction, LimitsPatch, Rate, ThrottleGroup, ThrottleGroupOptions, ThrottleLimits,
};
