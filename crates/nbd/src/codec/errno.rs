//! The one table of error numbers: what a system's errno becomes on the wire, and back.

use block::Errno;

/// A value is too large for one answer (`NBD_EOVERFLOW`).
pub const EOVERFLOW: Errno = Errno(75);

/// Number on the wire, and the errnos of Linux that it stands for, its own first (section "Error values").
const TABLE: [(u32, &[i32]); 8] = [
    (1, &[1, 13, 30]),    // EPERM; EACCES, EROFS
    (5, &[5]),            // EIO
    (12, &[12]),          // ENOMEM
    (22, &[22]),          // EINVAL
    (28, &[28, 27, 122]), // ENOSPC; EFBIG, EDQUOT
    (75, &[75]),          // EOVERFLOW
    (95, &[95]),          // ENOTSUP, which Linux gives the number of EOPNOTSUPP
    (108, &[108]),        // ESHUTDOWN
];

/// What a client is told; never 0. An errno that the wire has no number for becomes EIO, since EINVAL would
/// blame the request.
pub fn errno_to_wire(errno: Errno) -> u32 {
    TABLE.iter().find(|(_, errnos)| errnos.contains(&errno.0)).map_or(5, |(wire, _)| *wire)
}

/// What a server told; a number that the protocol does not define counts as EINVAL, as it demands.
pub fn errno_from_wire(wire: u32) -> Errno {
    TABLE.iter().find(|(number, _)| *number == wire).map_or(Errno::INVAL, |(_, errnos)| Errno(errnos[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_the_protocol_survives_both_ways() {
        for wire in [1, 5, 12, 22, 28, 75, 95, 108] {
            assert_eq!(errno_to_wire(errno_from_wire(wire)), wire);
        }
    }

    #[test]
    fn relatives_and_strangers() {
        assert_eq!(errno_to_wire(Errno(30)), 1);
        assert_eq!(errno_to_wire(Errno(122)), 28);
        assert_eq!(errno_to_wire(Errno(71)), 5);
        assert_eq!(errno_to_wire(Errno(0)), 5);
        assert_eq!(errno_from_wire(71), Errno::INVAL);
    }
}
