//! `info`: what an image is. It reads the image's own tables and opens nothing that the image names, but for
//! `--backing-chain`.

mod about;
mod look;
mod shown;

use std::collections::HashSet;

use engine::{NodeOptions, StoredBacking, Wording};
use qcow2::Header;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::json::Part;
use crate::session::{How, Looked, Session, Source, layer};
use crate::verbs::{Call, Verb};
use crate::{chain, json as printed};
use about::About;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "info",
    about: "show what an image is",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    Flag::switch('b', "backing-chain", "and all images below it"),
    flags::FORCE_SHARE,
    flags::OUTPUT,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let json = given.json()?;
    let name = given.one_operand()?;
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    let how = How { force_share: given.has("force-share"), alone: true, ..How::READ };
    let whole = given.has("backing-chain");
    let found = match whole {
        true => all_below(&session, source, how).await?,
        false => vec![one(&session, source, how).await?.0],
    };
    let text = match (json, whole) {
        (true, true) => printed::pretty_parts(Part::List(found.iter().map(About::json).collect())),
        (true, false) => printed::pretty_parts(found[0].json()),
        (false, _) => found.iter().map(About::text).collect::<Vec<_>>().join("\n"),
    };
    session.listener.say(&text);
    Ok(0)
}

/// The image and all that lie below it.
async fn all_below(session: &Session, source: Source<'_>, how: How<'_>) -> Result<Vec<About>> {
    let mut found: Vec<About> = Vec::new();
    let mut asked = HashSet::new();
    let mut next = Some((source.name.to_owned(), source.format.map(str::to_owned), source.image_opts));
    while let Some((name, format, image_opts)) = next.take() {
        // By what was asked for, not by what it led to: other names may lead to the same file.
        if !asked.insert(name.clone()) {
            return Err(Failure::new(format!("Backing file '{name}' creates an infinite loop.")));
        }
        let source = Source { name: &name, format: format.as_deref(), image_opts };
        let (about, recognised) = one(session, source, how).await?;
        if let Some(header) = recognised {
            chain::stands_alone(&header, &Map::new()).map_err(|failure| failure.opening(&name))?;
        }
        if let Some(StoredBacking { full, format, .. }) = &about.facts.backing {
            let format = format.clone().ok_or_else(|| chain::no_format(&name, full))?;
            next = Some((full.clone(), Some(format), false));
        }
        found.push(about);
    }
    Ok(found)
}

/// One image, and its header where its format was recognised.
async fn one(session: &Session, source: Source<'_>, how: How<'_>) -> Result<(About, Option<Header>)> {
    source.agrees_with(how)?;
    let looked = session.look(source, how).await.map_err(|failure| failure.opening(source.name))?;
    let recognised = looked.header.clone().filter(|_| looked.recognised);
    let found = async {
        let options = checked(session, &looked, how.force_share)?;
        look::at(session, source, looked, options).await
    };
    Ok((found.await.map_err(|failure| failure.opening(source.name))?, recognised))
}

/// The options of the format; fails where it could not be opened with those that it is given.
fn checked(session: &Session, looked: &Looked, unlocked: bool) -> Result<NodeOptions> {
    let format = layer(looked.format);
    let mut options = looked.named.own.clone();
    options.insert("driver".to_owned(), json!(format));
    options.insert("file".to_owned(), Value::Object(looked.named.file.clone()));
    let backing = options.remove("backing").filter(|backing| !backing.is_null());
    if let (Some(backing), Some(driver)) = (backing, driver::find(format)) {
        // What is below is not opened: to the format, it is no option of its own.
        driver.check(&Map::from_iter([("backing".to_owned(), backing)]), Wording::Opts)?;
    }
    options.remove("data-file");
    let options = session.engine.options(options)?;
    match options.read_only == Some(false) && (unlocked || options.force_share == Some(true)) {
        true => Err(Failure::new("force-share=on can only be used with read-only images")),
        false => Ok(options),
    }
}
