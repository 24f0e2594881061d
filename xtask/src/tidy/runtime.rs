//! Only `io` names the runtime; every other room spawns, waits and sleeps through `io`'s traits, which is what
//! lets the simulation run the same code.

use super::source::{line_of, words};
use super::{Finding, tree::Tree};

const RUNTIMES: &[&str] = &["tokio", "async_std", "smol", "monoio", "io_uring"];
const HOME: &str = "crates/io/";

/// No runtime is named outside [`HOME`].
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust().filter(|file| !file.path.starts_with(HOME)) {
        for runtime in RUNTIMES {
            for at in words(&file.views.code, runtime) {
                let message =
                    format!("`{runtime}` outside crate `io`: use io's traits, or add what is missing there");
                findings.push(Finding::new(&file.path, line_of(&file.text, at), message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_outside_io_fails() {
        let text = "//! Says tokio.\nuse tokio::net::TcpStream;\n";
        let tree = Tree::sample(&[("crates/export/src/lib.rs", text), ("crates/io/src/net.rs", text)]);
        let found = check(&tree);
        assert_eq!((found.len(), found[0].line), (1, 2));
    }
}
