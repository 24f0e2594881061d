//! Verbs of the cache: fill it in the background, and cut it off its source when it is full.

use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use flow::copy::{self, Policy, Progress};
use flow::{Request, Role, seam};
use graph::{Demand, Edit, RootId, User};
use io::Lease;
use io::sync::oneshot;

use crate::engine::Engine;
use crate::events::Event;

/// A running fill. Dropping it does not stop it.
pub struct Fill {
    id: String,
    engine: Arc<Engine>,
    root: RootId,
    progress: Arc<Progress>,
    ended: oneshot::Receiver<Result<()>>,
}

impl Engine {
    /// Begins to fill the cache below the copy-on-read node `node`, on an I/O thread of the engine.
    pub fn start_fill(self: &Arc<Self>, id: &str, node: &str, policy: Policy) -> Result<Fill> {
        let (root, entry) = self.attach(node, User::named(id), Demand::READ)?;
        let progress = Arc::new(Progress::default());
        let (end, ended) = oneshot::channel();
        let shown = progress.clone();
        // The last one: clients are handed out from the first on.
        let thread = self.threads.last().or(self.threads.first());
        let thread =
            thread.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "the engine has no I/O thread"))?;
        thread.run(Box::new(move || {
            Box::pin(async move {
                let filled = copy::fill(&entry, &policy, &shown).await;
                // Nobody may be waiting any more.
                let _ = end.send(filled);
            })
        }));
        Ok(Fill { id: id.to_owned(), engine: self.clone(), root, progress, ended })
    }

    /// Cuts the cache below the copy-on-read node `node` off its source, and takes the node out: from then on its
    /// users read the cache itself. Everything must have been filled. Ready when no request uses the source.
    pub async fn cut(&self, node: &str) -> Result<()> {
        let (view, filter, cache) = {
            let graph = self.graph();
            let filter = graph.find(node)?;
            let below = graph.node(filter)?.children.first().map(|edge| edge.child);
            let cache = below
                .ok_or_else(|| BlockError::new(ErrorKind::Invalid, format!("node '{node}' is no filter")))?;
            (graph.view(filter)?, filter, cache)
        };
        // What was fetched is stored and durable before the source is given up.
        seam::execute(&view, Request::flush(), Lease::empty()).await.0?;
        drop(view);
        let drained = self.graph().edit(&[
            Edit::RemoveFilter(filter),
            Edit::ReplaceChild { parent: cache, role: Role::Backing, child: None },
            Edit::DeleteNode(filter),
        ])?;
        drained.await;
        Ok(())
    }
}

impl Fill {
    /// How far it is.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Waits until it has ended.
    pub async fn ended(self) -> Result<()> {
        let lost = || BlockError::new(ErrorKind::Cancelled, format!("fill '{}' was stopped", self.id));
        let outcome = self.ended.await.unwrap_or_else(|_| Err(lost()));
        self.engine.detach(self.root).await?;
        let error = outcome.as_ref().err().map(ToString::to_string);
        self.engine.events.tell(Event::JobEnded { id: self.id.clone(), error });
        outcome
    }
}
