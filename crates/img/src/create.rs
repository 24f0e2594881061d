//! `create`: a new image.

use driver::numbers::{self, NoNumber};

use crate::failure::{Failure, Result};
use crate::flags;
use crate::foreign;
use crate::given::{Flag, Given};
use crate::naming;
use crate::new_image::{NewImage, Then};
use crate::numbers::SIZE_MAX;
use crate::option_list;
use crate::session::{How, Session, Source};
use crate::settings::Settings;
use crate::verbs::{Call, Verb};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "create",
    about: "make a new image",
    operands: "FILENAME [SIZE]",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    Flag::with('f', "format", "FMT", "format of the new image (raw)"),
    Flag::with('o', "options", "FMT_OPTS", "options of the format; -o help lists them"),
    Flag::with('b', "backing", "BACKING_FILENAME", "make it an overlay on this image"),
    Flag::with('F', "backing-format", "BACKING_FMT", "format of the backing image"),
    Flag::switch('u', "backing-unsafe", "do not open the backing image"),
    flags::QUIET,
    flags::OBJECT,
];

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let format = given.value("format").unwrap_or("raw");
    if given.lists("options")?.into_iter().any(option_list::asks_for_help) {
        let text = option_list::shown(format, !given.operands.is_empty())?;
        session.listener.say(&text);
        return Ok(0);
    }
    let (name, size) = match &given.operands[..] {
        [] => return Err(Failure::misused("Expecting image file name")),
        [name] => (name, None),
        [name, size, ..] => (name, Some(size_of(size)?)),
    };
    if let Some(extra) = given.operands.get(2) {
        return Err(Failure::misused(format!("Unexpected argument: {extra}")));
    }
    let made = create(&session, &given, format, name, size).await;
    made.map_err(|failure| Failure::new(format!("{name}: {}", failure.text.unwrap_or_default())))?;
    session.made.keep();
    Ok(0)
}

fn size_of(text: &str) -> Result<u64> {
    match numbers::size(text) {
        Ok(size) if size <= SIZE_MAX => Ok(size),
        Err(NoNumber::Malformed) => Err(Failure::new(format!("Invalid image size specified: '{text}'."))),
        _ => Err(Failure::new(format!("Invalid image size specified. Must be between 0 and {SIZE_MAX}."))),
    }
}

async fn create(session: &Session, given: &Given, format: &str, name: &str, size: Option<u64>) -> Result<()> {
    let mut settings = Settings::new(option_list::on_file(format)?);
    naming::protocol_of_new(name)?;
    for text in given.values("options") {
        settings.parse(text)?;
    }
    settings.set_backing(format, given.value("backing"), given.value("backing-format"))?;
    if let Some(size) = size {
        if settings.number("size").is_some() {
            return Err(Failure::new("The image size must be specified only once"));
        }
        settings.set("size", &size.to_string())?;
    }
    backing(session, given, name, &mut settings).await?;
    if settings.number("size").is_none() {
        return Err(Failure::new("Image creation needs a size parameter"));
    }
    if !given.has("quiet") {
        session.listener.say(&format!("Formatting '{name}', fmt={format}{}\n", settings.shown()));
    }
    let made = NewImage::new(format, &settings)?.create(session, name, Then::Nothing).await;
    made.map(|_| ()).map_err(|failure| too_large(format, failure))
}

/// A file that cannot be as long as the image has to be, in qemu-img's words.
fn too_large(format: &str, failure: Failure) -> Failure {
    if failure.text.as_deref().is_some_and(|text| text.ends_with(": File too large")) {
        let hint = if format == "qcow2" { " (try using a larger cluster size)" } else { "" };
        return Failure::new(format!("The image size is too large for file format '{format}'{hint}"));
    }
    failure
}

/// Looks at the backing image, for its size and whether it can be opened.
async fn backing(session: &Session, given: &Given, name: &str, settings: &mut Settings) -> Result<()> {
    let Some(backing) = settings.text("backing_file").map(str::to_owned) else { return Ok(()) };
    if backing.is_empty() {
        return Err(Failure::new("Expected backing file name, got empty string"));
    }
    if backing == name {
        let text = "Error: Trying to create an image with the same filename as the backing file";
        return Err(Failure::new(text));
    }
    let Some(format) = settings.text("backing_fmt").map(str::to_owned) else {
        return Err(no_format(session, &backing, name, given.has("backing-unsafe")).await);
    };
    if given.has("backing-unsafe") {
        return if foreign::is_foreign(&format) || driver::find(&format).is_some() {
            Ok(())
        } else {
            Err(Failure::new(format!("Unknown backing file format '{format}'")))
        };
    }
    let full = qcow2::full_name(&backing, name);
    let source = Source { name: &full, format: Some(&format), image_opts: false };
    // As it is used by others: nothing is read but its size.
    let how = How { force_share: true, ..How::READ };
    let opened = session.open_plainly(source, how).await;
    let image = opened.map_err(|failure| {
        Failure::new(format!("{}\nCould not open backing image.", failure.text.unwrap_or_default()))
    })?;
    if settings.number("size").is_none() {
        settings.set("size", &image.size_in_sectors()?.to_string())?;
    }
    image.close().await
}

/// A backing image needs a format that was said; what it looks like is told, and not used.
async fn no_format(session: &Session, backing: &str, name: &str, unopened: bool) -> Failure {
    const TEXT: &str = "Backing file specified without backing format";
    if unopened {
        return Failure::new(TEXT);
    }
    let full = qcow2::full_name(backing, name);
    let source = Source { name: &full, format: None, image_opts: false };
    match session.look(source, How { force_share: true, ..How::READ }).await {
        Ok(looked) => Failure::new(format!("{TEXT}\nDetected format of {}.", looked.format)),
        Err(failure) => {
            Failure::new(format!("{}\nCould not open backing image.", failure.text.unwrap_or_default()))
        }
    }
}
