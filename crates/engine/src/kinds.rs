//! What a node is to those around it: a filter shows what lies below it, all others something of their own.

use block::{BlockError, ErrorKind, Result};
use driver::{Driver, Kind};
use flow::{NodeId, Role};
use graph::Graph;

/// The first node from `node` down that is no filter.
pub(crate) fn unfiltered(graph: &Graph, mut node: NodeId) -> Result<NodeId> {
    loop {
        let below = graph.node(node)?.children.iter().find(|edge| edge.role == Role::Filtered);
        match below {
            Some(edge) if kind_of(graph, node)? == Kind::Filter => node = edge.child,
            _ => return Ok(node),
        }
    }
}

/// What kind of node it is.
pub(crate) fn kind_of(graph: &Graph, node: NodeId) -> Result<Kind> {
    driver_of(graph, node).map(|driver| driver.kind)
}

/// Its driver.
pub(crate) fn driver_of(graph: &Graph, node: NodeId) -> Result<&'static Driver> {
    let name = graph.node(node)?.node.driver();
    driver::find(name).ok_or_else(|| BlockError::new(ErrorKind::Invalid, format!("Unknown driver '{name}'")))
}
