//! Verbs of the cache: fill it in the background, and cut it off its source when it is full.

use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use flow::Role;
use flow::copy::{self, Policy, Progress};
use graph::{Demand, Edit, RootId, User};
use io::select::{Either, race};
use io::sync::oneshot;
use job::cut;

use crate::engine::Engine;
use flow::events::Event;

/// A running fill. Dropping it does not stop it.
pub struct Fill {
    id: String,
    engine: Arc<Engine>,
    root: RootId,
    progress: Arc<Progress>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<()>>,
}

impl Engine {
    /// Begins to fill the cache below the copy-on-read node `node`, on an I/O thread of the engine.
    pub fn start_fill(self: &Arc<Self>, id: &str, node: &str, policy: Policy) -> Result<Fill> {
        let (root, entry) = self.attach(node, User::named(id), Demand::READ)?;
        let progress = Arc::new(Progress::default());
        let (end, ended) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let shown = progress.clone();
        // The last one: clients are handed out from the first on.
        let thread = self.threads.last().or(self.threads.first());
        let thread =
            thread.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "the engine has no I/O thread"))?;
        thread.run(Box::new(move || {
            Box::pin(async move {
                let stopped = async {
                    // Dropped unused: nobody will ever stop it.
                    if stopped.await.is_err() {
                        std::future::pending().await
                    }
                };
                // Nobody may be waiting any more; who stopped it hears that the sender is gone.
                if let Either::First(filled) = race(copy::fill(&entry, &policy, &shown), stopped).await {
                    let _ = end.send(filled);
                }
            })
        }));
        Ok(Fill { id: id.to_owned(), engine: self.clone(), root, progress, stop, ended })
    }

    /// Cuts the cache below the copy-on-read node `node` off its source, and takes the node out: from then on its
    /// users read the cache itself. Refused while the cache lacks a byte of data. Ready when no request uses the
    /// source, and an image that names it does so no more, durably.
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
        cut::whole(&view, None).await?;
        drop(view);
        // First: a crash in between leaves a cache that lacks nothing, whatever it is opened over.
        let image = self.graph().view(cache)?;
        cut::rename(&image, None).await?;
        drop(image);
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

    /// Stops it; what has been fetched stays. Ready when none of its requests is under way. Answers as [`Fill::ended`]
    /// does: it may have ended by itself.
    pub async fn stop(self) -> Result<()> {
        self.until(std::future::ready(())).await
    }

    /// Waits until it has ended.
    pub async fn ended(self) -> Result<()> {
        self.until(std::future::pending()).await
    }

    /// Waits until it has ended, or until `stop` is ready: then it is stopped.
    pub async fn until(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Self { id, engine, root, stop: tell, mut ended, .. } = self;
        let ended = match race(&mut ended, stop).await {
            Either::First(outcome) => outcome.ok(),
            Either::Second(()) => {
                // It may have ended.
                let _ = tell.send(());
                ended.await.ok()
            }
        };
        let stopped = || BlockError::new(ErrorKind::Cancelled, format!("fill '{id}' was stopped"));
        let outcome = ended.unwrap_or_else(|| Err(stopped()));
        engine.detach(root).await?;
        let error = outcome.as_ref().err().map(ToString::to_string);
        engine.events.tell(Event::FillEnded { id, error });
        outcome
    }
}
