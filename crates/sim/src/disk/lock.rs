//! Locks between open files, by QEMU's rule: nobody uses what another one does not share.

use block::Permissions;
use io::file::LockConflict;

use super::inode::Inode;

impl Inode {
    /// Makes `uses` and `shares` the locks of the open file `open`; nothing changes on a conflict.
    pub(crate) fn lock(
        &mut self,
        open: u64,
        uses: Permissions,
        shares: Permissions,
    ) -> Result<(), LockConflict> {
        let others = || self.locks.iter().filter(|(other, _)| **other != open).map(|(_, held)| held);
        // QEMU first tries all that it uses, then all that it does not share.
        for permission in uses.iter() {
            if others().any(|(_, shared)| !shared.contains(permission)) {
                return Err(LockConflict { permission, in_use: false });
            }
        }
        for permission in (!shares).iter() {
            if others().any(|(used, _)| used.contains(permission)) {
                return Err(LockConflict { permission, in_use: true });
            }
        }
        self.locks.insert(open, (uses, shares));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Permissions = Permissions::CONSISTENT_READ;
    const WRITE: Permissions = Permissions::WRITE;

    #[test]
    fn one_writer_many_readers() {
        let mut inode = Inode::default();
        inode.lock(1, READ | WRITE, READ).unwrap();
        let refused = inode.lock(2, READ, Permissions::ALL - WRITE).unwrap_err();
        assert_eq!(refused, LockConflict { permission: WRITE, in_use: true });
        inode.lock(2, READ, Permissions::ALL).unwrap();
        let refused = inode.lock(3, WRITE, Permissions::ALL).unwrap_err();
        assert_eq!(refused, LockConflict { permission: WRITE, in_use: false });
        // Replacing what one holds asks only the others.
        inode.lock(1, READ, Permissions::ALL).unwrap();
        inode.lock(3, WRITE, Permissions::ALL).unwrap();
    }
}
