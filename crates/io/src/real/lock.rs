//! QEMU's image locks: bytes of the image file that mean permissions, locked for this open file description.
//!
//! Byte 100+n says that permission n is in use, byte 200+n that it is not shared with others. Everybody takes
//! *read* locks on his own bytes, so all can coexist, and then asks whether a *write* lock on the bytes that
//! exclude him would be possible. Taking before asking is what makes two who start at once see one another; it is asked
//! before, too, so that who is refused has not been in anybody's way.
//!
//! Invariants: on conflict exactly what was held before is held again; while locks change, nothing held both
//! before and after is ever let go.
#![allow(unsafe_code, reason = "rustix has no locks of open file descriptions")]

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};

use block::Permissions;

use crate::file::LockConflict;

const USED_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;

/// The bytes that one open file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Held {
    uses: Permissions,
    unshared: Permissions,
}

/// Replaces the locks `held` by those for `uses` and `shares`.
pub(super) fn replace(
    file: BorrowedFd<'_>,
    held: &mut Held,
    uses: Permissions,
    shares: Permissions,
) -> io::Result<()> {
    let wanted = Held { uses, unshared: !shares };
    let added = Held { uses: uses - held.uses, unshared: wanted.unshared - held.unshared };
    check(file, added)?;
    if let Err(error) = acquire(file, added).and_then(|()| check(file, wanted)) {
        // The same descriptor unlocks what it locked: this cannot fail in a way that could be mended.
        let _ = set(file, added, libc::F_UNLCK);
        return Err(error);
    }
    let dropped = Held { uses: held.uses - uses, unshared: held.unshared - wanted.unshared };
    *held = wanted;
    set(file, dropped, libc::F_UNLCK)
}

fn acquire(file: BorrowedFd<'_>, bytes: Held) -> io::Result<()> {
    set(file, bytes, libc::F_RDLCK)
}

fn conflict(permission: Permissions, in_use: bool) -> io::Error {
    io::Error::new(ErrorKind::ResourceBusy, LockConflict { permission, in_use })
}

/// Whether nobody excludes us.
fn check(file: BorrowedFd<'_>, wanted: Held) -> io::Result<()> {
    for (permissions, base, in_use) in
        [(wanted.uses, UNSHARED_BASE, false), (wanted.unshared, USED_BASE, true)]
    {
        for permission in permissions.iter() {
            if is_locked(file, base + number(permission))? {
                return Err(conflict(permission, in_use));
            }
        }
    }
    Ok(())
}

fn set(file: BorrowedFd<'_>, bytes: Held, kind: i32) -> io::Result<()> {
    for (permissions, base) in [(bytes.uses, USED_BASE), (bytes.unshared, UNSHARED_BASE)] {
        for permission in permissions.iter() {
            let outcome = control(file, libc::F_OFD_SETLK, &mut one_byte(kind, base + number(permission)));
            // Refused at once only by a program that locks the whole file its own way.
            outcome.map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::PermissionDenied => {
                    conflict(permission, base == UNSHARED_BASE)
                }
                _ => error,
            })?;
        }
    }
    Ok(())
}

/// Whether another open file holds the byte.
fn is_locked(file: BorrowedFd<'_>, byte: i64) -> io::Result<bool> {
    let mut lock = one_byte(libc::F_WRLCK, byte);
    control(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Which of QEMU's bytes stands for a single permission.
fn number(permission: Permissions) -> i64 {
    Permissions::NAMES.iter().take_while(|(one, _)| *one != permission).count() as i64
}

fn one_byte(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

fn control(file: BorrowedFd<'_>, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: these commands read and write one `flock`, which the reference is.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
