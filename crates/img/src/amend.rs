//! `amend`: makes an image that is there one of another kind.
//!
//! Invariant: all that can be known to be wrong is found before anything is changed; then each change is whole by
//! itself, so that whenever it ends the image reads as before.

use block::{BlockError, ByteRange};
use flow::{Amendment, Holds, Layers, Op, Request, seam};
use graph::Demand;
use io::Lease;
use qcow2::{Header, Version};

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::image::{Image, SECTOR};
use crate::option_list::{self, QUOTA};
use crate::session::{How, Session, Source};
use crate::settings::Settings;
use crate::snapshot_table;
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "amend",
    about: "change options of an image",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    flags::IMAGE_OPTS,
    flags::OBJECT,
    flags::QUIET,
    flags::PROGRESS,
    flags::CACHE,
    Flag::with('o', "options", "OPTIONS", "what shall be different; -o help lists it"),
    Flag::long("force", "allow what is not safe"),
];

/// Bytes that are written at a time where zeros become data.
const CHUNK: u64 = 1 << 20;

/// One thing that is done.
enum Step {
    /// While nobody uses the image.
    Offline(Amendment),
    /// Another size.
    Resize(u64),
    /// Zeros become data, since version 2 cannot say that there are some over a backing image.
    WriteZeros,
}

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    if !given.has("options") {
        return Err(Failure::misused("Must specify options (-o)"));
    }
    let lists = given.lists("options")?;
    let asks = lists.iter().any(|text| option_list::asks_for_help(text));
    if let (true, Some(format)) = (asks, given.value("format")) {
        session.listener.say(&option_list::amendable_shown(format)?);
        return Ok(0);
    }
    let [name] = &given.operands[..] else { return Err(Failure::new("Expecting one image file name")) };
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    let cache = Cache::named(given.value("cache"), "cache", Cache::WRITEBACK)?;
    session.listener.begin_progress();
    let how = How { cache, ..How::WRITE };
    // With all that it names, as it will be used.
    let image = session.open(source, how).await?;
    let (format, header) = (image.format, image.header.clone());
    image.close().await?;
    if asks {
        session.listener.say(&option_list::amendable_shown(format)?);
        return Ok(0);
    }
    let mut settings = Settings::new(option_list::amendable(format)?);
    for text in lists {
        settings.parse(text).map_err(|failure| of_new_images(format, failure))?;
    }
    let header = header.ok_or_else(|| Failure::new("Image is not in qcow2 format"))?;
    let steps = steps(&settings, &header)?;
    session.listener.progress(0.0);
    let total = steps.len();
    for (done, step) in steps.into_iter().enumerate() {
        carry_out(&session, source, how, step?).await?;
        session.listener.progress((done + 1) as f32 * 100.0 / total as f32);
    }
    session.listener.progress(100.0);
    Ok(0)
}

/// Says it where only new images can be made with a setting.
fn of_new_images(format: &str, failure: Failure) -> Failure {
    let text = failure.text.clone().unwrap_or_default();
    let name = text.strip_prefix("Invalid parameter '").and_then(|rest| rest.strip_suffix('\''));
    match name.is_some_and(|name| option_list::is_of_new(format, name)) {
        true => Failure::new(format!("{text}\nThis option is only supported for image creation")),
        false => failure,
    }
}

/// What is to be done, in order, up to what cannot be. A failure of its own: nothing is.
fn steps(settings: &Settings, header: &Header) -> Result<Vec<Result<Step>>> {
    let wanted = Wanted::new(settings, header)?;
    let mut steps = Vec::new();
    let is_new = wanted.version == Version::V3;
    if is_new && header.version == Version::V2 {
        steps.push(Ok(Step::Offline(Amendment::Version(3))));
    }
    steps.extend(refcount_bits(&wanted, header));
    if wanted.is_not_raw {
        steps.push(Ok(Step::Offline(Amendment::NotRaw)));
    }
    if let Some(name) = settings.text("data_file") {
        let name = (!name.is_empty()).then(|| name.to_owned());
        steps.push(Ok(Step::Offline(Amendment::DataFile(name))));
    }
    if is_another_backing(settings, header) {
        steps.push(refused("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead."));
    }
    steps.extend(lazy_refcounts(&wanted, header));
    if let Some(quota) = settings.number(QUOTA) {
        steps.push(Ok(Step::Offline(Amendment::Quota((quota > 0).then_some(quota)))));
    }
    if let Some(size) = settings.number("size").filter(|size| *size > 0) {
        steps.push(match size.is_multiple_of(SECTOR) {
            true => Ok(Step::Resize(size)),
            false => refused("The new size must be a multiple of 512"),
        });
    }
    if !is_new && header.version == Version::V3 {
        if header.backing.is_some() {
            steps.push(Ok(Step::WriteZeros));
        }
        steps.push(Ok(Step::Offline(Amendment::Version(2))));
    }
    Ok(steps)
}

fn refcount_bits(wanted: &Wanted, header: &Header) -> Option<Result<Step>> {
    let bits = wanted.refcount_bits;
    if bits == header.refcount_table.bits {
        return None;
    }
    // On the way to version 2, too, there is version 3 until the end.
    let is_possible = wanted.version == Version::V3 || header.version == Version::V3 && bits == 16;
    Some(match is_possible {
        true => Ok(Step::Offline(Amendment::RefcountBits(bits))),
        false => refused(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
        ),
    })
}

fn lazy_refcounts(wanted: &Wanted, header: &Header) -> Option<Result<Step>> {
    let lazy = wanted.lazy_refcounts.filter(|lazy| *lazy != header.features.lazy_refcounts())?;
    Some(match lazy && wanted.version == Version::V2 {
        true => refused(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
        ),
        false => Ok(Step::Offline(Amendment::LazyRefcounts(lazy))),
    })
}

fn refused(why: &str) -> Result<Step> {
    Err(Failure::new(why))
}

/// What the settings come to, checked by themselves.
struct Wanted {
    version: Version,
    refcount_bits: u32,
    lazy_refcounts: Option<bool>,
    is_not_raw: bool,
}

impl Wanted {
    fn new(settings: &Settings, header: &Header) -> Result<Self> {
        let encryption = [
            "encrypt.state",
            "encrypt.keyslot",
            "encrypt.old-secret",
            "encrypt.new-secret",
            "encrypt.iter-time",
        ];
        if settings.any_of(&encryption).is_some() {
            return Err(Failure::new("Can't amend encryption options - encryption not present"));
        }
        let version = match settings.text("compat") {
            None => header.version,
            Some("0.10" | "v2") => Version::V2,
            Some("1.1" | "v3") => Version::V3,
            Some(other) => return Err(Failure::new(format!("Unknown compatibility level {other}"))),
        };
        let raw = header.data_file.as_ref().is_some_and(|data| data.raw);
        if settings.text("data_file").is_some() && header.data_file.is_none() {
            return Err(Failure::new("data-file can only be set for images that use an external data file"));
        }
        if settings.is_on("data_file_raw") && !raw {
            return Err(Failure::new("data-file-raw cannot be set on existing images"));
        }
        let bits = settings.number("refcount_bits").unwrap_or(header.refcount_table.bits.into());
        if !bits.is_power_of_two() || bits > 64 {
            let text = "Refcount width must be a power of two and may not exceed 64 bits";
            return Err(Failure::new(text));
        }
        let given = |name| settings.any_of(&[name]).is_some();
        Ok(Self {
            version,
            // At most 64.
            refcount_bits: bits as u32,
            lazy_refcounts: given("lazy_refcounts").then(|| settings.is_on("lazy_refcounts")),
            is_not_raw: raw && given("data_file_raw") && !settings.is_on("data_file_raw"),
        })
    }
}

/// Whether another backing image is asked for than the one that there is, name and format.
fn is_another_backing(settings: &Settings, header: &Header) -> bool {
    let wanted = (settings.text("backing_file"), settings.text("backing_fmt"));
    let backing = header.backing.as_ref();
    let is = (backing.map(|b| b.name.as_str()), backing.and_then(|b| b.format.as_deref()));
    (wanted.0.is_some() || wanted.1.is_some()) && wanted != is
}

async fn carry_out(session: &Session, source: Source<'_>, how: How<'_>, step: Step) -> Result<()> {
    let offline = matches!(step, Step::Offline(_));
    let how = How { alone: offline, check_only: offline, ..how };
    let image = session.open(source, how).await?;
    match step {
        Step::Offline(change) => {
            let amended = session.engine.amend(&image.node, &change).await;
            amended.map_err(|error| explained(session, error))?;
        }
        Step::Resize(size) => session.engine.resize(&image.node, size).await?,
        Step::WriteZeros => write_zeros(&image).await?,
    }
    session.engine.flush(&image.node).await?;
    image.close().await
}

/// Why an image cannot be amended. What is wrong with the table of a snapshot, which is looked at on the way to
/// version 2, has a line of its own.
fn explained(session: &Session, error: BlockError) -> Failure {
    match snapshot_table::lying(&error.to_string()) {
        Some((lie, why)) => {
            session.listener.complain(lie);
            Failure::new(format!("Failed to turn zero into data clusters: {why}"))
        }
        None => error.into(),
    }
}

/// Writes zeros as data where the image itself says that there are some.
async fn write_zeros(image: &Image) -> Result<()> {
    let user = image.attach(Demand::CHANGE)?;
    let view = user.root.view();
    let (mut rest, mut layers) = (ByteRange::between(0, image.size()?), Layers::default());
    while !rest.is_empty() {
        let layer = seam::layer(&view, &mut layers, rest).await?;
        let run = rest.head(layer.len);
        if layer.depth > 0 || layer.holds != Holds::Zeroes {
            rest = rest.skip(run.len());
            continue;
        }
        let piece = run.head(CHUNK);
        let zeros = Lease::zeroed(piece.len() as usize);
        let (written, _) = seam::execute(&view, Request::new(Op::Write, piece), zeros).await;
        written.map_err(|error| {
            Failure::new(format!("Failed to turn zero into data clusters: {}", words::cause(&error)))
        })?;
        rest = rest.skip(piece.len());
    }
    drop(view);
    user.end().await
}
