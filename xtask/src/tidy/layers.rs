//! Which crate may use which: rooms only below their own, and of those only the ones on the room's list.
//!
//! Invariants: [`LAYERS`] is design section "The rooms" from the top down, peers share a layer and never use
//! each other; what is not listed is forbidden, crates from outside included; `sim` is for tests alone.

use super::{Finding, tree::Tree};
use serde_json::Value;

/// From the top down; rooms of one layer are peers.
const LAYERS: &[&[&str]] = &[
    &["millpond"],
    &["control", "pond", "img"],
    &["engine"],
    &["job", "export", "driver"],
    &["graph"],
    &["flow"],
    &["object"],
    &["qcow2", "nbd", "qmp", "sim"],
    &["io"],
    &["block", "json"],
];

/// What a crate may use outside its tests.
struct Allowed {
    name: &'static str,
    rooms: &'static [&'static str],
    crates: &'static [&'static str],
}

/// One row per crate of the workspace.
const ALLOWED: &[Allowed] = &[
    Allowed {
        name: "millpond",
        rooms: &[
            "control", "qmp", "pond", "img", "engine", "export", "driver", "graph", "flow", "object", "nbd",
            "io", "block", "json",
        ],
        crates: &["clap", "fatfs", "serde_json"],
    },
    Allowed {
        name: "pond",
        rooms: &["engine", "export", "flow", "graph", "nbd", "qcow2", "io", "block"],
        crates: &["serde", "serde_json"],
    },
    Allowed {
        name: "img",
        rooms: &["engine", "driver", "flow", "graph", "qcow2", "io", "block", "json"],
        crates: &["futures-util", "serde_json", "zstd"],
    },
    Allowed {
        name: "control",
        rooms: &["engine", "export", "qmp", "io", "block", "json"],
        crates: &["serde_json"],
    },
    Allowed {
        name: "engine",
        rooms: &["export", "driver", "job", "graph", "flow", "object", "io", "block", "json"],
        crates: &["serde", "serde_json"],
    },
    Allowed { name: "job", rooms: &["graph", "flow", "io", "block"], crates: &[] },
    Allowed { name: "export", rooms: &["flow", "object", "nbd", "io", "block"], crates: &["futures-util"] },
    Allowed {
        name: "driver",
        rooms: &["flow", "object", "nbd", "qcow2", "io", "block"],
        crates: &["arc-swap", "futures-util", "serde", "serde_json"],
    },
    Allowed { name: "graph", rooms: &["flow", "io", "block"], crates: &[] },
    Allowed { name: "flow", rooms: &["object", "io", "block"], crates: &["arc-swap", "futures-util"] },
    Allowed { name: "object", rooms: &["io", "block"], crates: &["serde"] },
    Allowed { name: "qcow2", rooms: &["block", "json"], crates: &["libdeflater", "serde_json", "zstd"] },
    Allowed { name: "nbd", rooms: &["block"], crates: &[] },
    Allowed { name: "qmp", rooms: &["json"], crates: &["serde_json"] },
    Allowed { name: "sim", rooms: &["io", "block"], crates: &["bytes", "futures-util"] },
    Allowed {
        name: "io",
        rooms: &["block"],
        crates: &["bytes", "futures-util", "io-uring", "libc", "rustix", "tokio"],
    },
    Allowed { name: "block", rooms: &[], crates: &[] },
    Allowed { name: "json", rooms: &[], crates: &["serde_json"] },
    Allowed { name: "xtask", rooms: &[], crates: &["clap", "serde_json"] },
];

/// Crates from outside that any room's tests may use.
const TEST_CRATES: &[&str] = &["futures-util", "proptest", "serde_json", "tempfile"];

/// The room that only tests may use.
const TEST_ROOM: &str = "sim";

/// Peers that tests alone may use: the user's tests run against the used one (a client against our own server).
const TEST_PEERS: &[(&str, &str)] = &[("driver", "export")];

/// Every dependency of every crate is on its list.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let root = tree.metadata["workspace_root"].as_str().unwrap_or_default();
    let packages = tree.metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    packages.iter().flat_map(|package| check_package(tree, root, package)).collect()
}

fn check_package(tree: &Tree, root: &str, package: &Value) -> Vec<Finding> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&package["name"]);
    let manifest = text(&package["manifest_path"]);
    let manifest = manifest.strip_prefix(root).unwrap_or(&manifest).trim_start_matches('/');
    let Some(allowed) = ALLOWED.iter().find(|row| row.name == name) else {
        let message = format!("crate `{name}` has no row: give it one in xtask/src/tidy/layers.rs");
        return vec![Finding::new(manifest, 1, message)];
    };
    let dependencies = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
    let complaints = dependencies.iter().filter_map(|dependency| {
        let used = text(&dependency["name"]);
        let complaint =
            complaint(allowed, &used, dependency["path"].is_string(), dependency["kind"] == "dev")?;
        Some(Finding::new(manifest, line_naming(tree, manifest, &used), complaint))
    });
    complaints.collect()
}

/// What is wrong with `allowed.name` using `used`, if anything.
fn complaint(allowed: &Allowed, used: &str, is_room: bool, in_tests: bool) -> Option<String> {
    let user = allowed.name;
    if !is_room {
        let listed = allowed.crates.contains(&used) || (in_tests && TEST_CRATES.contains(&used));
        return (!listed).then(|| {
            format!("`{user}` may not use crate `{used}`: do without, or list it for `{user}` in xtask/src/tidy/layers.rs with the reason in the commit")
        });
    }
    if in_tests && TEST_PEERS.contains(&(user, used)) {
        return None;
    }
    let below = layer(used) > layer(user);
    let listed = allowed.rooms.contains(&used) && used != TEST_ROOM;
    if below && (listed || in_tests) {
        return None;
    }
    let reason = match used {
        TEST_ROOM if below => "it is for tests: make it a dev-dependency",
        _ if !below => {
            "only rooms below may be used: move what is shared to a lower room, or pass it in from above"
        }
        _ => "it is not on the list of this room: see xtask/src/tidy/layers.rs",
    };
    Some(format!("`{user}` may not use room `{used}`: {reason}"))
}

/// Index of the layer of a room; crates that are no rooms stand above all.
fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&name))
}

fn line_naming(tree: &Tree, manifest: &str, dependency: &str) -> usize {
    let text = tree.file(manifest).map_or("", |file| &file.text);
    let names =
        |line: &str| line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with(['.', ' ', '=']));
    text.lines().position(names).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn findings(user: &str, dependency: Value) -> Vec<Finding> {
        let manifest = format!("crates/{user}/Cargo.toml");
        let text = "[dependencies]\nblock.workspace = true\nsim.workspace = true\n";
        let mut tree = Tree::sample(&[(&manifest, text)]);
        let package =
            json!({"name": user, "manifest_path": format!("/r/{manifest}"), "dependencies": [dependency]});
        tree.metadata = json!({"workspace_root": "/r", "packages": [package]});
        check(&tree)
    }

    fn room(name: &str, kind: Option<&str>) -> Value {
        json!({"name": name, "kind": kind, "path": format!("/r/crates/{name}")})
    }

    #[test]
    fn the_table_points_down() {
        for row in ALLOWED {
            assert!(!row.rooms.contains(&TEST_ROOM), "{} lists {TEST_ROOM}", row.name);
            for used in row.rooms {
                assert!(layer(used) > layer(row.name), "{} lists {used}", row.name);
            }
        }
    }

    #[test]
    fn peers_and_rooms_above_fail() {
        assert_eq!(findings("export", room("driver", None)).len(), 1);
        assert_eq!(findings("driver", room("graph", None)).len(), 1);
        assert_eq!(findings("export", room("driver", Some("dev"))).len(), 1);
        assert_eq!(findings("driver", room("export", None)).len(), 1);
        assert_eq!(findings("driver", room("export", Some("dev"))), []);
        assert_eq!(findings("nbd", room("io", None)).len(), 1);
        assert_eq!(findings("nbd", room("block", None)), []);
    }

    #[test]
    fn sim_is_for_tests() {
        assert_eq!(findings("flow", room("sim", Some("dev"))), []);
        let found = findings("flow", room("sim", None));
        assert!(found[0].message.contains("dev-dependency"));
        assert_eq!(found[0].line, 3);
    }

    #[test]
    fn crates_from_outside_are_listed() {
        let runtime = json!({"name": "tokio", "kind": null});
        assert_eq!(findings("flow", runtime.clone()).len(), 1);
        assert_eq!(findings("io", runtime), []);
        assert_eq!(findings("block", json!({"name": "proptest", "kind": "dev"})), []);
        assert_eq!(findings("block", json!({"name": "proptest", "kind": null})).len(), 1);
        assert_eq!(findings("stranger", json!({"name": "serde", "kind": null})).len(), 1);
    }
}
