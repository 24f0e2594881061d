//! `docs/permissions.md` is what the tables say. `MILLPOND_BLESS=1 cargo test -p graph --test permissions_page`
//! writes it anew.

use std::fmt::Write;
use std::path::Path;

use block::Permissions;
use graph::operations::{RULES, Rule};
use graph::permissions::{ROLES, RoleRules};
use graph::{Condition, Operation};

#[test]
fn the_page_says_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/permissions.md");
    let page = page();
    if std::env::var_os("MILLPOND_BLESS").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/permissions.md is out of date: run this test with MILLPOND_BLESS=1");
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    page += &users();
    page += &shares();
    page += OPERATIONS;
    page += &operations();
    page
}

const HEAD: &str = "\
# Who may do what

Generated from the tables in `crates/graph/src/permissions.rs` and `crates/graph/src/operations.rs`
(`MILLPOND_BLESS=1 cargo test -p graph --test permissions_page`). Do not edit.

Every user of a node (an export, a job, a parent node) says what it *uses* and what it *shares* with the other users:

| permission | what it is | lock byte when used | lock byte when not shared |
|---|---|---|---|
| consistent-read | reads that must not see a rewrite half done | 100 | 200 |
| write | changing what the node reads as | 101 | 201 |
| write-unchanged | writing without changing what the node reads as | 102 | 202 |
| resize | changing the node's size | 103 | 203 |

No user may use what another does not share. What the users of a node demand together (the union of what they use, the
intersection of what they share) decides, by the role of each child, what the node demands of that child. Nodes that
refuse writes (`read-only`) have no user that uses write or write-unchanged. A file locks the bytes of what its users
use and do not share, as QEMU does, so the same rules hold between processes.

A node may state more than its role says: copy-on-read uses write-unchanged of its `file` child whatever its users do;
raw with an offset or a size never shares resize. Where a daemon or server only reads a file, it keeps other
processes from changing it, too, unless one does already: what stands still can be sent without copying.

";

const OPERATIONS: &str = "\
## Operations that are refused by the state of the node

Tried in this order; what is not listed is allowed as far as the permissions go. `{by}` is who brings about the
condition (the type of the job, the name of the parent).

";

/// One column per permission; `cells` says what a role has in it.
fn by_permission(title: &str, columns: &[&str], row: impl Fn(&RoleRules) -> Vec<Permissions>) -> String {
    let mut text = format!("## {title}\n\n| child |");
    columns.iter().for_each(|column| write!(text, " {column} |").expect("a string grows"));
    text += "\n|---|";
    text += &"---|".repeat(columns.len());
    for rules in &ROLES {
        write!(text, "\n| {} |", role(rules)).expect("a string grows");
        row(rules).iter().for_each(|cell| write!(text, " {} |", words(*cell)).expect("a string grows"));
    }
    text + "\n\n"
}

fn users() -> String {
    let columns = [
        "always",
        "unless the node is read-only",
        "if they use consistent-read",
        "write",
        "write-unchanged",
        "resize",
    ];
    by_permission("What a node uses of a child, by what its users use", &columns, |rules| {
        let mut row = vec![rules.uses_always, rules.uses_writable];
        row.extend(rules.uses);
        row
    })
}

fn shares() -> String {
    let columns = ["always", "if they do not share consistent-read", "write", "write-unchanged", "resize"];
    by_permission(
        "What a node does not share of a child, by what its users do not share",
        &columns,
        |rules| {
            let mut row = vec![rules.unshares_always];
            row.extend(rules.unshares);
            row
        },
    )
}

fn operations() -> String {
    let mut text = "| to | is refused while it is | in these words |\n|---|---|---|\n".to_owned();
    for Rule { operation, condition, message, .. } in RULES {
        writeln!(text, "| {} | {} | `{message}` |", operation.words(), condition.words())
            .expect("a string grows");
    }
    text
}

fn role(rules: &RoleRules) -> &'static str {
    match rules.role {
        flow::Role::File => "`file` of a format",
        flow::Role::Filtered => "`file` of a filter, or of raw",
        flow::Role::DataFile => "`data-file`",
        flow::Role::Backing => "`backing`",
    }
}

fn words(set: Permissions) -> String {
    let names = Permissions::NAMES.iter().filter(|(one, _)| set.contains(*one)).map(|(_, name)| *name);
    if set.is_empty() { "-".to_owned() } else { names.collect::<Vec<_>>().join(", ") }
}

#[test]
fn every_operation_and_condition_is_in_the_table() {
    for operation in Operation::ALL {
        assert!(RULES.iter().any(|rule| rule.operation == operation), "{operation:?}");
    }
    for condition in Condition::ALL {
        assert!(RULES.iter().any(|rule| rule.condition == condition), "{condition:?}");
    }
}
