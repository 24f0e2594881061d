//! One call of a verb: its engine, who listens, and how images are opened for it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use block::ByteRange;
use engine::partial::fill;
use engine::{Engine, Event, keyval};
use graph::Demand;
use qcow2::Header;
use serde_json::{Map, Value, json};

use crate::cache::Cache;
use crate::chain;
use crate::failure::{Failure, Result};
use crate::foreign::{self, LOOKED_AT, Looks};
use crate::image::Image;
use crate::naming::{self, Named};
use crate::words;

/// Who is told what a verb has to say. The text ends its own lines.
pub trait Listener {
    /// An answer.
    fn say(&self, text: &str);

    /// A warning as it is.
    fn warn(&self, text: &str);

    /// What is wrong, behind the name of the program; without a line feed at the end.
    fn complain(&self, text: &str);

    /// Work begins that it may be asked of how far it is.
    fn begin_progress(&self);

    /// How far it is, in percent.
    fn progress(&self, percent: f32);

    /// It is through, and says something else now.
    fn end_progress(&self);
}

/// One call of a verb.
pub struct Session {
    /// What carries it out.
    pub(crate) engine: Arc<Engine>,
    /// Who is told.
    pub(crate) listener: Rc<dyn Listener>,
    /// What was made and has to go if the verb fails.
    pub(crate) made: crate::made::Made,
    opened: Cell<u32>,
    /// Names of images that were warned of.
    warned: RefCell<BTreeSet<String>>,
    called_off: Cell<bool>,
}

/// Which image to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// Its name, or its options.
    pub(crate) name: &'a str,
    /// Its format, where it was given.
    pub(crate) format: Option<&'a str>,
    /// Whether the name is a set of options.
    pub(crate) image_opts: bool,
}

impl Source<'_> {
    /// Fails where it has a format beside its options, or where they ask for locks and `-U` for none.
    pub(crate) fn agrees_with(&self, how: How<'_>) -> Result<()> {
        if self.image_opts && self.format.is_some() {
            return Err(Failure::new("--image-opts and --format are mutually exclusive"));
        }
        if !how.force_share || !self.image_opts {
            return Ok(());
        }
        // What cannot be read is told by whoever opens it.
        let options = keyval::parse_image_opts(self.name, "file").unwrap_or_default().0;
        if options.get("force-share").is_some_and(|share| share != "on") {
            return Err(Failure::new("--force-share/-U conflicts with image options"));
        }
        Ok(())
    }
}

/// How to open it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How<'a> {
    /// For writing.
    pub(crate) writable: bool,
    /// The page cache and flushes.
    pub(crate) cache: Cache,
    /// Without locks, while others write to it.
    pub(crate) force_share: bool,
    /// What is done with it while it is open, and what others may do; by default what it is opened for, sharing all.
    pub(crate) demand: Option<Demand>,
    /// Not what lies below it.
    pub(crate) alone: bool,
    /// To be checked, and for nothing else.
    pub(crate) check_only: bool,
    /// To save what is left of it.
    pub(crate) salvage: bool,
    /// As it was in this internal snapshot.
    pub(crate) snapshot: Option<&'a str>,
    /// Zeroing may give storage back.
    pub(crate) unmap: bool,
    /// How its file carries out requests that have to wait (option `aio` of the protocol).
    pub(crate) aio: Option<&'static str>,
}

impl How<'_> {
    /// For reading, with all that lies below.
    pub(crate) const READ: Self = Self {
        writable: false,
        cache: Cache::WRITEBACK,
        force_share: false,
        demand: None,
        alone: false,
        check_only: false,
        salvage: false,
        snapshot: None,
        unmap: false,
        aio: None,
    };
    /// For writing.
    pub(crate) const WRITE: Self = Self { writable: true, ..Self::READ };

    fn demand(&self) -> Demand {
        self.demand.unwrap_or(if self.writable { Demand::CHANGE } else { Demand::LOOK })
    }
}

/// What an image has turned out to be.
pub(crate) struct Looked {
    /// As it was named.
    pub(crate) named: Named,
    /// Its format.
    pub(crate) format: &'static str,
    /// Whether nobody had said the format.
    pub(crate) recognised: bool,
    /// The header of a qcow2 image.
    pub(crate) header: Option<Header>,
    /// The node that it lies on.
    pub(crate) node: String,
}

/// Said where a format was not given and the bytes are taken as they are, before they are written to.
const GUESSED: &str = "WARNING: Image format was not specified for '{}' and probing guessed raw.\n         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         Specify the 'raw' format explicitly to remove the restrictions.\n";

impl Session {
    /// A call that is carried out by `engine`.
    pub fn new(engine: Arc<Engine>, listener: Rc<dyn Listener>) -> Rc<Self> {
        Rc::new(Self {
            engine,
            listener,
            made: crate::made::Made::default(),
            opened: Cell::new(0),
            warned: RefCell::default(),
            called_off: Cell::new(false),
        })
    }

    /// Has a verb that is making something end at its next step. Answers whether there is one: any other can be ended
    /// by dropping its future.
    pub fn call_off(&self) -> bool {
        self.called_off.set(true);
        !self.made.is_empty()
    }

    /// Fails once the verb was called off.
    pub(crate) fn check_called_off(&self) -> Result<()> {
        if self.called_off.get() { Err(Failure::silent(1)) } else { Ok(()) }
    }

    /// Leaves things in order after a verb that did not end well: takes away what it was making, else stores what
    /// images that are still open keep in memory until they are at rest.
    pub async fn end_early(&self) {
        if !self.made.is_empty() {
            // What its image keeps in memory would only be written into what is emptied.
            self.made.undo(&**self.engine.world()).await;
        } else if let Err(error) = self.engine.rest_all().await {
            self.listener.complain(&words::explained(&error));
        }
    }

    /// Defines the objects of `--object`.
    pub(crate) async fn add_objects<'a>(&self, objects: impl Iterator<Item = &'a str>) -> Result<()> {
        for object in objects {
            let added = self.engine.add_object(object_options(object)?).await;
            added.map_err(|error| with_hint(error.into()))?;
        }
        Ok(())
    }

    /// Opens an image; a failure names it.
    pub(crate) async fn open(&self, source: Source<'_>, how: How<'_>) -> Result<Image> {
        source.agrees_with(how)?;
        let opened = self.open_plainly(source, how).await;
        opened.map_err(|failure| failure.opening(source.name))
    }

    /// Opens the present state beside the snapshot that `how` names, for the bitmaps: only that one has any. Nothing
    /// where no snapshot is named.
    pub(crate) async fn open_present(&self, source: Source<'_>, how: How<'_>) -> Result<Option<Image>> {
        match how.snapshot {
            None => Ok(None),
            Some(_) => self.open(source, How { snapshot: None, alone: true, ..how }).await.map(Some),
        }
    }

    /// As [`Session::open`]; a failure says only what is wrong.
    pub(crate) async fn open_plainly(&self, source: Source<'_>, how: How<'_>) -> Result<Image> {
        let looked = self.look(source, how).await?;
        self.engine.delete_node(&looked.node).await?;
        if looked.recognised && looked.format == "raw" && how.writable {
            self.listener.warn(&GUESSED.replace("{}", source.name));
        }
        if let (true, Some(header)) = (looked.recognised && !how.alone, &looked.header) {
            chain::stands_alone(header, &looked.named.own)?;
        }
        let number = self.opened.replace(self.opened.get() + 1);
        let (node, file) = (format!("image{number}"), format!("file{number}"));
        let mut options = looked.named.own;
        fill(&mut options, common(how));
        options.insert("driver".to_owned(), json!(layer(looked.format)));
        options.insert("node-name".to_owned(), json!(node));
        options.insert("file".to_owned(), Value::Object(with_name(looked.named.file, &file, how)));
        for (name, wanted) in [("check-only", how.check_only), ("salvage", how.salvage)] {
            if wanted && looked.format == "qcow2" {
                options.insert(name.to_owned(), json!(true));
            }
        }
        if let Some(snapshot) = how.snapshot {
            options.insert("snapshot".to_owned(), json!(snapshot));
        }
        if how.alone && looked.format == "qcow2" && !options.contains_key("backing") {
            options.insert("backing".to_owned(), Value::Null);
        }
        let mut events = self.engine.events().subscribe();
        let added = self.engine.add_node(options).await;
        while let Some(event) = events.try_next() {
            match event {
                Event::BackingChanged { error, .. } => {
                    self.listener.warn(&format!("warning: image '{}': {error}\n", source.name));
                }
                Event::ImageRepaired { lines, .. } => {
                    self.listener.warn(&lines.iter().flat_map(|line| [line, "\n"]).collect::<String>());
                }
                _ => {}
            }
        }
        added.map_err(Failure::from)?;
        Image::taken(self, looked.format, node, looked.header, how.demand())
    }

    /// Finds out what an image is: opens the node that it lies on and leaves it open. Nothing that the image names is
    /// touched.
    pub(crate) async fn look(&self, source: Source<'_>, how: How<'_>) -> Result<Looked> {
        let named = naming::named(source.name, source.format, source.image_opts)?;
        if !named.deprecated.is_empty() && self.warned.borrow_mut().insert(source.name.to_owned()) {
            named.deprecated.iter().for_each(|text| self.listener.complain(&format!("warning: {text}")));
        }
        let stated = named.format.as_deref().map(|format| known(format, named.driver())).transpose()?;
        let number = self.opened.replace(self.opened.get() + 1);
        let mut options = with_name(named.file.clone(), &format!("looked-at{number}"), how);
        fill(&mut options, inherited(&named.own));
        fill(&mut options, common(how));
        options.insert("read-only".to_owned(), json!(true));
        let node = self.engine.add_node(options).await;
        let node = node.map_err(|error| Failure::new(words::not_opened(&error, how.writable)))?;
        let (format, recognised) = match stated {
            Some(format) => (format, false),
            None => match foreign::looks(&self.start(&node, LOOKED_AT).await?) {
                Looks::Like(format) => (format, true),
                Looks::Foreign(format) => return Err(foreign::not_yet(format)),
                Looks::Plain => ("raw", true),
            },
        };
        let header = if format == "qcow2" { Some(self.header(&node).await?) } else { None };
        Ok(Looked { named, format, recognised, header, node })
    }

    /// The header of the qcow2 image that lies in a node.
    pub(crate) async fn header(&self, node: &str) -> Result<Header> {
        let prefix = self.start(node, Header::PREFIX).await?;
        if !prefix.starts_with(b"QFI\xfb") {
            return Err(Failure::new("Image is not in qcow2 format"));
        }
        let needed = Header::needed(&prefix)?;
        Ok(Header::parse(&self.start(node, needed).await?)?)
    }

    /// The first `len` bytes of a node, or all where it is shorter.
    async fn start(&self, node: &str, len: usize) -> Result<Vec<u8>> {
        let reader = self.engine.look("look", node)?;
        let range = ByteRange::between(0, reader.size().min(len as u64));
        let bytes = reader.read(range).await.map(|lease| lease.to_vec());
        reader.close().await?;
        Ok(bytes?)
    }
}

/// An object as `--object` describes it: JSON, or keys and values.
fn object_options(text: &str) -> Result<Map<String, Value>> {
    if !text.starts_with('{') {
        return Ok(keyval::parse(text, Some("qom-type"))?);
    }
    match json::parse(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Failure::new("Expecting a JSON object")),
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

/// Says what an identifier is to whoever gave none.
fn with_hint(failure: Failure) -> Failure {
    match failure.text {
        Some(text) if text.ends_with("expects an identifier") => Failure::new(format!(
            "{text}\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter."
        )),
        _ => failure,
    }
}

/// The driver of that name, if it can be opened on what is named: a format, or the protocol itself.
fn known(format: &str, protocol: &str) -> Result<&'static str> {
    if foreign::is_foreign(format) {
        return Err(foreign::not_yet(format));
    }
    let driver = driver::find(format).ok_or_else(|| Failure::new(format!("Unknown driver '{format}'")))?;
    match driver.name {
        "nbd" | "null-co" | "null-aio" if protocol != driver.name => Err(Failure::new(driver.is_no_file())),
        name => Ok(name),
    }
}

/// What a node's options say for the node that it lies on, too.
fn inherited(own: &Map<String, Value>) -> Map<String, Value> {
    let of = |map: &Map<String, Value>, keys: &[&str]| -> Map<String, Value> {
        let given = keys.iter().filter_map(|key| map.get_key_value(*key));
        given.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let mut options = of(own, &["force-share"]);
    if let Some(cache) = own.get("cache").and_then(Value::as_object) {
        options.insert("cache".to_owned(), Value::Object(of(cache, &["direct", "no-flush", "transient"])));
    }
    options
}

/// The driver that opens an image of that format on the node of its protocol.
pub(crate) fn layer(format: &str) -> &str {
    if is_protocol(format) { "raw" } else { format }
}

/// Whether what was given as a format is a protocol.
pub(crate) fn is_protocol(format: &str) -> bool {
    driver::find(format).is_some_and(|driver| driver.kind == driver::Kind::Protocol)
}

/// Options that every node has, unless its own say otherwise.
fn common(how: How<'_>) -> Map<String, Value> {
    let mut options = how.cache.options();
    options.insert("read-only".to_owned(), json!(!how.writable));
    if how.force_share {
        options.insert("force-share".to_owned(), json!(true));
    }
    if how.unmap {
        options.insert("discard".to_owned(), json!("unmap"));
    }
    options
}

/// The protocol node's options with a name of its own.
fn with_name(mut file: Map<String, Value>, name: &str, how: How<'_>) -> Map<String, Value> {
    file.insert("node-name".to_owned(), json!(name));
    if let Some(aio) = how.aio
        && file.get("driver").is_some_and(|driver| driver == "file")
    {
        file.insert("aio".to_owned(), json!(aio));
    }
    file
}
