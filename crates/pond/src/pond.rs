//! The pond: images and clones by name, found again when a daemon starts.
//!
//! Invariants: one daemon has a pond; what a verb began and could not end leaves nothing behind; one damaged cache or
//! record concerns nobody else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::{BlockError, ErrorKind, Permissions};
use engine::{Engine, Event};
use io::select::race;
use io::sync::{Semaphore, SemaphorePermit};
use io::{File, OpenOptions};

use crate::clones::Clone;
use crate::image::{self, Image, State};
use crate::layout::{Layout, short};
use crate::lock::lock;
use crate::record::{self, Holding, ImageRecord};
use crate::refusal::{Refusal, Remedy, Result, Trouble};
use crate::source::Source;

/// How long a list waits for what caches hold to be counted.
const COUNTING_MAX: Duration = Duration::from_secs(1);

/// How a pond is opened.
#[derive(Clone, Debug)]
pub struct PondOptions {
    /// Where caches lie; made if it is not there.
    pub folder: PathBuf,
    /// Where the sockets of clones are; made if it is not there.
    pub sockets: PathBuf,
    /// How long a read waits for a source that is lost.
    pub source_timeout: Duration,
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name in the pond.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// Where it stands; `None` when it could not be opened.
    pub state: Option<State>,
    /// What is wrong: why the source is lost, or why it could not be opened.
    pub trouble: Option<Trouble>,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes that are done with: here, or known to be zeros. Never more than that.
    pub done: u64,
    /// Bytes that came from the source since the daemon started.
    pub fetched: u64,
    /// What the repository states of its version; without it only the size is checked.
    pub stated: Option<String>,
    /// The cache.
    pub cache: PathBuf,
}

/// What is known of a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneInfo {
    /// The overlay.
    pub overlay: PathBuf,
    /// The image's name.
    pub image: String,
    /// Virtual size in bytes.
    pub size: u64,
    /// Whether it needs the daemon no more.
    pub pivoted: bool,
    /// Why it is not served.
    pub trouble: Option<Trouble>,
    /// Connections of VMs to its socket.
    pub connections: usize,
    /// The socket that it reads through.
    pub socket: PathBuf,
}

/// A pond. Its verbs are called on one I/O thread, which owns the sockets of sources.
pub struct Pond {
    pub(crate) engine: Arc<Engine>,
    pub(crate) layout: Layout,
    patience: Duration,
    /// Its lock says whose the pond is.
    _lock: Arc<dyn File>,
    images: Mutex<BTreeMap<String, Arc<Image>>>,
    /// Source nodes that are lost, and why: a source may be lost before its image is listed.
    lost: Mutex<BTreeMap<String, String>>,
    /// Images that could not be opened, and why.
    damaged: Mutex<BTreeMap<String, (Option<ImageRecord>, Trouble)>>,
    pub(crate) clones: Mutex<BTreeMap<String, Arc<Clone>>>,
    /// One verb changes the pond at a time.
    turn: Semaphore,
    number: AtomicU64,
}

impl Pond {
    /// Takes the pond over, finds its images and clones again, and goes on where the last daemon stopped.
    pub async fn open(engine: Arc<Engine>, options: PondOptions) -> Result<Arc<Self>> {
        let layout = Layout::new(options.folder, options.sockets);
        prepare(&engine, &layout).await?;
        let lock = take(&engine, &layout).await?;
        let pond = Arc::new(Self {
            engine,
            layout,
            patience: options.source_timeout,
            _lock: lock,
            images: Mutex::default(),
            lost: Mutex::default(),
            damaged: Mutex::default(),
            clones: Mutex::default(),
            turn: Semaphore::new(1),
            number: AtomicU64::new(0),
        });
        pond.watch_sources();
        pond.recover().await?;
        Ok(pond)
    }

    /// The engine that it is a client of.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        // It is never closed.
        self.turn.acquire().await.expect("a pond's turn ends with the pond")
    }

    async fn recover(self: &Arc<Self>) -> Result<()> {
        for path in self.records(&self.layout.images()).await? {
            let Some(name) = Layout::record_name(&path) else { continue };
            let (record, opened) = self.recover_image(&name, &path).await;
            if let Err(refusal) = opened {
                lock(&self.damaged).insert(name, (record, Trouble::from(&refusal)));
            }
        }
        for path in self.records(&self.layout.clones()).await? {
            let Some(id) = Layout::record_name(&path) else { continue };
            // One that cannot be read says nothing of its disk.
            if let Err(error) = self.recover_clone(&id, &path).await {
                self.engine.events().tell(Event::RequestFailed { error: error.to_string() });
            }
        }
        Ok(())
    }

    async fn records(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let found = self.engine.world().folders().list(folder).await;
        let mut found =
            found.map_err(|e| BlockError::system(format!("cannot list '{}'", folder.display()), e))?;
        found.sort();
        Ok(found)
    }

    async fn recover_image(self: &Arc<Self>, name: &str, path: &Path) -> (Option<ImageRecord>, Result<()>) {
        let world = &**self.engine.world();
        let record: ImageRecord = match record::load(world, path).await {
            Ok(record) => record,
            Err(error) => return (None, Err(error)),
        };
        let cache = self.layout.cache(name);
        let opened = async {
            let header = image::read_header(world, &cache, &record).await?;
            let what = (name.to_owned(), record.clone(), header);
            Image::open(&self.engine, self.next_number(), what, &cache, self.patience).await
        };
        let opened = opened.await.map(|image| self.start(image, cache));
        (Some(record), opened)
    }

    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    fn start(&self, image: Arc<Image>, cache: PathBuf) {
        lock(&self.images).insert(image.name.clone(), image.clone());
        let lost = lock(&self.lost).get(image.source_node()).cloned();
        if lost.is_some() {
            image.set_trouble(lost);
        }
        io::spawn(image.run(cache));
    }

    /// Notes which sources are lost and which are back, for as long as the pond lives.
    fn watch_sources(self: &Arc<Self>) {
        let (mut events, pond) = (self.engine.events().subscribe(), Arc::downgrade(self));
        io::spawn(async move {
            loop {
                let (node, trouble) = match events.next().await {
                    Event::SourceLost { node, error } => (node, Some(error)),
                    Event::SourceBack { node } => (node, None),
                    _ => continue,
                };
                let Some(pond) = pond.upgrade() else { return };
                match trouble.clone() {
                    Some(error) => lock(&pond.lost).insert(node.clone(), error),
                    None => lock(&pond.lost).remove(&node),
                };
                for image in lock(&pond.images).values().filter(|image| image.source_node() == node) {
                    image.set_trouble(trouble.clone());
                }
            }
        });
    }

    /// Makes a cache for a source, or finds the one that is there; answers the image's name (`image-add`).
    pub async fn add_image(self: &Arc<Self>, source: &Source, holding: Holding) -> Result<String> {
        let _turn = self.turn().await;
        Ok(self.image_of(source, holding).await?.name.clone())
    }

    /// The caller has the turn.
    pub(crate) async fn image_of(self: &Arc<Self>, source: &Source, holding: Holding) -> Result<Arc<Image>> {
        holding.check()?;
        let name = name_of(source);
        if let Some(image) = lock(&self.images).get(&name) {
            return Ok(image.clone());
        }
        if let Some((_, trouble)) = lock(&self.damaged).get(&name) {
            return Err(Refusal::from(trouble.clone()).within(format_args!("image '{name}'")));
        }
        let (cache, path) = (self.layout.cache(&name), self.layout.image_record(&name));
        // Without a record it is what a crash left of an image that was not answered yet.
        let _ = self.engine.world().folders().remove(&cache).await;
        let what = (name.clone(), source, holding);
        let image = Image::create(&self.engine, self.next_number(), what, &cache, self.patience).await?;
        if let Err(error) = record::save(&**self.engine.world(), &path, &image.record).await {
            let _ = image.close().await;
            let _ = self.engine.world().folders().remove(&cache).await;
            return Err(error.into());
        }
        self.start(image.clone(), cache);
        self.serve_again(&name).await;
        Ok(image)
    }

    /// Whether there is an image of that source, sound or not.
    pub(crate) fn has_image(&self, source: &Source) -> bool {
        let name = name_of(source);
        lock(&self.images).contains_key(&name) || lock(&self.damaged).contains_key(&name)
    }

    /// The image of that name, if it is sound.
    pub(crate) fn known_image(&self, name: &str) -> Result<Arc<Image>> {
        if let Some(image) = lock(&self.images).get(name) {
            return Ok(image.clone());
        }
        match lock(&self.damaged).get(name) {
            Some((_, trouble)) => Err(Refusal::from(trouble.clone()).within(format_args!("image '{name}'"))),
            None => {
                let context = format!("there is no image '{name}'");
                Err(Refusal::new(ErrorKind::NotFound, context, Remedy::SeeList))
            }
        }
    }

    /// Removes an image that no clone needs, and its cache (`image-remove`). Clones that it cannot serve do not keep
    /// it: they are served again when it was fetched anew, and is still the same.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let _turn = self.turn().await;
        self.forget_gone_clones().await;
        self.remove_unused_image(name).await
    }

    /// The same; the caller has the turn.
    pub(crate) async fn remove_unused_image(&self, name: &str) -> Result<()> {
        let user = lock(&self.clones).values().find(|clone| clone.needs(name)).cloned();
        if let Some(clone) = user {
            let context = format!("image '{name}' is used by '{}'", clone.record().overlay);
            return Err(Refusal::new(ErrorKind::Busy, context, Remedy::RemoveOverlays));
        }
        let image = lock(&self.images).get(name).cloned();
        if image.is_none() && !lock(&self.damaged).contains_key(name) {
            let context = format!("there is no image '{name}'");
            return Err(Refusal::new(ErrorKind::NotFound, context, Remedy::SeeList));
        }
        if let Some(image) = image {
            image.close().await?;
            lock(&self.images).remove(name);
        }
        lock(&self.damaged).remove(name);
        self.revoke(name).await?;
        // The record goes first: a cache without one is removed when somebody wants its name.
        for path in [self.layout.image_record(name), self.layout.cache(name)] {
            match self.engine.world().folders().remove(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(
                        BlockError::system(format!("cannot remove '{}'", path.display()), error).into()
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ready when [`Pond::images`] knows how much of each image is here, which takes a moment after the pond was
    /// opened.
    pub async fn counted(&self) {
        let all: Vec<_> = lock(&self.images).values().cloned().collect();
        let counted = async {
            for image in all.iter().filter(|image| !image.is_complete()) {
                image.counted().await;
            }
        };
        // A disk that hangs holds up nobody who only looks.
        race(counted, io::sleep(COUNTING_MAX)).await;
    }

    /// All images, by name (`query-images`).
    pub fn images(&self) -> Vec<ImageInfo> {
        let mut infos: Vec<_> = lock(&self.images)
            .values()
            .map(|image| ImageInfo {
                name: image.name.clone(),
                source: image.record.source.clone(),
                state: Some(image.state()),
                trouble: image.trouble(),
                size: image.record.size,
                done: image.done(),
                fetched: image.fetched(),
                stated: image.record.stated.clone(),
                cache: self.layout.cache(&image.name),
            })
            .collect();
        infos.extend(lock(&self.damaged).iter().map(|(name, (record, trouble))| ImageInfo {
            name: name.clone(),
            source: record.as_ref().map(|record| record.source.clone()).unwrap_or_default(),
            state: None,
            trouble: Some(trouble.clone()),
            size: record.as_ref().map_or(0, |record| record.size),
            done: 0,
            fetched: 0,
            stated: record.as_ref().and_then(|record| record.stated.clone()),
            cache: self.layout.cache(name),
        }));
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// Ends everything: what was fetched is durable, and the next daemon goes on with it.
    pub async fn close(&self) -> block::Result<()> {
        let _turn = self.turn().await;
        let clones = std::mem::take(&mut *lock(&self.clones));
        for clone in clones.values() {
            clone.close().await?;
        }
        let images = std::mem::take(&mut *lock(&self.images));
        for image in images.values() {
            image.close().await?;
        }
        Ok(())
    }
}

/// Makes the folders. Images are for nobody else to reach, nor are the records that say where disks are.
async fn prepare(engine: &Engine, layout: &Layout) -> Result<()> {
    let folders = engine.world().folders();
    let failed =
        |what: &str, folder: &Path, e| BlockError::system(format!("cannot {what} '{}'", folder.display()), e);
    for folder in [layout.folder(), layout.sockets()] {
        folders.make(folder, 0o711).await.map_err(|e| failed("make", folder, e))?;
    }
    for (folder, mode) in [(layout.images(), 0o700), (layout.clones(), 0o700), (layout.readers(), 0o711)] {
        folders.make(&folder, mode).await.map_err(|e| failed("make", &folder, e))?;
        // It may have been made by somebody who meant it otherwise.
        folders.set_mode(&folder, mode).await.map_err(|e| failed("protect", &folder, e))?;
    }
    Ok(())
}

/// What the image of a source is called.
fn name_of(source: &Source) -> String {
    format!("{}-{}", source.stem(), &short(&source.to_string())[..8])
}

/// Makes sure that no other daemon has the pond.
async fn take(engine: &Engine, layout: &Layout) -> Result<Arc<dyn File>> {
    let path = layout.lock();
    let file = engine.world().open(&path, OpenOptions::CREATE).await;
    let file = file.map_err(|e| BlockError::system(format!("cannot open '{}'", path.display()), e))?;
    // Who can open it can hold a lock on it.
    let mode = engine.world().folders().set_mode(&path, 0o600).await;
    mode.map_err(|e| BlockError::system(format!("cannot protect '{}'", path.display()), e))?;
    file.lock(Permissions::WRITE, Permissions::NONE).map_err(|_| {
        let context =
            format!("pond '{}' belongs to another daemon that is running", layout.folder().display());
        Refusal::new(ErrorKind::Busy, context, Remedy::OtherPond)
    })?;
    Ok(file)
}
