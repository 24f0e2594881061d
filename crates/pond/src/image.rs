//! One image: its cache in the graph, and the task that fills it and cuts it off.
//!
//! | state | nodes, from the top | link |
//! |---|---|---|
//! | filling, working-set, lost | copy-on-read, qcow2 (writable), source | header and graph |
//! | complete | qcow2 (read-only) | none |
//!
//! Invariants: the header names the source for as long as one byte of it is missing; what is fetched is durable after a
//! second at most, since readers of a cache never flush.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::{BlockError, ErrorKind};
use engine::Engine;
use flow::copy::{Policy, Progress};
use io::select::{Either, race};
use io::sync::{Notify, Semaphore};
use io::{OpenOptions, World};
use qcow2::{Header, NewImage, cache};
use serde_json::{Map, Value, json};

use crate::lock::lock;
use crate::overlay::{first_cluster, new_file};
use crate::record::{Holding, ImageRecord, Mode};
use crate::refusal::{Refusal, Remedy, Result, Trouble};
use crate::source::Source;

/// Clusters of caches: the granule of fetching.
const CLUSTER_BITS: u32 = 16;
/// How far what is fetched may be ahead of what is durable.
const COMMIT: Duration = Duration::from_secs(1);
/// Between attempts to fill.
const RETRY: Duration = Duration::from_millis(500);

/// Where an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything is being fetched.
    Filling,
    /// All of it is here, the source is not needed any more, and others may open the cache's file.
    Complete,
    /// What is read is fetched, and no more.
    WorkingSet,
    /// As the two above, but the source cannot be reached, or is another image now; what is here is served.
    Lost,
}

impl State {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filling => "filling",
            Self::Complete => "complete",
            Self::WorkingSet => "working-set",
            Self::Lost => "lost",
        }
    }
}

/// An image of a pond.
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) record: ImageRecord,
    engine: Arc<Engine>,
    nodes: Nodes,
    complete: AtomicBool,
    /// Complete, and open for reading only: others may open the cache's file now.
    settled: AtomicBool,
    /// Why the source cannot be reached, as its node told.
    trouble: Mutex<Option<String>>,
    /// Why the last attempt to fill failed, until the next one begins.
    failure: Mutex<Option<String>>,
    progress: Mutex<Arc<Progress>>,
    stopping: AtomicBool,
    stop: Notify,
    stopped: Notify,
    running: AtomicBool,
    /// What had come from the source when it was given up.
    fetched: AtomicU64,
    /// Bytes that the cache held when it was opened; counted by the task.
    held: AtomicU64,
    counted: Semaphore,
}

/// Names of its nodes.
struct Nodes {
    top: String,
    cache: String,
    file: String,
    source: String,
}

impl Nodes {
    fn new(number: u64) -> Self {
        let name = |part| format!("pond{number}-{part}");
        Self { top: name("image"), cache: name("cache"), file: name("file"), source: name("source") }
    }
}

/// What the header of a cache says.
pub(crate) struct CacheHeader {
    complete: bool,
}

/// Reads the header of a cache that was made for `record`.
pub(crate) async fn read_header(world: &dyn World, path: &Path, record: &ImageRecord) -> Result<CacheHeader> {
    let damaged = |why: &str| {
        let context = format!("cache '{}' {why}", path.display());
        Refusal::new(ErrorKind::Corrupt, context, Remedy::RemoveImage)
    };
    let file = world.open(path, OpenOptions::default()).await;
    let file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => damaged("is gone"),
        _ => BlockError::system(format!("cannot open '{}'", path.display()), error).into(),
    })?;
    let first = first_cluster(&*file, path).await.map_err(|e| match e.kind() {
        ErrorKind::Io => e.into(),
        _ => damaged(&format!("is damaged ({e})")),
    })?;
    let header = Header::parse(&first).map_err(|e| damaged(&format!("is damaged ({e})")))?;
    if header.virtual_size != record.size {
        return Err(damaged("has another size than its record says"));
    }
    let complete = header.backing.is_none();
    if !complete && cache::read(&header)?.is_none() {
        return Err(damaged("was written by another program"));
    }
    if complete {
        // Who was killed in the midst of the cut has left this to the page cache alone.
        let flushed = file.flush().await;
        flushed.map_err(|e| BlockError::system(format!("cannot flush '{}'", path.display()), e))?;
    }
    Ok(CacheHeader { complete })
}

impl Image {
    /// Opens the source of a new image, and makes its empty cache at `path`.
    pub(crate) async fn create(
        engine: &Arc<Engine>,
        number: u64,
        (name, source, holding): (String, &Source, Holding),
        path: &Path,
        patience: Duration,
    ) -> Result<Arc<Self>> {
        let nodes = Nodes::new(number);
        let source_node = nodes.source.clone();
        engine.add_node(named(source.options(patience, None), &source_node, true)).await?;
        let made = async {
            let record = make(engine, &source_node, source, holding, path).await?;
            Self::assemble(engine, name, record, nodes, path).await
        };
        or_close(engine, &source_node, made.await).await
    }

    /// Opens the cache at `path` again.
    pub(crate) async fn open(
        engine: &Arc<Engine>,
        number: u64,
        (name, record, header): (String, ImageRecord, CacheHeader),
        path: &Path,
        patience: Duration,
    ) -> Result<Arc<Self>> {
        let nodes = Nodes::new(number);
        if header.complete {
            let image = Self::new(engine, name, record, nodes, true);
            image.engine.add_node(image.cache_options(path, true)).await?;
            return Ok(image);
        }
        let source = Source::parse(&record.source, Path::new("/"))?;
        let options = source.options(patience, Some(&record.identity));
        let source_node = nodes.source.clone();
        engine.add_node(named(options, &source_node, true)).await?;
        let opened = async {
            same_source(engine, &source_node, &record).await?;
            Self::assemble(engine, name, record, nodes, path).await
        };
        or_close(engine, &source_node, opened.await).await
    }

    /// Puts the cache over its source, and copy-on-read over both.
    async fn assemble(
        engine: &Arc<Engine>,
        name: String,
        record: ImageRecord,
        nodes: Nodes,
        path: &Path,
    ) -> Result<Arc<Self>> {
        let image = Self::new(engine, name, record, nodes, false);
        engine.add_node(image.cache_options(path, false)).await?;
        let top = json!({ "driver": "copy-on-read", "file": image.nodes.cache });
        if let Err(error) = engine.add_node(named(top, &image.nodes.top, false)).await {
            // What went wrong first is what counts.
            let _ = engine.delete_node(&image.nodes.cache).await;
            return Err(error.into());
        }
        Ok(image)
    }

    fn new(
        engine: &Arc<Engine>,
        name: String,
        record: ImageRecord,
        nodes: Nodes,
        complete: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            record,
            engine: engine.clone(),
            nodes,
            complete: AtomicBool::new(complete),
            settled: AtomicBool::new(complete),
            trouble: Mutex::default(),
            failure: Mutex::default(),
            progress: Mutex::default(),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
            stopped: Notify::new(),
            running: AtomicBool::new(false),
            fetched: AtomicU64::new(0),
            held: AtomicU64::new(0),
            counted: Semaphore::new(0),
        })
    }

    fn cache_options(&self, path: &Path, complete: bool) -> Map<String, Value> {
        let file = json!({ "driver": "file", "node-name": self.nodes.file, "filename": path });
        let mut options = json!({ "driver": "qcow2", "file": file });
        options["backing"] = if complete { Value::Null } else { json!(self.nodes.source) };
        if !complete {
            options["keep-identity"] = json!(true);
        }
        named(options, &self.nodes.cache, complete)
    }

    /// The nodes that clones may read, the first that is there: while the link is being cut there is no telling which.
    pub(crate) fn readable(&self) -> [&str; 2] {
        [&self.nodes.top, &self.nodes.cache]
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::SeqCst)
    }

    /// Whether it is complete, and the cache's file anybody's to read.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst)
    }

    /// Name of the node of its source.
    pub(crate) fn source_node(&self) -> &str {
        &self.nodes.source
    }

    /// Notes that the source is lost, and why; or that it is there again.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }

    /// Why the source cannot be reached.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let trouble = lock(&self.trouble).clone();
        trouble.or_else(|| lock(&self.failure).clone()).map(Trouble::from)
    }

    pub(crate) fn state(&self) -> State {
        match self.record.mode {
            _ if self.is_settled() => State::Complete,
            _ if self.trouble().is_some() => State::Lost,
            Mode::Complete => State::Filling,
            Mode::WorkingSet => State::WorkingSet,
        }
    }

    /// Bytes of the image that are done with: here, or known to be zeros. Never more than that is true of; zeros count
    /// when the fill has passed them.
    pub(crate) fn done(&self) -> u64 {
        if self.is_complete() {
            return self.record.size;
        }
        let here =
            self.held.load(Ordering::SeqCst) + self.figure(&self.nodes.top, "stored-bytes").unwrap_or(0);
        lock(&self.progress).done.load(Ordering::Relaxed).max(here).min(self.record.size)
    }

    /// What a node has counted.
    fn figure(&self, node: &str, name: &str) -> Option<u64> {
        let stats = self.engine.stats(node).unwrap_or_default();
        stats.into_iter().find(|(figure, _)| figure == name).map(|(_, value)| value)
    }

    /// Ready when [`Image::done`] knows what was here when the cache was opened.
    pub(crate) async fn counted(&self) {
        // Closed when it is.
        let _ = self.counted.acquire().await;
    }

    async fn count(&self) -> block::Result<()> {
        let reader = self.engine.reader(&format!("count {}", self.name), &self.nodes.top)?;
        let held = reader.held().await;
        reader.close().await?;
        self.held.store(held?, Ordering::SeqCst);
        Ok(())
    }

    /// Bytes that came from the source since the cache was opened.
    pub(crate) fn fetched(&self) -> u64 {
        let now = self.figure(&self.nodes.source, "received-bytes");
        now.unwrap_or_else(|| self.fetched.load(Ordering::SeqCst))
    }

    /// Fills the cache and keeps what is fetched durable, until it is complete or [`Image::close`] is called.
    pub(crate) async fn run(self: Arc<Self>, path: std::path::PathBuf) {
        self.running.store(true, Ordering::SeqCst);
        if !self.is_complete() {
            // Before anything is stored, which is counted besides. What cannot be read is told by whoever needs it.
            let _ = self.count().await;
            self.counted.close();
            let work = async {
                match self.record.mode {
                    Mode::Complete => self.fill(&path).await,
                    Mode::WorkingSet => self.stopping().await,
                }
            };
            // The other one never ends.
            race(work, self.commit()).await;
        }
        self.running.store(false, Ordering::SeqCst);
        self.stopped.notify_waiters();
    }

    async fn commit(&self) {
        loop {
            io::sleep(COMMIT).await;
            // A failure is met again by the next one, and by the flush before the cut.
            let _ = self.engine.flush(&self.nodes.cache).await;
        }
    }

    async fn fill(&self, path: &Path) {
        while !self.stopping.load(Ordering::SeqCst) {
            match self.fill_once(path).await {
                Ok(()) => return,
                Err(error) if error.kind() == ErrorKind::Cancelled => return,
                Err(error) => {
                    *lock(&self.failure) = Some(error.to_string());
                    let stopped = race(self.stopping(), io::sleep(RETRY)).await;
                    if matches!(stopped, Either::First(())) {
                        return;
                    }
                }
            }
        }
    }

    async fn fill_once(&self, path: &Path) -> block::Result<()> {
        let fill =
            self.engine.start_fill(&format!("fill {}", self.name), &self.nodes.top, Policy::default())?;
        *lock(&self.progress) = fill.progress().clone();
        *lock(&self.failure) = None;
        fill.until(self.stopping()).await?;
        self.complete(path).await
    }

    /// All is here: cuts the link, and opens the cache for reading only.
    async fn complete(&self, path: &Path) -> block::Result<()> {
        self.engine.cut(&self.nodes.top).await?;
        self.fetched.store(self.fetched(), Ordering::SeqCst);
        self.complete.store(true, Ordering::SeqCst);
        // From here on nothing needs the source. What fails is put right when the daemon starts again.
        if let Err(error) = self.become_read_only(path).await {
            self.engine.events().of(&self.nodes.cache).failed(&error);
        }
        self.settled.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn become_read_only(&self, path: &Path) -> block::Result<()> {
        self.engine.delete_node(&self.nodes.source).await?;
        let cache = json!({ "driver": "qcow2", "file": self.nodes.file, "backing": null });
        self.engine.reopen_node(named(cache, &self.nodes.cache, true)).await?;
        let file = json!({ "driver": "file", "filename": path });
        self.engine.reopen_node(named(file, &self.nodes.file, true)).await
    }

    async fn stopping(&self) {
        loop {
            let told = self.stop.notified();
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            told.await;
        }
    }

    /// Ends the task and closes the nodes; nobody else may use them any more. What was fetched is kept.
    pub(crate) async fn close(&self) -> block::Result<()> {
        self.stopping.store(true, Ordering::SeqCst);
        self.stop.notify_waiters();
        loop {
            let stopped = self.stopped.notified();
            if !self.running.load(Ordering::SeqCst) {
                break;
            }
            stopped.await;
        }
        if self.is_complete() {
            return self.engine.delete_node(&self.nodes.cache).await;
        }
        let flushed = self.engine.flush(&self.nodes.cache).await;
        for node in [&self.nodes.top, &self.nodes.cache, &self.nodes.source] {
            self.engine.delete_node(node).await?;
        }
        flushed
    }
}

/// Closes the source again if what was to be built on it could not be.
async fn or_close<T>(engine: &Engine, source: &str, built: Result<T>) -> Result<T> {
    if built.is_err() {
        // What went wrong first is what counts.
        let _ = engine.delete_node(source).await;
    }
    built
}

/// Makes the cache's file, and says what it is made for.
async fn make(
    engine: &Engine,
    node: &str,
    source: &Source,
    Holding { mode, quota }: Holding,
    path: &Path,
) -> block::Result<ImageRecord> {
    let size = engine.size(node)?;
    let (identity, stated) = identity(engine, node).await?;
    let record = ImageRecord::new(source.to_string(), identity, stated, mode, size);
    let mut about = json!({ "source": record.source, "identity": record.identity, "mode": record.mode });
    if let Some(quota) = quota {
        about["quota"] = json!(quota);
    }
    let image = NewImage {
        extensions: vec![cache::extension(&about.to_string())?],
        autoclear: cache::AUTOCLEAR,
        ..NewImage::new(size, CLUSTER_BITS).over(&record.source, "raw")
    };
    let file = new_file(&image, 0o600)?;
    let made = engine.world().folders().put(path, file).await;
    made.map_err(|e| BlockError::system(format!("cannot create cache '{}'", path.display()), e))?;
    Ok(record)
}

/// What the source is known by, and what is stated of its version.
async fn identity(engine: &Engine, node: &str) -> block::Result<(String, Option<String>)> {
    if let Some(known) = engine.identity(node)? {
        return Ok(known);
    }
    let stated = crate::identity::state(&**engine.world(), &engine.files_of(node)).await?;
    Ok((stated.clone(), Some(stated)))
}

/// Whether the source is what it was. A server that is not there answers when it is: nothing else is ever taken for
/// it.
async fn same_source(engine: &Engine, node: &str, record: &ImageRecord) -> Result<()> {
    let (now, _) = identity(engine, node).await?;
    if now == record.identity && engine.size(node)? == record.size {
        return Ok(());
    }
    let context = format!("source '{}' is another image than its cache was begun with", record.source);
    Err(Refusal::new(ErrorKind::Invalid, context, Remedy::RemoveImage))
}

/// The options of a node of that name.
pub(crate) fn named(mut options: Value, name: &str, read_only: bool) -> Map<String, Value> {
    options["node-name"] = json!(name);
    options["read-only"] = json!(read_only);
    match options {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
