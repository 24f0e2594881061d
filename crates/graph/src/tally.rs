//! What all users of a node together demand, kept as counts: a user comes or goes without asking the others.

use block::Permissions;

use crate::permissions::Demand;

/// Counts, for each of [`Permissions::NAMES`], of the users that use it, that do not share it, and that do both.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    cells: [Cell; 4],
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Cell {
    uses: u32,
    unshares: u32,
    both: u32,
}

impl Cell {
    /// A user may use what it keeps from the others.
    fn conflicts(self) -> bool {
        let alone = self.uses == 1 && self.unshares == 1 && self.both == 1;
        self.uses > 0 && self.unshares > 0 && !alone
    }
}

impl Tally {
    pub(crate) fn add(&mut self, demand: Demand) {
        self.count(demand, |n| *n += 1);
    }

    /// Takes out what was added before.
    pub(crate) fn remove(&mut self, demand: Demand) {
        self.count(demand, |n| *n -= 1);
    }

    /// What all together use, and what all of them share.
    pub(crate) fn demand(&self) -> Demand {
        Demand { uses: self.those(|c| c.uses > 0), shares: self.those(|c| c.unshares == 0) }
    }

    /// What one user uses and another does not share.
    pub(crate) fn conflicts(&self) -> Permissions {
        self.those(Cell::conflicts)
    }

    fn count(&mut self, demand: Demand, by: impl Fn(&mut u32)) {
        for ((one, _), cell) in Permissions::NAMES.iter().zip(&mut self.cells) {
            let (uses, unshares) = (demand.uses.contains(*one), !demand.shares.contains(*one));
            if uses {
                by(&mut cell.uses);
            }
            if unshares {
                by(&mut cell.unshares);
            }
            if uses && unshares {
                by(&mut cell.both);
            }
        }
    }

    fn those(&self, holds: impl Fn(Cell) -> bool) -> Permissions {
        let hit = Permissions::NAMES.iter().zip(self.cells).filter(|(_, cell)| holds(*cell));
        hit.fold(Permissions::NONE, |sum, ((one, _), _)| sum | *one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_and_go() {
        let mut tally = Tally::default();
        assert_eq!(tally.demand(), Demand::NOTHING);
        tally.add(Demand::READ);
        tally.add(Demand::WRITE);
        assert_eq!(tally.demand(), Demand::READ.and(Demand::WRITE));
        tally.remove(Demand::WRITE);
        assert_eq!(tally.demand(), Demand::READ);
        tally.remove(Demand::READ);
        assert_eq!(tally, Tally::default());
    }

    #[test]
    fn nobody_is_in_its_own_way() {
        let sole = Demand { uses: Permissions::WRITE, shares: !Permissions::WRITE };
        let mut tally = Tally::default();
        tally.add(sole);
        assert_eq!(tally.conflicts(), Permissions::NONE);
        tally.add(Demand::READ);
        assert_eq!(tally.conflicts(), Permissions::NONE);
        tally.add(Demand::WRITE);
        assert_eq!(tally.conflicts(), Permissions::WRITE);
        tally.remove(sole);
        assert_eq!(tally.conflicts(), Permissions::NONE);
    }
}
