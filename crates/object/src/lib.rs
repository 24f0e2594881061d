//! Named handles: secrets, I/O threads, throttle groups.
