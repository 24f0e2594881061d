//! The machine: system calls, tokio and io_uring.
