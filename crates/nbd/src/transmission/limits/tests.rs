//! The table of grants and refusals.

use super::*;
use crate::codec::{CommandFlags, Cookie, PAYLOAD_MAX};

const MIB: u64 = 1 << 20;

/// What QEMU offers for a writable export with structured replies.
const WRITABLE: Limits = Limits {
    size: MIB,
    flags: TransmissionFlags::from_bits(0xded),
    payload_max: PAYLOAD_MAX,
    block_status: true,
};

fn header(code: u16, offset: u64, len: u32, flags: CommandFlags) -> RequestHeader {
    RequestHeader { flags, code, cookie: Cookie(1), offset, len }
}

fn outcome(limits: &Limits, command: Command, offset: u64, len: u32, flags: CommandFlags) -> Option<Errno> {
    validate(&header(command.code(), offset, len, flags), limits).err().map(|refusal| refusal.errno)
}

#[test]
fn bounds_are_those_of_the_export() {
    use Command::*;
    let plain = CommandFlags::NONE;
    for command in [Read, Trim, Cache, BlockStatus, Flush] {
        assert_eq!(outcome(&WRITABLE, command, MIB - 1, 1, plain), None);
        assert_eq!(outcome(&WRITABLE, command, MIB - 1, 2, plain), Some(Errno::INVAL));
        assert_eq!(outcome(&WRITABLE, command, u64::MAX, 512, plain), Some(Errno::INVAL));
    }
    for command in [Write, WriteZeroes] {
        assert_eq!(outcome(&WRITABLE, command, MIB, 0, plain), None);
        assert_eq!(outcome(&WRITABLE, command, MIB, 1, plain), Some(Errno::NOSPC));
    }
    assert_eq!(outcome(&WRITABLE, Disconnect, u64::MAX, 7, CommandFlags::from_bits(0xffff)), None);
}

#[test]
fn payloads_are_bounded_and_effects_are_not() {
    use Command::*;
    let large = Limits { size: 1 << 40, ..WRITABLE };
    for command in [Read, Write, Cache] {
        assert_eq!(outcome(&large, command, 0, PAYLOAD_MAX, CommandFlags::NONE), None);
        assert_eq!(outcome(&large, command, 0, PAYLOAD_MAX + 1, CommandFlags::NONE), Some(Errno::INVAL));
    }
    for command in [Trim, WriteZeroes, BlockStatus] {
        assert_eq!(outcome(&large, command, 0, u32::MAX, CommandFlags::NONE), None);
    }
    assert_eq!(outcome(&large, BlockStatus, 0, 0, CommandFlags::NONE), Some(Errno::INVAL));
}

#[test]
fn read_only_exports_refuse_what_writes() {
    let limits = Limits { flags: TransmissionFlags::from_bits(0x58f), ..WRITABLE };
    for command in Command::ALL {
        let expected = rule(*command).writes.then_some(Errno::PERM);
        assert_eq!(outcome(&limits, *command, 0, 512, CommandFlags::NONE), expected, "{command:?}");
    }
}

#[test]
fn each_flag_belongs_to_its_commands() {
    use Command::*;
    let cases: [(CommandFlags, &[Command]); 6] = [
        (CommandFlags::FUA, &[Read, Write, Flush, Trim, Cache, WriteZeroes, BlockStatus]),
        (CommandFlags::NO_HOLE, &[WriteZeroes]),
        (CommandFlags::DF, &[Read]),
        (CommandFlags::REQ_ONE, &[BlockStatus]),
        (CommandFlags::FAST_ZERO, &[WriteZeroes]),
        (CommandFlags::PAYLOAD_LEN, &[]),
    ];
    for (flag, commands) in cases {
        for command in Command::ALL.iter().filter(|c| **c != Disconnect) {
            let granted = outcome(&WRITABLE, *command, 0, 512, flag).is_none();
            assert_eq!(granted, commands.contains(command), "{flag:?} {command:?}");
        }
    }
}

#[test]
fn what_was_not_offered_is_not_granted() {
    use Command::*;
    let bare = Limits { flags: TransmissionFlags::HAS_FLAGS, block_status: false, ..WRITABLE };
    for command in [Trim, WriteZeroes, Flush, BlockStatus] {
        assert_eq!(outcome(&bare, command, 0, 512, CommandFlags::NONE), Some(Errno::INVAL), "{command:?}");
    }
    for command in [Read, Write, Cache] {
        assert_eq!(outcome(&bare, command, 0, 512, CommandFlags::NONE), None);
        assert_eq!(outcome(&bare, command, 0, 512, CommandFlags::FUA), Some(Errno::INVAL));
    }
    let refusal = validate(&header(8, 0, 0, CommandFlags::NONE), &bare).unwrap_err();
    assert_eq!((refusal.errno, refusal.message), (Errno::INVAL, "invalid request type received"));
}
