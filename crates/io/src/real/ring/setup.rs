//! Making a ring: which of the kernel's ways of setting up to use, and whether there is any.
#![allow(unsafe_code, reason = "submits to the kernel")]

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::queue::{IN_FLIGHT_MAX, SUBMISSIONS};

/// Whether the kernel lets this process make and use rings; tries it.
pub(in crate::real) fn probe() -> io::Result<()> {
    let mut ring = set_up(0)?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    if !known.is_supported(opcode::Read::CODE) || !known.is_supported(opcode::Write::CODE) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let nothing = opcode::Nop::new().build();
    // SAFETY: the operation refers to no memory.
    unsafe { ring.submission().push(&nothing) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    Ok(())
}

/// Sets up in the newest way that the kernel knows, from `newest` on: completions are delivered when we ask
/// for them (0, kernel 6.1), at our next system call (1, kernel 5.19), or by interrupting us (2).
pub(super) fn set_up(newest: u32) -> io::Result<IoUring> {
    let mut refused = io::Error::from(io::ErrorKind::Unsupported);
    for level in newest..3 {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(IN_FLIGHT_MAX as u32);
        match level {
            0 => builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
            1 => builder.setup_coop_taskrun().setup_taskrun_flag(),
            _ => &mut builder,
        };
        match builder.build(SUBMISSIONS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
            outcome => return outcome,
        }
    }
    Err(refused)
}
