//! Arguments of `object-add`: they are checked here, and read by the objects.

use qmp::schema::{Builder, Given, Member, Members, Object, Refusal, Type};
use serde_json::{Map, Value};

use super::checked::checked;

/// The arguments, checked, as they were given.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectArguments(pub Map<String, Value>);

qmp::union! {
    /// An object.
    pub struct ObjectOptions {
        base: ObjectBase,
        /// Its kinds.
        pub enum ObjectKind by "qom-type" {
            /// An I/O thread.
            IoThread(IoThreadOptions) = "iothread",
            /// A secret.
            Secret(SecretOptions) = "secret",
            /// A throttle group.
            ThrottleGroup(ThrottleGroupOptions) = "throttle-group",
        }
    }
}

qmp::structure! {
    /// What all objects have.
    pub struct ObjectBase {
        /// Its name.
        "id" => id: String,
    }
}

qmp::structure! {
    /// Options of an I/O thread: QEMU's, without effect here.
    pub struct IoThreadOptions {
        /// Without effect.
        "aio-max-batch" => aio_max_batch: Option<i64>,
        /// Without effect.
        "thread-pool-min" => thread_pool_min: Option<i64>,
        /// Without effect.
        "thread-pool-max" => thread_pool_max: Option<i64>,
        /// Without effect.
        "poll-max-ns" => poll_max_ns: Option<i64>,
        /// Without effect.
        "poll-grow" => poll_grow: Option<i64>,
        /// Without effect.
        "poll-shrink" => poll_shrink: Option<i64>,
    }
}

qmp::enumeration! {
    /// How a secret is written.
    pub enum SecretFormat {
        /// As it is.
        Raw = "raw",
        /// In base64.
        Base64 = "base64",
    }
}

qmp::structure! {
    /// Options of a secret.
    pub struct SecretOptions {
        /// How it is written.
        "format" => format: Option<SecretFormat>,
        /// The secret itself.
        "data" => data: Option<String>,
        /// The file that holds it.
        "file" => file: Option<String>,
    }
}

/// The limits, once with their plain names and once as older command lines have them.
macro_rules! limits {
    ($($plain:literal $old:literal => $field:ident,)*) => {
        qmp::structure! {
            /// Limits of a throttle group.
            pub struct ThrottleLimits {
                $(
                    /// See the manual's page of the throttle filter.
                    $plain => $field: Option<i64>,
                )*
            }
        }
        qmp::structure! {
            /// Options of a throttle group.
            pub struct ThrottleGroupOptions {
                /// Its limits.
                "limits" => limits: Option<ThrottleLimits>,
                $(
                    /// The same as the limit without `x-`.
                    $old ["unstable"] => $field: Option<i64>,
                )*
            }
        }
    };
}

limits! {
    "iops-total" "x-iops-total" => iops_total,
    "iops-total-max" "x-iops-total-max" => iops_total_max,
    "iops-total-max-length" "x-iops-total-max-length" => iops_total_max_length,
    "iops-read" "x-iops-read" => iops_read,
    "iops-read-max" "x-iops-read-max" => iops_read_max,
    "iops-read-max-length" "x-iops-read-max-length" => iops_read_max_length,
    "iops-write" "x-iops-write" => iops_write,
    "iops-write-max" "x-iops-write-max" => iops_write_max,
    "iops-write-max-length" "x-iops-write-max-length" => iops_write_max_length,
    "bps-total" "x-bps-total" => bps_total,
    "bps-total-max" "x-bps-total-max" => bps_total_max,
    "bps-total-max-length" "x-bps-total-max-length" => bps_total_max_length,
    "bps-read" "x-bps-read" => bps_read,
    "bps-read-max" "x-bps-read-max" => bps_read_max,
    "bps-read-max-length" "x-bps-read-max-length" => bps_read_max_length,
    "bps-write" "x-bps-write" => bps_write,
    "bps-write-max" "x-bps-write-max" => bps_write_max,
    "bps-write-max-length" "x-bps-write-max-length" => bps_write_max_length,
    "iops-size" "x-iops-size" => iops_size,
}

checked!(ObjectArguments, ObjectOptions);
