//! Edits that cut caches off their sources: of caches that come and go below a node of the scene, and late in a
//! battle of the scene's own caches, which clients write meanwhile.

use block::{BlockError, ErrorKind, Result};
use engine::Fill;
use flow::Role;
use serde_json::{Map, Value, json};

use super::{Editor, finished, map, policy};

/// Caches that come and go, at the same time.
pub(super) const SPARES_MAX: usize = 2;

/// A cache between a node and its backing node.
pub(super) struct Spare {
    parent: &'static str,
    source: &'static str,
    /// Node-name of the cache.
    cache: String,
    /// Node-name of the copy-on-read filter above it.
    filter: String,
    /// Nodes to be deleted, the lowest first.
    nodes: Vec<String>,
    fill: Option<Fill>,
    cut: bool,
}

impl Spare {
    /// The node that shows the source through it.
    pub(super) fn top(&self) -> &str {
        if self.cut { &self.cache } else { &self.filter }
    }
}

impl Editor {
    /// Puts an empty cache between a node and its backing node.
    pub(super) async fn add_cache(&mut self) -> Result<()> {
        let backings = self.backings();
        let (parent, sources) = *self.pick(&backings);
        let (cache, source) = (self.name("cache"), *self.pick(sources));
        let (disk, filter) = (format!("{cache}-disk"), format!("{cache}-filter"));
        let size = self.engine.nodes().into_iter().find(|node| node.name == source).map(|node| node.size);
        let nodes = [
            json!({"driver": "memory", "node-name": disk, "size": 0}),
            json!({
                "driver": "memory-format", "node-name": cache, "file": disk, "backing": source,
                "size": size, "cluster-size": 4096 << self.rng.below(5),
            }),
            json!({"driver": "copy-on-read", "node-name": filter, "file": cache}),
        ];
        let mut spare = Spare { parent, source, cache, filter, nodes: Vec::new(), fill: None, cut: false };
        for node in nodes {
            spare.nodes.push(self.engine.add_node(map(node)).await?);
        }
        let put = self.engine.replace_child(parent, Role::Backing, Some(&spare.filter)).await;
        self.spares.push(spare);
        put
    }

    /// Begins to fill one of them, or stops it.
    pub(super) async fn fill_cache(&mut self) -> Result<()> {
        let id = self.name("fill");
        let at = self.rng.index(self.spares.len());
        let spare = &mut self.spares[at];
        if let Some(fill) = spare.fill.take() {
            return finished(fill.stop().await);
        }
        spare.fill = Some(self.engine.start_fill(&id, spare.top(), policy())?);
        Ok(())
    }

    /// Cuts one of them off, full or not; one that has just been filled must be found full.
    pub(super) async fn cut_cache(&mut self) -> Result<()> {
        let (at, wait) = (self.rng.index(self.spares.len()), self.rng.chance(0.6));
        let spare = &mut self.spares[at];
        let filled = match spare.fill.take_if(|_| wait) {
            Some(fill) => Some(fill.ended().await),
            None => None,
        };
        let full = filled.as_ref().is_some_and(Result::is_ok);
        finished(filled.unwrap_or(Ok(())))?;
        if spare.cut {
            return Ok(());
        }
        match self.engine.cut(&spare.filter).await {
            Err(error) if full && error.kind() == ErrorKind::Busy => {
                return Err(BlockError::new(ErrorKind::Io, format!("it was filled, but {error}")));
            }
            answer => answer?,
        }
        spare.cut = true;
        spare.nodes.retain(|node| *node != spare.filter);
        Ok(())
    }

    /// Takes one of them out. Refused while a filter stands on it.
    pub(super) async fn drop_cache(&mut self) -> Result<()> {
        let at = self.rng.index(self.spares.len());
        let mut spare = self.spares.swap_remove(at);
        let dropped = self.drop_spare(&mut spare).await;
        if dropped.is_err() {
            self.spares.push(spare);
        }
        dropped
    }

    pub(super) async fn drop_spare(&self, spare: &mut Spare) -> Result<()> {
        if let Some(fill) = spare.fill.take() {
            finished(fill.stop().await)?;
        }
        if !self.cut.contains(&spare.parent) {
            self.engine.replace_child(spare.parent, Role::Backing, Some(spare.source)).await?;
        }
        while let Some(node) = spare.nodes.last() {
            self.engine.delete_node(node).await?;
            spare.nodes.pop();
        }
        Ok(())
    }

    /// Caches of the scene that still have a source.
    pub(super) fn uncut(&self) -> Vec<&'static str> {
        self.scene.caches.iter().filter(|cache| !self.cut.contains(cache)).copied().collect()
    }

    /// Nodes that still have a backing node, and what it may be.
    pub(super) fn backings(&self) -> Vec<(&'static str, &'static [&'static str])> {
        self.scene.backings.iter().filter(|(parent, _)| !self.cut.contains(parent)).copied().collect()
    }

    /// Fills a cache of the scene while clients write it, and cuts it off for good.
    pub(super) async fn cut_own_cache(&mut self) -> Result<()> {
        let uncut = self.uncut();
        let cache = *self.pick(&uncut);
        let (filter, id) = (self.name("cutter"), self.name("fill"));
        let options = json!({"driver": "copy-on-read", "node-name": filter, "file": cache});
        self.engine.insert_filter(map(options)).await?;
        let filled = self.engine.start_fill(&id, &filter, policy())?.ended().await;
        let cut = match filled {
            Ok(()) => self.engine.cut(&filter).await,
            failed => failed,
        };
        match cut {
            Ok(()) => self.cut.push(cache),
            Err(_) => self.engine.remove_filter(&filter).await?,
        }
        cut
    }

    /// Options to reopen a node with, if it has been cut off.
    pub(super) fn as_it_is_now(&self, mut options: Map<String, Value>) -> Map<String, Value> {
        if self.cut.iter().any(|cut| options["node-name"] == *cut) {
            options.insert("backing".to_owned(), Value::Null);
        }
        options
    }
}
