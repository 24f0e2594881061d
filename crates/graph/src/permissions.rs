//! The permission table: what a child edge uses and shares, by its role and by what the parent's users ask.
//!
//! Invariants: the rules of roles are this table and nothing else; a driver with special needs states them as data
//! (an [`EdgeDemand`]) with its node. Each cell answers for one permission; what several ask together is the union
//! of their cells. `docs/permissions.md` is generated from it.

use block::Permissions;
use flow::Role;

const NONE: Permissions = Permissions::NONE;
const READ: Permissions = Permissions::CONSISTENT_READ;
const WRITE: Permissions = Permissions::WRITE;
const UNCHANGED: Permissions = Permissions::WRITE_UNCHANGED;
const RESIZE: Permissions = Permissions::RESIZE;
const WRITE_RESIZE: Permissions = WRITE.union(RESIZE);

/// What one user does with a node, and what it lets the other users do meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    /// What it does itself.
    pub uses: Permissions,
    /// What others may do.
    pub shares: Permissions,
}

impl Demand {
    /// Of a user that does nothing and minds nothing.
    pub const NOTHING: Self = Self { uses: Permissions::NONE, shares: Permissions::ALL };

    /// A reader that lets the others do everything but resize, as an export is.
    pub const READ: Self = Self { uses: READ, shares: UNCHANGED.union(READ).union(WRITE) };

    /// A writer that lets the others do everything but resize, as a writable export is.
    pub const WRITE: Self = Self { uses: READ.union(WRITE), shares: Self::READ.shares };

    /// A reader that minds nothing, as QEMU's tools are.
    pub const LOOK: Self = Self { uses: READ, shares: Permissions::ALL };

    /// A reader that needs all to stay as it is: of tables, or for a copy.
    pub const STILL: Self = Self { uses: READ, shares: READ.union(UNCHANGED) };

    /// A writer that minds nothing, as QEMU's tools are.
    pub const CHANGE: Self = Self { uses: READ.union(WRITE), shares: Permissions::ALL };

    /// One that changes the size and lets the others do everything.
    pub const RESIZE: Self = Self { uses: RESIZE, shares: Permissions::ALL };

    /// What both together do and let others do.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { uses: self.uses | other.uses, shares: self.shares & other.shares }
    }
}

/// What a node asks of a child beyond what the child's role says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EdgeDemand {
    /// Permissions that it uses whatever its own users ask (write-unchanged, of copy-on-read).
    pub uses: Permissions,
    /// Permissions that it never shares (resize, of a raw format with an offset).
    pub unshares: Permissions,
}

/// The rules of one role. The arrays have a cell for each of [`Permissions::NAMES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleRules {
    /// The role.
    pub role: Role,
    /// Used whatever the parent's users do.
    pub uses_always: Permissions,
    /// Used as well while the parent is not read-only: a format touches its tables by itself.
    pub uses_writable: Permissions,
    /// Used when a user of the parent uses that one.
    pub uses: [Permissions; 4],
    /// Never shared.
    pub unshares_always: Permissions,
    /// Not shared when a user of the parent does not share that one.
    pub unshares: [Permissions; 4],
}

/// Each permission causes itself.
const AS_IT_IS: [Permissions; 4] = [READ, WRITE, UNCHANGED, RESIZE];

/// The table, as QEMU 10.0.2 was observed to do (`x-debug-query-block-graph`).
pub const ROLES: [RoleRules; 4] = [
    RoleRules {
        role: Role::File,
        uses_always: READ,
        uses_writable: WRITE_RESIZE,
        uses: AS_IT_IS,
        unshares_always: WRITE_RESIZE,
        unshares: AS_IT_IS,
    },
    RoleRules {
        role: Role::Filtered,
        uses_always: NONE,
        uses_writable: NONE,
        uses: AS_IT_IS,
        unshares_always: NONE,
        unshares: AS_IT_IS,
    },
    RoleRules {
        role: Role::DataFile,
        uses_always: NONE,
        uses_writable: NONE,
        // Guest bytes that were not there before are written, behind the end if need be.
        uses: [READ, WRITE_RESIZE, UNCHANGED.union(WRITE_RESIZE), RESIZE],
        unshares_always: RESIZE,
        unshares: AS_IT_IS,
    },
    RoleRules {
        role: Role::Backing,
        uses_always: NONE,
        uses_writable: NONE,
        // Nothing but reading is ever done to a backing file.
        uses: [READ, NONE, NONE, NONE],
        unshares_always: NONE,
        // Who minds changes of the parent's bytes minds all changes of what shines through it.
        unshares: [NONE, WRITE_RESIZE, NONE, NONE],
    },
];

/// The rules of `role`.
pub fn rules(role: Role) -> &'static RoleRules {
    let row = match role {
        Role::File => 0,
        Role::Filtered => 1,
        Role::DataFile => 2,
        Role::Backing => 3,
    };
    &ROLES[row]
}

/// What the edge to a child of `role` demands, when all users of the parent together demand `users`.
pub fn edge(role: Role, users: Demand, writable: bool, extra: EdgeDemand) -> Demand {
    let rules = rules(role);
    let own = if writable { rules.uses_always | rules.uses_writable } else { rules.uses_always };
    let uses = own | caused(&rules.uses, users.uses) | extra.uses;
    let unshares = rules.unshares_always | caused(&rules.unshares, !users.shares) | extra.unshares;
    Demand { uses, shares: !unshares }
}

fn caused(cells: &[Permissions; 4], asked: Permissions) -> Permissions {
    let hit = Permissions::NAMES.iter().zip(cells).filter(|((one, _), _)| asked.contains(*one));
    hit.fold(NONE, |sum, (_, cell)| sum | *cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10.0.2 was observed to use and share: r(ead), w(rite), u(nchanged), s(ize).
    /// Columns: nothing asked of a writable parent, nothing asked of a read-only one, then used: r, w, u, s (of a
    /// writable parent), then not shared: r, w, u, s.
    const OBSERVED: [(Role, [&str; 10]); 4] = [
        (
            Role::File,
            ["rws/ru", "r/ru", "rws/ru", "rws/ru", "rwus/ru", "rws/ru", "rws/u", "rws/ru", "rws/r", "rws/ru"],
        ),
        (
            Role::Filtered,
            ["-/rwus", "-/rwus", "r/rwus", "w/rwus", "u/rwus", "s/rwus", "-/wus", "-/rus", "-/rws", "-/rwu"],
        ),
        (
            Role::DataFile,
            ["-/rwu", "-/rwu", "r/rwu", "ws/rwu", "wus/rwu", "s/rwu", "-/wu", "-/ru", "-/rw", "-/rwu"],
        ),
        (
            Role::Backing,
            [
                "-/rwus", "-/rwus", "r/rwus", "-/rwus", "-/rwus", "-/rwus", "-/rwus", "-/ru", "-/rwus",
                "-/rwus",
            ],
        ),
    ];

    fn letters(set: Permissions) -> String {
        let all = [(READ, 'r'), (WRITE, 'w'), (UNCHANGED, 'u'), (RESIZE, 's')];
        let text: String = all.iter().filter(|(one, _)| set.contains(*one)).map(|(_, c)| *c).collect();
        if text.is_empty() { "-".to_owned() } else { text }
    }

    fn cell(role: Role, users: Demand, writable: bool) -> String {
        let edge = edge(role, users, writable, EdgeDemand::default());
        format!("{}/{}", letters(edge.uses), letters(edge.shares))
    }

    #[test]
    fn each_cell_is_what_was_observed() {
        for (role, expected) in OBSERVED {
            let mut found = vec![cell(role, Demand::NOTHING, true), cell(role, Demand::NOTHING, false)];
            for (one, _) in Permissions::NAMES {
                found.push(cell(role, Demand { uses: one, ..Demand::NOTHING }, true));
            }
            for (one, _) in Permissions::NAMES {
                found.push(cell(role, Demand { shares: !one, ..Demand::NOTHING }, true));
            }
            assert_eq!(found, expected, "{role:?}");
        }
    }

    #[test]
    fn what_several_ask_is_the_union_of_their_cells() {
        let all = Demand { uses: Permissions::ALL, shares: Permissions::NONE };
        assert_eq!(cell(Role::File, all, true), "rwus/-");
        assert_eq!(cell(Role::DataFile, all, true), "rwus/-");
        assert_eq!(cell(Role::Backing, all, true), "r/ru");
    }

    #[test]
    fn a_node_may_ask_for_more_than_its_role() {
        let copy_on_read = EdgeDemand { uses: UNCHANGED, ..EdgeDemand::default() };
        let below = edge(Role::Filtered, Demand::READ, true, copy_on_read);
        assert_eq!((letters(below.uses), letters(below.shares)), ("ru".to_owned(), "rwu".to_owned()));
        let with_offset = EdgeDemand { unshares: RESIZE, ..EdgeDemand::default() };
        assert_eq!(letters(edge(Role::Filtered, Demand::NOTHING, true, with_offset).shares), "rwu");
    }

    #[test]
    fn rows_are_found_by_their_role() {
        for row in &ROLES {
            assert_eq!(rules(row.role), row);
        }
    }
}
