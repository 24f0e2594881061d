//! What each command may carry and needs; one table for both ends.

use crate::codec::{Command, CommandFlags, TransmissionFlags};

/// What holds for one command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Whether it changes the export, so that a read-only one refuses it.
    pub writes: bool,
    /// Whether its length is bounded by the largest payload (CACHE as in QEMU, though it carries none).
    pub bounded: bool,
    /// Whether a length of 0 makes no sense.
    pub needs_len: bool,
    /// What the server must have offered for it.
    pub needs: TransmissionFlags,
    /// Flags that it may carry, each with what the server must have offered for it.
    pub flags: &'static [(CommandFlags, TransmissionFlags)],
}

const FUA: (CommandFlags, TransmissionFlags) = (CommandFlags::FUA, TransmissionFlags::SEND_FUA);

/// A command that reads, of any length, with only FUA, which the protocol allows everywhere.
const PLAIN: Rule =
    Rule { writes: false, bounded: false, needs_len: false, needs: TransmissionFlags::NONE, flags: &[FUA] };

/// The row of `command`.
pub const fn rule(command: Command) -> Rule {
    use TransmissionFlags as T;
    match command {
        Command::Read => Rule { bounded: true, flags: &[FUA, (CommandFlags::DF, T::SEND_DF)], ..PLAIN },
        Command::Write => Rule { writes: true, bounded: true, ..PLAIN },
        Command::Disconnect => PLAIN,
        Command::Flush => Rule { needs: T::SEND_FLUSH, ..PLAIN },
        Command::Trim => Rule { writes: true, needs: T::SEND_TRIM, ..PLAIN },
        // Clients are known to send it without being offered it.
        Command::Cache => Rule { bounded: true, ..PLAIN },
        Command::WriteZeroes => Rule {
            writes: true,
            needs: T::SEND_WRITE_ZEROES,
            flags: &[
                FUA,
                (CommandFlags::NO_HOLE, T::SEND_WRITE_ZEROES),
                (CommandFlags::FAST_ZERO, T::SEND_FAST_ZERO),
            ],
            ..PLAIN
        },
        Command::BlockStatus => {
            Rule { needs_len: true, flags: &[FUA, (CommandFlags::REQ_ONE, T::NONE)], ..PLAIN }
        }
    }
}

impl Rule {
    /// The flags that the command may carry towards an export that offers `offered`.
    pub fn allowed(&self, offered: TransmissionFlags) -> CommandFlags {
        self.flags
            .iter()
            .filter(|(_, needs)| offered.contains(*needs))
            .fold(CommandFlags::NONE, |all, (flag, _)| all | *flag)
    }
}
