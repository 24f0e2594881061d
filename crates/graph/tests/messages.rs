//! Who is to blame, in QEMU's words; and each cell of the table of operations.

mod bodies;

use block::{ErrorKind, Permissions};
use bodies::{Gate, Layer, World};
use flow::{Body, Role};
use graph::operations::RULES;
use graph::{Condition, Demand, Edit, Operation, Place, User};

#[test]
fn names_are_unique_and_found() {
    let mut world = World::new();
    world.disk("x");
    assert_eq!(world.refused(&[Edit::AddNode(world.new_disk("x"))]), "Duplicate nodes with node-name='x'");
    let twice = [Edit::AddNode(world.new_disk("y")), Edit::AddNode(world.new_disk("y"))];
    assert_eq!(world.refused(&twice), "Duplicate nodes with node-name='y'");
    let name = |wanted| world.graph.name(wanted).map_or_else(|e| e.to_string(), |n| n.to_string());
    assert_eq!(name(Some("x")), "Duplicate nodes with node-name='x'");
    assert_eq!(name(Some("#block000")), "Invalid node-name: '#block000'");
    assert_eq!((name(Some("y")), name(None)), ("y".to_owned(), "#block000".to_owned()));
    let error = world.graph.find("nope").expect_err("not there");
    assert_eq!(error.to_string(), "Failed to find node with node-name='nope'");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_deleted_name_can_be_given_again_at_once() {
    let mut world = World::new();
    world.disk("x");
    let edits = [Edit::DeleteNode(world.id("x")), Edit::AddNode(world.new_disk("x"))];
    drop(world.edit(&edits));
    assert_eq!(world.graph.len(), 1);
}

#[test]
fn what_is_used_is_not_deleted() {
    let mut world = World::new();
    for disk in ["a", "b"] {
        world.disk(disk);
    }
    world.layer("base", "a");
    world.overlay("mid", "b", "base");
    world.filter("top", "mid");
    let delete = |world: &World, name: &str| world.refused(&[Edit::DeleteNode(world.id(name))]);
    assert_eq!(delete(&world, "base"), "Node 'base' is busy: node is used as backing hd of 'mid'");
    assert_eq!(delete(&world, "mid"), "Block device mid is in use");
    world.export("top");
    assert_eq!(delete(&world, "top"), "Node top is in use");
}

#[test]
fn an_inline_child_goes_with_its_parent_and_not_before() {
    let mut world = World::new();
    let file = world.new_disk("").inline();
    let id = file.node.id();
    let top = world.new_node("top", Body::Maps(Layer::new())).child(Role::File, id);
    drop(world.edit(&[Edit::AddNode(file), Edit::AddNode(top)]));
    assert_eq!(world.graph.find("#block000").expect("named"), id);
    assert_eq!(world.refused(&[Edit::DeleteNode(id)]), "Node #block000 is not owned by the monitor");
    drop(world.edit(&[Edit::DeleteNode(world.id("top"))]));
    assert!(world.graph.is_empty());
}

#[test]
fn a_node_that_nobody_would_hold_is_refused() {
    let world = World::new();
    let inline = world.new_disk("x").inline();
    assert_eq!(world.refused(&[Edit::AddNode(inline)]), "node 'x' is neither named by the user nor a child");
}

#[test]
fn cycles_are_named() {
    let mut world = World::new();
    world.disk("a");
    world.layer("top", "a");
    world.filter("thr", "top");
    let file = |child| Edit::ReplaceChild { parent: world.id("top"), role: Role::File, child: Some(child) };
    assert_eq!(
        world.refused(&[file(world.id("top"))]),
        "Making 'top' a file child of 'top' would create a cycle"
    );
    assert_eq!(
        world.refused(&[file(world.id("thr"))]),
        "Making 'thr' a file child of 'top' would create a cycle"
    );
}

#[test]
fn conflicts_name_both_users() {
    let mut world = World::new();
    world.disk("src");
    world.layer("cbw", "src");
    let edit = world.attaching(world.graph.new_root(), "src", User::export("e0"), Demand::WRITE);
    assert_eq!(
        world.refused(&[edit]),
        "Permission conflict on node 'src': permissions 'write' are both required by export 'e0' (uses node 'src' as \
         'root' child) and unshared by node 'cbw' (uses node 'src' as 'file' child)."
    );
    let second = world.new_layer("t3", "src");
    let said = world.refused(&[Edit::AddNode(second)]);
    assert!(said.contains("permissions 'write, resize' are both required by node 'cbw'"), "{said}");
    let everything = Demand { uses: Permissions::ALL, shares: Permissions::NONE };
    world.disk("d");
    world.attach("d", User::named("u"), everything);
    let said = world.refused(&[world.attaching(world.graph.new_root(), "d", User::named("v"), everything)]);
    let all =
        "permissions 'consistent read, write, write unchanged, resize' are both required by block device 'u'";
    assert!(said.contains(all), "{said}");
}

#[test]
fn two_writable_exports_share_a_node_that_nobody_resizes() {
    let mut world = World::new();
    world.disk("a");
    world.attach("a", User::export("e0"), Demand::WRITE);
    world.attach("a", User::export("e1"), Demand::WRITE);
    let resize = Demand { uses: Permissions::RESIZE, shares: Permissions::ALL };
    let said = world.refused(&[world.attaching(world.graph.new_root(), "a", User::named("r"), resize)]);
    assert!(said.starts_with("Permission conflict on node 'a': permissions 'resize'"), "{said}");
}

#[test]
fn what_refuses_writes_has_no_writers() {
    let mut world = World::new();
    world.disk("a");
    drop(world.edit(&[world.read_only("a", true)]));
    assert_eq!(world.refused(&[Edit::AddNode(world.new_layer("q", "a"))]), "Block node is read-only");
    let resize = world.attaching(world.graph.new_root(), "a", User::named("r"), Demand::RESIZE);
    assert_eq!(world.refused(&[resize]), "Image is read-only");
    let export = world.attaching(world.graph.new_root(), "a", User::export("e"), Demand::WRITE);
    assert_eq!(world.refused(&[export]), "Cannot export read-only node as writable");
    drop(world.edit(&[world.read_only("a", false)]));
    world.attach("a", User::export("e"), Demand::WRITE);
    assert_eq!(
        world.refused(&[world.read_only("a", true)]),
        "Read-only block node 'a' cannot support read-write users"
    );
}

#[test]
fn links_of_a_node_in_a_job_are_frozen() {
    let mut world = World::new();
    for disk in ["a", "b"] {
        world.disk(disk);
    }
    world.layer("base", "a");
    world.overlay("top", "b", "base");
    world.attach("top", User::job("stream", "s", "active node"), Demand::NOTHING);
    let cut = Edit::ReplaceChild { parent: world.id("top"), role: Role::Backing, child: None };
    assert_eq!(world.refused(&[cut]), "Cannot change frozen 'backing' link from 'top' to 'base'");
    let filter = world.new_filter("f", &Gate::open(), "base");
    let at = Place::Edge { parent: world.id("top"), role: Role::Backing };
    let insert = Edit::InsertFilter { filter: filter.node.id(), at };
    assert_eq!(
        world.refused(&[Edit::AddNode(filter), insert]),
        "Cannot change frozen 'backing' link from 'top' to 'base'"
    );
}

#[test]
fn children_that_a_node_needs_are_not_cut() {
    let mut world = World::new();
    world.disk("a");
    world.layer("top", "a");
    let cut = |role| Edit::ReplaceChild { parent: world.id("top"), role, child: None };
    assert_eq!(world.refused(&[cut(Role::File)]), "node 'top' cannot be without its 'file' child");
    drop(world.graph.check(&[cut(Role::Backing)]).expect("there is none to cut"));
}

/// A node `n`, brought into one condition.
fn in_condition(condition: Condition) -> World {
    let mut world = World::new();
    world.disk("a");
    world.disk("b");
    let mut node = world.new_filter("n", &Gate::open(), "a");
    node.owned = condition != Condition::NotOwned;
    let id = node.node.id();
    let mut edits = vec![Edit::AddNode(node)];
    let mut above = |role| edits.push(Edit::AddNode(world.new_layer("p", "b").child(role, id)));
    match condition {
        Condition::UsedAsBacking => above(Role::Backing),
        // A child that is not owned has a parent, which then is another reason.
        Condition::HasParents | Condition::NotOwned => above(Role::DataFile),
        _ => {}
    }
    drop(world.edit(&edits));
    match condition {
        Condition::UsedByExport => drop(world.export("n")),
        Condition::UsedByJob => {
            world.attach("n", User::job("stream", "s", "main node").movable(), Demand::NOTHING);
        }
        Condition::PinnedByJob => {
            world.attach("n", User::job("stream", "s", "main node"), Demand::NOTHING);
        }
        Condition::ReadOnly => drop(world.edit(&[world.read_only("n", true)])),
        _ => {}
    }
    world
}

#[test]
fn each_cell_of_the_table_of_operations() {
    for operation in Operation::ALL {
        for condition in Condition::ALL {
            let world = in_condition(condition);
            let said =
                world.graph.permitted(operation, world.id("n")).err().map(|e| (e.kind(), e.to_string()));
            // A node that is a child is refused as such whatever else it is; one that is pinned is used.
            let implied = match condition {
                Condition::UsedAsBacking | Condition::NotOwned => &[condition, Condition::HasParents][..],
                Condition::PinnedByJob => &[condition, Condition::UsedByJob][..],
                _ => &[condition][..],
            };
            let rule = RULES.iter().find(|r| r.operation == operation && implied.contains(&r.condition));
            let expected = rule.map(|rule| {
                let by = if matches!(condition, Condition::UsedByJob | Condition::PinnedByJob) {
                    "stream"
                } else {
                    "p"
                };
                (rule.kind, rule.message.replace("{node}", "n").replace("{by}", by))
            });
            if operation == Operation::ChangeLink {
                assert_eq!(said.is_some(), expected.is_some(), "{operation:?} {condition:?}");
            } else {
                assert_eq!(said, expected, "{operation:?} {condition:?}");
            }
        }
    }
}

#[test]
fn refusals_of_operations_are_those_of_qemu() {
    let said = |operation, condition| {
        let world = in_condition(condition);
        world.graph.permitted(operation, world.id("n")).err().map_or(String::new(), |e| e.to_string())
    };
    let job = "Node 'n' is busy: block device is in use by block job: stream";
    let backing = "Node 'n' is busy: node is used as backing hd of 'p'";
    assert_eq!(said(Operation::Resize, Condition::UsedByJob), job);
    assert_eq!(said(Operation::StartJob, Condition::UsedByJob), job);
    assert_eq!(said(Operation::Delete, Condition::UsedByJob), job);
    assert_eq!(said(Operation::Resize, Condition::UsedAsBacking), backing);
    assert_eq!(said(Operation::Resize, Condition::ReadOnly), "Image is read-only");
    assert_eq!(said(Operation::StartJob, Condition::ReadOnly), "");
}

#[test]
fn a_root_is_attached_once() {
    let mut world = World::new();
    world.disk("a");
    let root = world.export("a");
    let again = world.attaching(root, "a", User::export("e1"), Demand::READ);
    assert!(world.refused(std::slice::from_ref(&again)).contains("export 'e1' is attached already"));
    assert!(world.refused(&[Edit::DetachRoot(root), again]).contains("export 'e1' is attached already"));
}

#[test]
fn a_node_has_children_of_its_kind() {
    let mut world = World::new();
    world.disk("a");
    world.disk("b");
    world.filter("f", "a");
    let give = |parent: &str, role| Edit::ReplaceChild {
        parent: world.id(parent),
        role,
        child: Some(world.id("b")),
    };
    assert_eq!(world.refused(&[give("a", Role::Backing)]), "node test 'a' cannot have a 'backing' child");
    assert_eq!(world.refused(&[give("f", Role::File)]), "node test 'f' cannot have a 'file' child");
    assert_eq!(
        world.refused(&[world.reopen("f", Body::Maps(Layer::new()))]),
        "node test 'f' cannot be reopened as another kind of node"
    );
}

#[test]
fn more_filters_than_a_request_can_remember_are_refused() {
    let mut world = World::new();
    world.disk("a");
    let root = world.export("a");
    for number in 0..64 {
        let filter = world.new_filter(&format!("f{number}"), &Gate::open(), &world.seen(root)[0]);
        let insert = Edit::InsertFilter { filter: filter.node.id(), at: Place::Root(root) };
        drop(world.edit(&[Edit::AddNode(filter), insert]));
    }
    let filter = world.new_filter("f64", &Gate::open(), "f63");
    let insert = Edit::InsertFilter { filter: filter.node.id(), at: Place::Root(root) };
    assert!(
        world.refused(&[Edit::AddNode(filter), insert]).starts_with("more than 64 filters below one root")
    );
}
