//! `stream`: what layers between an image and what stays below it hold is copied into the image, while it is in use;
//! in the end the image stands on what stays, in the graph and by the name in its header.
//!
//! While it runs a copy-on-read filter stands above the image, so that what guests read meanwhile is copied along, and
//! each byte is fetched once. The layers are read through their links as they are: nobody may change those, nor write
//! to the layers between.
//!
//! | user | of | uses | shares |
//! |---|---|---|---|
//! | its requests | the filter | consistent-read | all but resize |
//! | main node | the filter | - | all |
//! | active node | what is streamed into | - | all but resize |
//! | intermediate node | each layer between | - | consistent-read, write-unchanged |
//!
//! Invariants: the image's header names the layers until all of them is in the image, durably; stopped at any moment,
//! the image is whole, keeps what was copied, and can be streamed into again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{BlockError, ErrorKind, Permissions, Result};
use flow::copy::{self, Policy};
use flow::{BackingName, NodeId, Request, Role, Root, seam};
use graph::{Demand, Drained, Edit, Graph, Place, RootId, User};
use io::{Lease, LocalFut};

use crate::course::Work;
use crate::cut;
use crate::house::House;
use crate::job::Job;
use crate::task::Task;

/// Its type.
pub const KIND: &str = "stream";

/// What is streamed into what.
pub struct Plan {
    /// From the node that is streamed into down to the lowest layer that is copied from, filters between them included.
    pub chain: Vec<NodeId>,
    /// The first of them that is no filter.
    pub image: NodeId,
    /// The last of them, if something stays below it.
    pub bottom: Option<NodeId>,
    /// A copy-on-read filter over the first of them.
    pub filter: NodeId,
    /// What adds the filter to the graph.
    pub add_filter: Vec<Edit>,
    /// Name of what stays below, instead of its own.
    pub name: Option<String>,
    /// A protocol below is called `raw` in the image.
    pub mask_protocol: bool,
    /// The image refused writes, and shall do so again.
    pub reopened: bool,
}

/// The work of a stream job.
pub struct Stream {
    house: Arc<dyn House>,
    plan: Plan,
    entry: Arc<Root>,
    /// Its users, as long as they are there.
    users: Vec<RootId>,
    /// Requests that went past the filter.
    before: Option<Drained>,
}

impl Stream {
    /// Puts the filter in, and takes hold of the layers.
    pub fn begin(house: Arc<dyn House>, job: &Job, plan: Plan) -> Result<Self> {
        let (entry, users, before) = {
            let mut graph = house.graph();
            let mut edits = plan.add_filter.clone();
            edits.push(Edit::InsertFilter { filter: plan.filter, at: Place::Above });
            let users = attach(&graph, &plan, job.id(), &mut edits);
            let before = graph.edit(&edits)?;
            (graph.root(users[0])?, users, before)
        };
        let stream = Self { house, plan, entry, users, before: Some(before) };
        if stream.has_work().is_ok_and(|work| work) {
            // Whoever asks before the work has begun is told how much there is.
            job.progress.total.store(stream.entry.view().size(), Ordering::Relaxed);
        }
        Ok(stream)
    }

    /// Whether there is anything to copy: right above what stays there is not.
    fn has_work(&self) -> Result<bool> {
        Ok(self.has_backing()? && self.plan.bottom != Some(self.plan.image))
    }

    async fn copy(&mut self, task: &Task) -> Result<()> {
        if let Some(before) = self.before.take() {
            before.await;
        }
        if !self.has_work()? {
            return Ok(());
        }
        let policy = Policy { bottom: self.plan.bottom, ..Policy::default() };
        copy::populate(&self.entry, &policy, task.progress(), task).await
    }

    async fn cut(&mut self) -> Result<()> {
        if !self.has_backing()? {
            return Ok(());
        }
        let view = self.entry.view();
        cut::whole(&view, self.plan.bottom).await?;
        drop(view);
        let stays = self.stays()?;
        let name = stays.map(|node| self.name_of(node)).transpose()?;
        self.check()?;
        // First: a crash in between leaves an image that lacks nothing, over either.
        let image = self.house.graph().view(self.plan.image)?;
        cut::rename(&image, name).await?;
        drop(image);
        let drained = {
            let mut graph = self.house.graph();
            let edits = self.cutting(&graph)?;
            graph.edit(&edits)?
        };
        self.users.clear();
        drained.await;
        Ok(())
    }

    /// Whether the edit would be made: before anything is written.
    fn check(&self) -> Result<()> {
        let graph = self.house.graph();
        graph.check(&self.cutting(&graph)?).map(drop)
    }

    fn cutting(&self, graph: &Graph) -> Result<Vec<Edit>> {
        let mut edits = self.leaving();
        let child = stays(graph, self.plan.bottom)?;
        edits.push(Edit::ReplaceChild { parent: self.plan.image, role: Role::Backing, child });
        Ok(edits)
    }

    /// Lets go of the layers, and takes the filter out: nobody else refers to it, so it is gone then.
    fn leaving(&self) -> Vec<Edit> {
        let detach = self.users.iter().map(|root| Edit::DetachRoot(*root));
        detach.chain([Edit::RemoveFilter(self.plan.filter)]).collect()
    }

    fn stays(&self) -> Result<Option<NodeId>> {
        stays(&self.house.graph(), self.plan.bottom)
    }

    fn has_backing(&self) -> Result<bool> {
        let graph = self.house.graph();
        Ok(graph.node(self.plan.image)?.children.iter().any(|edge| edge.role == Role::Backing))
    }

    /// What the image shall call what stays below it.
    fn name_of(&self, node: NodeId) -> Result<BackingName> {
        let own = self.house.backing_name(node, self.plan.mask_protocol);
        match &self.plan.name {
            Some(name) => Ok(BackingName { name: name.clone(), format: own?.format }),
            None => own,
        }
    }
}

/// What lies below the lowest layer that is copied from, now.
fn stays(graph: &Graph, bottom: Option<NodeId>) -> Result<Option<NodeId>> {
    let Some(bottom) = bottom else { return Ok(None) };
    let below = graph.node(bottom)?.children.iter().find(|edge| edge.role == Role::Backing);
    Ok(below.map(|edge| edge.child))
}

/// Edits that attach its users; the first one is the one that its requests go through.
fn attach(graph: &Graph, plan: &Plan, id: &str, edits: &mut Vec<Edit>) -> Vec<RootId> {
    let watch = |shares| Demand { uses: Permissions::NONE, shares };
    let layers = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED;
    let mut users = vec![
        (plan.filter, User::named(&format!("{KIND} job '{id}'")), Demand::READ),
        (plan.filter, User::job(KIND, id, "main node"), Demand::NOTHING),
    ];
    for (at, node) in plan.chain.iter().enumerate() {
        let last = at + 1 == plan.chain.len();
        let user = match at {
            0 => (User::job(KIND, id, "active node"), watch(Demand::READ.shares)),
            // What is below the last one is not ours.
            _ if last => (User::job(KIND, id, "intermediate node").movable(), watch(layers)),
            _ => (User::job(KIND, id, "intermediate node"), watch(layers)),
        };
        users.push((*node, user.0, user.1));
    }
    let attach = |(node, user, demand)| {
        let root = graph.new_root();
        edits.push(Edit::AttachRoot { root, node, user, demand });
        root
    };
    users.into_iter().map(attach).collect()
}

impl Work for Stream {
    fn work<'a>(&'a mut self, task: &'a Task) -> LocalFut<'a, Result<()>> {
        Box::pin(self.copy(task))
    }

    fn finish(&mut self) -> LocalFut<'_, Result<()>> {
        Box::pin(self.cut())
    }

    fn leave(&mut self) -> LocalFut<'_, ()> {
        Box::pin(async move {
            if !self.users.is_empty() {
                // Best effort: whoever has failed already can do nothing about it.
                let view = self.entry.view();
                let _ = seam::execute(&view, Request::flush(), Lease::empty()).await;
                drop(view);
                let drained = self.house.graph().edit(&self.leaving());
                if let Ok(drained) = drained {
                    drained.await;
                }
            }
            if self.plan.reopened {
                // It stays writable then, which only its own users are concerned with.
                let _ = self.house.set_read_only(self.plan.image, true).await;
            }
        })
    }
}

/// Refuses a name where nothing stays to be called by it.
pub fn check_name(name: Option<&str>, stays: bool) -> Result<()> {
    if name.is_some() && !stays {
        let context = "backing file specified, but streaming the entire chain";
        return Err(BlockError::new(ErrorKind::Invalid, context));
    }
    Ok(())
}
