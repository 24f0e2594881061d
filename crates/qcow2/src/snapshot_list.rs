//! The internal snapshots of an image as a list that is changed: found, added, taken away, and stored again.
//!
//! Invariants: what is not ours to change stays as it was read, extra data included; a list that is stored is one that
//! can be read: its limits are checked when it is changed.

use block::{BlockError, ErrorKind, NewSnapshot};

use crate::{HostOffset, Snapshot};

/// Longest name in bytes: QEMU cuts longer ones.
const NAME_MAX: usize = 255;

/// All internal snapshots, in their order in the table, which is that of their making.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotList(Vec<Snapshot>);

impl SnapshotList {
    /// The list that was read from an image whose disk has `virtual_size` bytes. Old entries that do not say how large
    /// it was are of its present size.
    pub fn new(mut snapshots: Vec<Snapshot>, virtual_size: u64) -> Self {
        for snapshot in &mut snapshots {
            snapshot.disk_size.get_or_insert(virtual_size);
        }
        Self(snapshots)
    }

    /// The snapshots.
    pub fn all(&self) -> &[Snapshot] {
        &self.0
    }

    /// Where the one is whose id, or else whose name, is `wanted`.
    pub fn find(&self, wanted: &str) -> Option<usize> {
        let by = |text: fn(&Snapshot) -> &[u8]| self.0.iter().position(|s| text(s) == wanted.as_bytes());
        by(|s| &s.id).or_else(|| by(|s| &s.name))
    }

    /// Adds one (of a name of more than 255 bytes the first ones count) of the disk of `disk_size` bytes whose L1 table
    /// is at `l1_offset` and has `l1_entries`. Its id is one more than the largest there is.
    ///
    /// Errors: the system's `File too large` where the table could not be stored.
    pub fn add(
        &mut self,
        new: &NewSnapshot,
        disk_size: u64,
        l1_offset: HostOffset,
        l1_entries: u32,
    ) -> Result<&Snapshot, BlockError> {
        if self.0.len() >= Snapshot::COUNT_MAX {
            return Err(too_many());
        }
        let name = new.name.as_bytes();
        self.0.push(Snapshot {
            l1_offset,
            l1_entries,
            id: self.next_id().to_string().into(),
            name: name[..name.len().min(NAME_MAX)].to_vec(),
            date_s: new.date_s,
            date_ns: new.date_ns,
            vm_clock_ns: new.vm_clock_ns,
            vm_state_size: 0,
            disk_size: Some(disk_size),
            icount: new.icount,
            unknown_extra: Vec::new(),
        });
        let long: usize = self.0.iter().map(Snapshot::stored_bytes_max).sum();
        if long > Snapshot::TABLE_MAX {
            self.0.pop();
            return Err(too_many());
        }
        Ok(&self.0[self.0.len() - 1])
    }

    /// Takes one away.
    pub fn remove(&mut self, index: usize) -> Snapshot {
        self.0.remove(index)
    }

    /// The bytes of its table.
    pub fn bytes(&self) -> Vec<u8> {
        Snapshot::table_bytes(&self.0)
    }

    fn next_id(&self) -> u64 {
        self.0.iter().map(|snapshot| leading_number(&snapshot.id)).max().unwrap_or(0).saturating_add(1)
    }
}

/// The number that an id begins with; 0 without one.
fn leading_number(id: &[u8]) -> u64 {
    let digits = id.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u64, byte| number.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
}

/// "File too large": what QEMU answers, too.
const EFBIG: i32 = 27;

#[cold]
fn too_many() -> BlockError {
    let context = "no more internal snapshots fit its table: delete some";
    BlockError::caused(ErrorKind::NoSpace, context, std::io::Error::from_raw_os_error(EFBIG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParsedSnapshots;

    fn named(name: &str) -> NewSnapshot {
        NewSnapshot { name: name.to_owned(), date_s: 7, ..NewSnapshot::default() }
    }

    fn add(list: &mut SnapshotList, name: &str) -> String {
        let added = list.add(&named(name), 1 << 30, HostOffset(5 << 16), 2).expect("room");
        String::from_utf8(added.id.clone()).expect("a number")
    }

    #[test]
    fn ids_go_on_and_come_before_names() {
        let mut list = SnapshotList::default();
        assert_eq!([add(&mut list, "a"), add(&mut list, "b"), add(&mut list, "1")], ["1", "2", "3"]);
        assert_eq!((list.find("1"), list.find("b"), list.find("4")), (Some(0), Some(1), None));
        assert_eq!(list.remove(1).name, b"b");
        assert_eq!(add(&mut list, "b"), "4");
        assert_eq!((list.find("1"), list.find("b")), (Some(0), Some(2)));
        list.remove(0);
        assert_eq!(list.find("1"), Some(0), "by its name now");
        list.0[0].id = b"9z".to_vec();
        assert_eq!(add(&mut list, "c"), "10");
    }

    #[test]
    fn what_we_do_not_know_is_stored_again() {
        let mut list = SnapshotList::default();
        add(&mut list, "a");
        list.0[0].unknown_extra = b"of somebody else".to_vec();
        list.0[0].disk_size = None;
        let mut list = SnapshotList::new(list.0, 1 << 30);
        add(&mut list, &"\u{e4}".repeat(200));
        let bytes = list.bytes();
        let found = Snapshot::parse_table(&bytes, 2, false).expect("good");
        let ParsedSnapshots::Whole(found, len) = found else { panic!("all is there") };
        assert_eq!(len, bytes.len() as u64);
        assert_eq!(
            (found[0].disk_size, &found[0].unknown_extra[..]),
            (Some(1 << 30), &b"of somebody else"[..])
        );
        // Nobody has counted instructions, and ids and names are what was asked for.
        assert_eq!((found[1].icount, found[1].name.len()), (Some(u64::MAX), 255));
    }

    #[test]
    fn a_list_that_could_not_be_stored_is_not_made() {
        let mut list = SnapshotList::default();
        add(&mut list, "a");
        list.0 = vec![list.0[0].clone(); Snapshot::COUNT_MAX];
        assert!(list.add(&named("b"), 0, HostOffset(0), 0).is_err());
        let long = Snapshot { unknown_extra: vec![0; 1000], ..list.0[0].clone() };
        list.0 = vec![long; 64_000];
        assert!(list.add(&named("b"), 0, HostOffset(0), 0).is_err());
        assert_eq!(list.all().len(), 64_000);
    }
}
