//! Verbs on jobs: what there is, starting the work of one, ending all.

use std::path::Path;
use std::sync::{Arc, MutexGuard};

use block::{BlockError, ErrorKind, Result};
use driver::Kind;
use flow::{BackingName, NodeId, Role};
use graph::Graph;
use io::LocalFut;
use job::{House, Job, Jobs, Work};

use crate::engine::Engine;
use crate::full_name::{Names, real};
use crate::kinds::{kind_of, unfiltered};

impl Engine {
    /// The jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Has the work of a job done, on an I/O thread of the engine.
    pub(crate) fn employ(&self, job: Arc<Job>, work: impl Work + Send + 'static) -> Result<()> {
        // The last one: clients are handed out from the first on.
        let thread = self.threads.last();
        let thread =
            thread.ok_or_else(|| BlockError::new(ErrorKind::Invalid, "the engine has no I/O thread"))?;
        thread.run(Box::new(move || Box::pin(job::run(job, work))));
        Ok(())
    }
}

impl House for Engine {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        Engine::graph(self)
    }

    fn backing_name(&self, node: NodeId, mask_protocol: bool) -> Result<BackingName> {
        let graph = Engine::graph(self);
        let node = unfiltered(&graph, node)?;
        let driver = kind_of(&graph, node)?;
        let format = match driver {
            Kind::Protocol if mask_protocol => "raw",
            _ => graph.node(node)?.node.driver(),
        };
        let full = Names::new(self, &graph).of(node)?;
        // Whether the image itself names what its data lies in is not known.
        let more = graph.node(node)?.children.iter().any(|edge| edge.role == Role::DataFile);
        let name = match full.plain().filter(|_| !more) {
            // Whoever opens the image works in another directory.
            Some(path) if Path::new(path).is_relative() => real(Path::new(path)).display().to_string(),
            Some(name) => name.to_owned(),
            None => full.options_from_anywhere(),
        };
        Ok(BackingName { name, format: format.to_owned() })
    }

    fn set_read_only(&self, node: NodeId, read_only: bool) -> LocalFut<'_, Result<()>> {
        Box::pin(self.reopen_image(node, read_only))
    }
}
