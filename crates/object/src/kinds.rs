//! The table of object kinds.

use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use io::World;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::iothread::{IoThread, IoThreadOptions};
use crate::secret::{Secret, SecretOptions};
use crate::throttle_group::{ThrottleGroup, ThrottleGroupOptions};

/// Names of the kinds (`qom-type`).
pub const KINDS: [&str; 3] = ["iothread", "secret", "throttle-group"];

/// An object of any kind.
#[derive(Clone, Debug)]
pub enum Object {
    /// An I/O thread.
    IoThread(Arc<IoThread>),
    /// A secret.
    Secret(Arc<Secret>),
    /// A throttle group.
    ThrottleGroup(Arc<ThrottleGroup>),
}

/// Options of an object of any kind.
#[derive(Clone, Debug)]
pub enum ObjectOptions {
    /// Of an I/O thread.
    IoThread(IoThreadOptions),
    /// Of a secret.
    Secret(SecretOptions),
    /// Of a throttle group.
    ThrottleGroup(Box<ThrottleGroupOptions>),
}

impl ObjectOptions {
    /// Reads the options of an object of `kind` (without `qom-type` and `id`).
    pub fn read<'de, D: Deserializer<'de>>(kind: &str, options: D) -> std::result::Result<Self, D::Error> {
        match kind {
            "iothread" => IoThreadOptions::deserialize(options).map(Self::IoThread),
            "secret" => SecretOptions::deserialize(options).map(Self::Secret),
            "throttle-group" => Box::deserialize(options).map(Self::ThrottleGroup),
            _ => Err(D::Error::custom(unknown(kind))),
        }
    }

    /// Fails where there are no objects of that kind.
    pub fn check_kind(kind: &str) -> Result<()> {
        match KINDS.contains(&kind) {
            true => Ok(()),
            false => Err(BlockError::new(ErrorKind::Invalid, unknown(kind))),
        }
    }

    /// Makes the object called `id`.
    pub(crate) async fn open(self, id: &str, world: &dyn World) -> Result<Object> {
        Ok(match self {
            Self::IoThread(_) => Object::IoThread(Arc::new(IoThread::start(id, world)?)),
            Self::Secret(options) => Object::Secret(Arc::new(Secret::open(id, options, world).await?)),
            Self::ThrottleGroup(options) => {
                let limits = options.limits().map_err(|text| BlockError::new(ErrorKind::Invalid, text))?;
                Object::ThrottleGroup(Arc::new(ThrottleGroup::new(id, limits)))
            }
        })
    }
}

fn unknown(kind: &str) -> String {
    format!("Parameter 'qom-type' does not accept value '{kind}'")
}

impl Object {
    /// Name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::IoThread(_) => KINDS[0],
            Self::Secret(_) => KINDS[1],
            Self::ThrottleGroup(_) => KINDS[2],
        }
    }

    /// Whether somebody besides the registry holds it.
    pub(crate) fn is_in_use(&self) -> bool {
        let holders = match self {
            Self::IoThread(thread) => Arc::strong_count(thread),
            Self::Secret(secret) => Arc::strong_count(secret),
            Self::ThrottleGroup(group) => Arc::strong_count(group),
        };
        holders > 1
    }
}
