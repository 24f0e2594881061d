//! The outside world behind small traits: files, network, clock, random, threads. The only place that names the runtime or has unsafe code.
