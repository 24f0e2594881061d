//! Node names, typed edges, the permission table, and edits as all-or-nothing data.
//!
//! The [`Graph`] owns the nodes. Whoever wants a change states it as a list of [`Edit`]s, which are checked whole
//! ([`Graph::check`]) and made whole ([`Graph::apply`]): locks of files first, then the new views of the roots
//! that see a difference. Requests that began before go on in the old views; a [`Drained`] tells when they have
//! ended. Who may do what is in two tables: [`permissions`] (roles of children) and [`operations`] (classes of
//! operations).
//!
//! Invariants:
//! * The graph has no cycle; names are unique; a node that nobody refers to does not exist.
//! * No user does what another does not share, at any node; a node that refuses writes has no writers.
//! * Edits are all or nothing, touch only what they concern, and never wait.
//! * The view of each root is what compiling it afresh would give.

mod closed;
mod draft;
mod drained;
mod edit;
mod finish;
mod graph;
mod names;
pub mod operations;
mod overlay;
pub mod permissions;
mod permits;
mod plan;
mod query;
mod steps;
mod tables;
mod tally;
mod user;

pub use drained::Drained;
pub use edit::{Child, Edit, NewNode, Place, Reopen};
pub use graph::Graph;
pub use names::NodeName;
pub use operations::{Condition, Operation};
pub use permissions::{Demand, EdgeDemand};
pub use plan::{Effort, Plan};
pub use query::{EdgeInfo, NodeInfo, UserInfo};
pub use tables::{Edge, Parent};
pub use user::{RootId, User, UserKind};

/// The control plane may live on any thread, and so may who waits for it.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Graph>();
    is_send::<Plan>();
    is_send::<Drained>();
};
