//! Arguments of the commands about jobs.

qmp::enumeration! {
    /// What errors do to a job.
    pub enum OnError {
        /// It fails.
        Report = "report",
        /// It goes on, and fails in the end.
        Ignore = "ignore",
        /// It pauses where there is no room left, and fails otherwise.
        NoSpace = "enospc",
        /// It pauses.
        Stop = "stop",
        /// As `enospc`.
        Auto = "auto",
    }
}

impl From<OnError> for engine::OnError {
    fn from(policy: OnError) -> Self {
        match policy {
            OnError::Report => Self::Report,
            OnError::Ignore => Self::Ignore,
            OnError::NoSpace => Self::NoSpace,
            OnError::Stop => Self::Stop,
            OnError::Auto => Self::Auto,
        }
    }
}

qmp::structure! {
    /// Arguments of `block-stream`.
    pub struct BlockStream {
        /// Id of the job. Nodes have no name that it could be taken from.
        "job-id" => job_id: Option<String>,
        /// What is streamed into.
        "device" => device: String,
        /// File name of the image that stays below.
        "base" => base: Option<String>,
        /// Node that stays below.
        "base-node" => base_node: Option<String>,
        /// What the image shall call what stays.
        "backing-file" => backing_file: Option<String>,
        /// Whether a protocol that stays is called `raw`.
        "backing-mask-protocol" => backing_mask_protocol: Option<bool>,
        /// The lowest node that does not stay.
        "bottom" => bottom: Option<String>,
        /// Bytes per second at most; 0 for no limit.
        "speed" => speed: Option<i64>,
        /// What errors do to it.
        "on-error" => on_error: Option<OnError>,
        /// Name of the filter that stands above the image meanwhile.
        "filter-node-name" => filter_node_name: Option<String>,
        /// Whether the outcome is made lasting without being asked for.
        "auto-finalize" => auto_finalize: Option<bool>,
        /// Whether the job is gone once it is concluded.
        "auto-dismiss" => auto_dismiss: Option<bool>,
    }
}

qmp::structure! {
    /// A job by its id.
    pub struct Id {
        /// Its id.
        "id" => id: String,
    }
}

qmp::structure! {
    /// A job by its id, as older commands call it.
    pub struct Device {
        /// Its id.
        "device" => device: String,
    }
}

qmp::structure! {
    /// Arguments of `block-job-cancel`.
    pub struct Cancel {
        /// Id of the job.
        "device" => device: String,
        /// Whether a job that could complete gives its outcome up as well.
        "force" => force: Option<bool>,
    }
}

qmp::structure! {
    /// Arguments of `block-job-set-speed`.
    pub struct SetSpeed {
        /// Id of the job.
        "device" => device: String,
        /// Bytes per second at most; 0 for no limit.
        "speed" => speed: i64,
    }
}

impl From<Id> for String {
    fn from(arguments: Id) -> Self {
        arguments.id
    }
}

impl From<Device> for String {
    fn from(arguments: Device) -> Self {
        arguments.device
    }
}

impl From<Cancel> for String {
    fn from(arguments: Cancel) -> Self {
        arguments.device
    }
}
