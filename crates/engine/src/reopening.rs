//! Making an image writable for a while, and read-only again: with the options that it was opened with.

use block::{BlockError, ErrorKind, Result};
use driver::{Driver, Kind};
use flow::{NodeId, Role, seam};
use graph::Graph;

use crate::engine::Engine;
use crate::opening::{Inherited, Opening};
use crate::options::{ChildOptions, NodeOptions};

impl Engine {
    /// Makes an image take or refuse writes, wherever it lies in a chain, with the files below it that nobody asked for
    /// by themselves. Ready when no request uses it as it was; what is refused leaves it so.
    pub async fn make_read_only(&self, node: &str, read_only: bool) -> Result<()> {
        let image = self.graph().find(node)?;
        self.reopen_image(image, read_only).await
    }

    /// The same, by its id.
    pub(crate) async fn reopen_image(&self, image: NodeId, read_only: bool) -> Result<()> {
        let mut nodes = storage(&self.graph(), image, read_only)?;
        // A file is writable for as long as its format is.
        if !read_only {
            nodes.reverse();
        }
        for node in nodes {
            let (options, kept) = {
                let graph = self.graph();
                (self.options_of(&graph, node, read_only)?, graph.node(node)?.node.keep())
            };
            if read_only {
                let view = self.graph().view(node)?;
                seam::rest(&view).await?;
            }
            let mut opening = Opening::again(self, kept);
            let fresh = opening.open(options, Inherited::default(), false).await?;
            self.swap_body(opening, node, fresh)?.await;
        }
        Ok(())
    }

    /// The options that open a node as it is, over the children that it has.
    fn options_of(&self, graph: &Graph, node: NodeId, read_only: bool) -> Result<NodeOptions> {
        let (info, known) = (graph.node(node)?, self.known(node));
        let driver = driver(info.node.driver())?;
        let mut children = Vec::new();
        for edge in info.children {
            let name = graph.node(edge.child)?.node.name().to_string();
            children.push((edge.role, ChildOptions::Existing(name)));
        }
        let has_backing = children.iter().any(|(role, _)| *role == Role::Backing);
        if driver.kind == Kind::Format && driver.children.contains(&Role::Backing) && !has_backing {
            children.push((Role::Backing, ChildOptions::Nothing));
        }
        Ok(NodeOptions {
            driver,
            node_name: None,
            read_only: Some(read_only),
            auto_read_only: false,
            direct: Some(known.direct),
            transient: Some(known.transient),
            no_flush: Some(known.no_flush),
            unmap: Some(known.unmap),
            // What is to be written shares nothing by force.
            force_share: None,
            detect_zeroes: info.detect_zeroes,
            children,
            own: known.own.as_ref().clone(),
        })
    }
}

/// The image, and what below it has to become as it does: from the top.
fn storage(graph: &Graph, image: NodeId, read_only: bool) -> Result<Vec<NodeId>> {
    let (mut found, mut ahead) = (Vec::new(), vec![image]);
    while let Some(node) = ahead.pop() {
        let info = graph.node(node)?;
        // What the user opened by itself is what the user says it is.
        if info.read_only == read_only || (node != image && info.owned) {
            continue;
        }
        found.push(node);
        ahead.extend(info.children.iter().filter(|edge| edge.role != Role::Backing).map(|edge| edge.child));
    }
    Ok(found)
}

fn driver(name: &str) -> Result<&'static Driver> {
    driver::find(name).ok_or_else(|| BlockError::new(ErrorKind::Invalid, format!("Unknown driver '{name}'")))
}
