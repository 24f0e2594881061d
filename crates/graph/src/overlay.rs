//! A table seen through changes that have not been made yet: the cheap structural copy that edits are tried on.
//!
//! Invariants: the table below is never touched; only rows that were changed are copied.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Changes of a table: `None` for rows that are gone.
pub(crate) type Changes<K, V> = BTreeMap<K, Option<V>>;

/// A table with changes.
pub(crate) struct Overlay<'a, K, V> {
    base: &'a BTreeMap<K, V>,
    changes: Changes<K, V>,
}

impl<'a, K: Ord + Clone, V: Clone> Overlay<'a, K, V> {
    pub(crate) fn new(base: &'a BTreeMap<K, V>) -> Self {
        Self { base, changes: BTreeMap::new() }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self.changes.get(key) {
            Some(row) => row.as_ref(),
            None => self.base.get(key),
        }
    }

    /// The row as it was before any change.
    pub(crate) fn before(&self, key: &K) -> Option<&'a V> {
        self.base.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.changes.contains_key(key) {
            self.changes.insert(key.clone(), Some(self.base.get(key)?.clone()));
        }
        self.changes.get_mut(key)?.as_mut()
    }

    pub(crate) fn insert(&mut self, key: K, row: V) {
        self.changes.insert(key, Some(row));
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.changes.insert(key.clone(), None);
    }

    /// Rows with keys in `keys`; those that were changed come last.
    pub(crate) fn range(&self, keys: RangeInclusive<K>) -> impl Iterator<Item = (&K, &V)> {
        let kept = self.base.range(keys.clone()).filter(|(key, _)| !self.changes.contains_key(key));
        let changed = self.changes.range(keys).filter_map(|(key, row)| Some((key, row.as_ref()?)));
        kept.chain(changed)
    }

    /// Whether any row with a key in `keys` was changed, even if it is gone again.
    pub(crate) fn touched(&self, keys: RangeInclusive<K>) -> bool {
        self.changes.range(keys).next().is_some()
    }

    pub(crate) fn into_changes(self) -> Changes<K, V> {
        self.changes
    }
}

/// Makes `changes` to `table`.
pub(crate) fn fold<K: Ord, V>(table: &mut BTreeMap<K, V>, changes: Changes<K, V>) {
    for (key, row) in changes {
        match row {
            Some(row) => table.insert(key, row),
            None => table.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_hide_the_table_until_they_are_folded_in() {
        let mut table: BTreeMap<u8, &str> = [(1, "a"), (2, "b"), (3, "c")].into();
        let mut overlay = Overlay::new(&table);
        overlay.remove(&1);
        overlay.insert(4, "d");
        *overlay.get_mut(&2).expect("there") = "B";
        assert_eq!(overlay.get(&1), None);
        assert_eq!(overlay.get_mut(&1), None);
        assert_eq!(overlay.before(&2), Some(&"b"));
        let rows: Vec<_> = overlay.range(1..=9).map(|(k, v)| (*k, *v)).collect();
        assert_eq!(rows, [(3, "c"), (2, "B"), (4, "d")]);
        assert!(overlay.touched(1..=1) && !overlay.touched(3..=3));
        let changes = overlay.into_changes();
        assert_eq!(changes.len(), 3);
        fold(&mut table, changes);
        assert_eq!(table, [(2, "B"), (3, "c"), (4, "d")].into());
    }
}
