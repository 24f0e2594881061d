//! Edits of the graph below a live export: random ones from a table, each of which must be answered.

mod cuts;

use std::collections::BTreeMap;
use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use engine::{Engine, ExportRequest, Fill, NbdServer};
use export::nbd::ExportOptions;
use flow::Role;
use flow::copy::Policy;
use io::LocalFut;
use object::LimitsPatch;
use serde_json::{Map, Value, json};
use sim::Rng;

use super::scene::Scene;
use cuts::{SPARES_MAX, Spare};

/// Filters in the graph at the same time.
const FILTERS_MAX: usize = 5;
/// Exports besides the one under fire.
const EXPORTS_MAX: usize = 3;

/// A kind of edit.
struct Edit {
    /// How often, in comparison.
    share: u64,
    name: &'static str,
    /// Whether there is something that it can be done to.
    fits: fn(&Editor) -> bool,
    make: for<'a> fn(&'a mut Editor) -> LocalFut<'a, Result<()>>,
}

/// All kinds of edits.
#[rustfmt::skip]
const EDITS: &[Edit] = &[
    Edit { share: 30, name: "insert-filter", fits: |e| e.filters.len() < FILTERS_MAX, make: |e| Box::pin(e.insert_filter()) },
    Edit { share: 25, name: "remove-filter", fits: |e| !e.filters.is_empty(), make: |e| Box::pin(e.remove_filter()) },
    Edit { share: 12, name: "reopen", fits: |_| true, make: |e| Box::pin(e.reopen()) },
    Edit { share: 8, name: "flip-read-only", fits: |_| true, make: |e| Box::pin(e.flip_read_only()) },
    Edit { share: 8, name: "replace-node", fits: |e| !e.scene.twins.is_empty(), make: |e| Box::pin(e.replace_node()) },
    Edit { share: 8, name: "replace-child", fits: |e| !e.backings().is_empty(), make: |e| Box::pin(e.replace_child()) },
    Edit { share: 6, name: "limits", fits: |_| true, make: |e| Box::pin(e.limits()) },
    Edit { share: 5, name: "add-export", fits: |e| e.exports.len() < EXPORTS_MAX, make: |e| Box::pin(e.add_export()) },
    Edit { share: 5, name: "delete-export", fits: |e| !e.exports.is_empty(), make: |e| Box::pin(e.delete_export()) },
    Edit { share: 4, name: "start-fill", fits: |e| e.fills.is_empty() && !e.scene.caches.is_empty(), make: |e| Box::pin(e.start_fill()) },
    Edit { share: 4, name: "stop-fill", fits: |e| !e.fills.is_empty(), make: |e| Box::pin(e.stop_fill()) },
    Edit { share: 5, name: "add-cache", fits: |e| e.spares.len() < SPARES_MAX && !e.backings().is_empty(), make: |e| Box::pin(e.add_cache()) },
    Edit { share: 5, name: "fill-cache", fits: |e| !e.spares.is_empty(), make: |e| Box::pin(e.fill_cache()) },
    Edit { share: 5, name: "cut-cache", fits: |e| !e.spares.is_empty(), make: |e| Box::pin(e.cut_cache()) },
    Edit { share: 3, name: "drop-cache", fits: |e| !e.spares.is_empty(), make: |e| Box::pin(e.drop_cache()) },
    Edit { share: 4, name: "cut-own-cache", fits: |e| e.late && !e.uncut().is_empty(), make: |e| Box::pin(e.cut_own_cache()) },
];

/// A kind of filter: its driver, and its options besides the name and the child.
type Filter = (&'static str, fn(&Scene, &mut Rng) -> Value);

/// Filters that come and go. What `fault` makes fail fails with "no space", which nothing else here does.
#[rustfmt::skip]
const FILTERS: &[Filter] = &[
    ("copy-on-read", |_, _| json!({})),
    ("copy-on-read", |_, _| json!({})),
    ("throttle", |_, _| json!({"throttle-group": THROTTLE_GROUP})),
    ("delay", |_, rng| json!({"read-us": rng.below(2000), "write-us": rng.below(2000), "flush-us": rng.below(3000)})),
    ("fault", |scene, rng| json!({"seed": rng.below(99), "rules": rules(scene)})),
];

/// What makes each operation fail that may fail in the scene.
fn rules(scene: &Scene) -> Vec<Value> {
    let rule = |op: &&str| json!({"op": op, "probability": 0.02, "errno": 28});
    scene.faults.iter().map(rule).collect()
}

/// The group of all throttle filters.
pub const THROTTLE_GROUP: &str = "group";
/// What [`FILTERS`] make requests fail with.
pub const FAULT: ErrorKind = ErrorKind::NoSpace;

/// What an edit may be refused with when it makes no sense at the moment, or meets a fault.
const REFUSALS: &[ErrorKind] = &[
    ErrorKind::Busy,
    ErrorKind::NotPermitted,
    ErrorKind::Invalid,
    ErrorKind::ReadOnly,
    ErrorKind::Unsupported,
    FAULT,
];

/// How often a kind of edit was made, and how often it was refused.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub made: u64,
    pub refused: u64,
}

/// The one who edits.
pub struct Editor {
    engine: Arc<Engine>,
    server: Arc<NbdServer>,
    scene: &'static Scene,
    rng: Rng,
    next: u64,
    filters: Vec<String>,
    exports: Vec<String>,
    fills: Vec<Fill>,
    spares: Vec<Spare>,
    /// Caches of the scene that have no source any more.
    cut: Vec<&'static str>,
    /// Whether the scene's own caches may be cut off: nothing brings their sources back.
    pub late: bool,
    /// Folder of the files.
    folder: String,
    pub counts: BTreeMap<&'static str, Count>,
}

impl Editor {
    /// Edits that were made; refused ones do not count.
    pub fn made(&self) -> u64 {
        self.counts.values().map(|count| count.made).sum()
    }

    pub fn new(
        engine: Arc<Engine>,
        server: Arc<NbdServer>,
        scene: &'static Scene,
        folder: &str,
        rng: Rng,
    ) -> Self {
        Self {
            engine,
            server,
            scene,
            rng,
            next: 0,
            filters: Vec::new(),
            exports: Vec::new(),
            fills: Vec::new(),
            spares: Vec::new(),
            cut: Vec::new(),
            late: false,
            folder: folder.to_owned(),
            counts: BTreeMap::new(),
        }
    }

    /// One edit, whichever; an error that no edit may be answered with is one.
    pub async fn step(&mut self) -> std::result::Result<(), String> {
        let fitting: Vec<&Edit> = EDITS.iter().filter(|edit| (edit.fits)(self)).collect();
        let mut left = self.rng.below(fitting.iter().map(|edit| edit.share).sum());
        let chosen = fitting.into_iter().find(|edit| {
            let here = left < edit.share;
            left = left.saturating_sub(edit.share);
            here
        });
        let Edit { name, make, .. } = chosen.expect("a reopen always fits");
        let answer = make(self).await;
        let count = self.counts.entry(name).or_default();
        let Err(error) = answer else {
            count.made += 1;
            return Ok(());
        };
        count.refused += 1;

        match REFUSALS.contains(&error.kind()) {
            true => Ok(()),
            false => Err(format!("{name}: {error}")),
        }
    }

    /// Takes out what it has put in; ready when all of it is gone.
    pub async fn tidy(&mut self) -> Result<()> {
        for fill in std::mem::take(&mut self.fills) {
            finished(fill.ended().await)?;
        }
        for id in std::mem::take(&mut self.exports) {
            self.server.remove(&id).await?;
        }
        for filter in std::mem::take(&mut self.filters) {
            self.engine.remove_filter(&filter).await?;
        }
        for mut spare in std::mem::take(&mut self.spares) {
            self.drop_spare(&mut spare).await?;
        }
        Ok(())
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.rng.index(from.len())]
    }

    fn name(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    async fn insert_filter(&mut self) -> Result<()> {
        let (driver, options) = self.pick(FILTERS);
        let (name, spot) = (self.name(driver), self.spot());
        let mut options = map(options(self.scene, &mut self.rng));
        options.insert("driver".to_owned(), json!(driver));
        options.insert("node-name".to_owned(), json!(name));
        options.insert("file".to_owned(), json!(spot));
        match self.rng.chance(0.75) {
            true => drop(self.engine.insert_filter(options).await?),
            false => self.insert_by_replacing(options, &name, &spot).await?,
        }
        self.filters.push(name);
        Ok(())
    }

    /// A filter that is there first and then takes the place of its child.
    async fn insert_by_replacing(&self, options: Map<String, Value>, name: &str, spot: &str) -> Result<()> {
        self.engine.add_node(options).await?;
        if let Err(error) = self.engine.replace_node(spot, name).await {
            self.engine.delete_node(name).await?;
            return Err(error);
        }
        Ok(())
    }

    async fn remove_filter(&mut self) -> Result<()> {
        let filters = self.filters.clone();
        let name = self.pick(&filters);
        self.engine.remove_filter(name).await?;
        self.filters.retain(|filter| filter != name);
        Ok(())
    }

    /// A node to put a filter above.
    fn spot(&mut self) -> String {
        if !self.spares.is_empty() && self.rng.chance(0.2) {
            return self.spares[self.rng.index(self.spares.len())].top().to_owned();
        }
        (*self.pick(self.scene.spots)).to_owned()
    }

    async fn reopen(&mut self) -> Result<()> {
        let options = self.reopens();
        let options = self.pick(&options).clone();
        self.reopen_as(options).await
    }

    /// Opens all nodes anew, so that none remembers what it has read.
    pub async fn reopen_all(&self) -> Result<()> {
        for options in self.reopens() {
            self.reopen_as(options).await?;
        }
        Ok(())
    }

    /// Unless a flip has changed whether it can be written, it stays as it was.
    async fn reopen_as(&self, mut options: Map<String, Value>) -> Result<()> {
        options.insert("read-only".to_owned(), json!(self.engine.is_read_only(name_in(&options))?));
        self.engine.reopen_node(options).await
    }

    /// What disks that lie in memory take: they are written all over.
    pub fn memory_disks(&self) -> i64 {
        let disks = self.engine.nodes().into_iter().filter(|node| node.driver == "memory");
        disks.map(|disk| disk.size.next_multiple_of(64 << 10) as i64).sum()
    }

    /// Reopens a node for reading only, or for writing, too. What clients write must not become read-only.
    async fn flip_read_only(&mut self) -> Result<()> {
        let options = self.reopens();
        let mut options = self.pick(&options).clone();
        let name = name_in(&options).to_owned();
        let read_only = !self.engine.is_read_only(&name)?;
        options.insert("read-only".to_owned(), json!(read_only));
        self.engine.reopen_node(options).await?;
        let wrong = match self.engine.is_read_only(&name)? {
            now if now != read_only => "it did not change",
            true if self.scene.written.contains(&name.as_str()) => "clients write it",
            _ => return Ok(()),
        };
        let context = format!("'{name}' was reopened with read-only={read_only}, but {wrong}");
        Err(BlockError::new(ErrorKind::Io, context))
    }

    /// Options to open nodes of the scene anew with.
    fn reopens(&self) -> Vec<Map<String, Value>> {
        let options = (self.scene.reopens)(&|name| format!("{}{name}", self.folder));
        options.into_iter().map(|options| self.as_it_is_now(map(options))).collect()
    }

    /// Other limits for all throttle filters.
    async fn limits(&mut self) -> Result<()> {
        let group = self.engine.objects().throttle_group(THROTTLE_GROUP)?;
        let (iops_total, bps_total) = match self.rng.below(3) {
            0 => (0, 0),
            1 => (2_000 + self.rng.below(20_000), 0),
            _ => (0, (20 + self.rng.below(200)) << 20),
        };
        let patch = LimitsPatch {
            iops_total: Some(iops_total),
            bps_total: Some(bps_total),
            ..LimitsPatch::default()
        };
        group.set_limits(&patch)
    }

    async fn replace_node(&mut self) -> Result<()> {
        let (one, other) = *self.pick(self.scene.twins);
        let (node, with) = if self.rng.chance(0.5) { (one, other) } else { (other, one) };
        self.engine.replace_node(node, with).await
    }

    async fn replace_child(&mut self) -> Result<()> {
        let backings = self.backings();
        let (parent, children) = *self.pick(&backings);
        let child = *self.pick(children);
        self.engine.replace_child(parent, Role::Backing, Some(child)).await
    }

    async fn add_export(&mut self) -> Result<()> {
        let (id, node) = (self.name("export"), *self.pick(self.scene.spots));
        self.server.add(request(&id, node, false))?;
        self.exports.push(id);
        Ok(())
    }

    async fn delete_export(&mut self) -> Result<()> {
        let id = self.exports.remove(self.rng.index(self.exports.len()));
        self.server.remove(&id).await
    }

    async fn start_fill(&mut self) -> Result<()> {
        let id = self.name("fill");
        // Through whatever stands above the cache at the moment, as an export of it does.
        let above = *self.pick(self.scene.caches);
        let fill = self.engine.start_fill(&id, above, policy())?;
        self.fills.push(fill);
        Ok(())
    }

    async fn stop_fill(&mut self) -> Result<()> {
        let Some(fill) = self.fills.pop() else { return Ok(()) };
        if self.rng.chance(0.5) {
            return finished(fill.ended().await);
        }
        finished(fill.stop().await)
    }
}

/// How caches are filled here: in many small steps.
fn policy() -> Policy {
    Policy { chunk: 64 << 10, ..Policy::default() }
}

fn name_in(options: &Map<String, Value>) -> &str {
    options["node-name"].as_str().expect("options of a scene name a node")
}

/// A fill may have been stopped, or have met a fault.
fn finished(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::Cancelled || error.kind() == FAULT => Ok(()),
        ended => ended,
    }
}

/// An export of this node by the name of its id.
pub fn request(id: &str, node: &str, writable: bool) -> ExportRequest {
    let options = ExportOptions { writable, ..ExportOptions::read_only(id) };
    ExportRequest { id: id.to_owned(), node: node.to_owned(), options }
}

pub fn map(options: Value) -> Map<String, Value> {
    match options {
        Value::Object(map) => map,
        other => panic!("options are an object, not {other}"),
    }
}
