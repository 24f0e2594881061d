//! Where `convert` writes to: a new image, or one that is there.

use flow::copy::Over;

use crate::failure::{Failure, Result};
use crate::image::Image;
use crate::new_image::{NewImage, Then};
use crate::option_list;
use crate::session::{How, Session, Source};
use crate::settings::Settings;

use super::options::Options;

/// An open target.
pub(super) struct Target {
    pub(super) image: Image,
    /// Whether all of it reads as zeros before anything is written.
    pub(super) reads_zero: bool,
    /// How it comes to have what lies below the source.
    pub(super) over: Option<Over>,
}

impl Target {
    /// Makes the target unless it is there, and opens it.
    pub(super) async fn prepare(session: &Session, options: &Options<'_>, sources: &[Image]) -> Result<Self> {
        if sources.len() > 1 && backing(options) {
            return Err(Failure::new(
                "Having a backing file for the target makes no sense when concatenating multiple input images",
            ));
        }
        let (mut size, mut needed) = (0, 0);
        for source in sources {
            needed = size + source.size()?;
            size += source.size_in_sectors()?;
        }
        let zero = match options.no_create {
            true => options.target_is_zero,
            false => make(session, options, size).await?,
        };
        let is_named = options.names_format || !options.target_image_opts;
        let format = is_named.then_some(options.target_format);
        let source = Source { name: options.target, format, image_opts: options.target_image_opts };
        let how = How { cache: options.target_cache, unmap: true, ..How::WRITE };
        let image = session.open(source, how).await?;
        if options.compress && image.header.is_none() {
            return Err(Failure::new("Compression not supported for this file format"));
        }
        // What fills up the last sector needs no room.
        if image.size()? < needed {
            return Err(Failure::new("output file is smaller than input file"));
        }
        let over = match (backing(options), options.no_create) {
            (false, _) => None,
            (true, true) => Some(Over::Used),
            (true, false) => Some(Over::Backing(session.engine.backing_size(&image.node)?)),
        };
        Ok(Self { reads_zero: zero && over.is_none(), image, over })
    }

    /// Closes it, once all is in its file.
    pub(super) async fn finish(self, session: &Session) -> Result<()> {
        session.engine.flush(&self.image.node).await?;
        self.image.close().await
    }
}

fn backing(options: &Options<'_>) -> bool {
    let set = |text: &&str| text.split(',').any(|item| item.starts_with("backing_file="));
    options.backing.is_some() || options.settings.iter().any(set)
}

/// Makes the target; answers whether it reads as zeros.
async fn make(session: &Session, options: &Options<'_>, size: u64) -> Result<bool> {
    let format = options.target_format;
    let mut settings = Settings::new(option_list::on_file(format)?);
    for text in &options.settings {
        settings.parse(text)?;
    }
    settings.set_backing(format, options.backing, options.backing_format)?;
    if settings.text("backing_file").is_some() && settings.text("backing_fmt").is_none() {
        return Err(Failure::new("Use of backing file requires explicit backing format"));
    }
    if options.compress && format == "raw" {
        return Err(Failure::new("Compression not supported for this file format"));
    }
    if options.compress && settings.text("data_file").is_some() {
        let text = "images with an external data file hold nothing compressed: leave out -c or data_file";
        return Err(Failure::new(text));
    }
    if options.compress && settings.text("preallocation").is_some_and(|mode| mode != "off") {
        return Err(Failure::new("Compression and preallocation not supported at the same time"));
    }
    // Of the sources, whatever was asked for.
    settings.set("size", &size.to_string())?;
    let told = |failure: Failure| {
        let why = failure.text.unwrap_or_default();
        Failure::new(format!("{}: error while converting {format}: {why}", options.target))
    };
    NewImage::new(format, &settings)
        .map_err(told)?
        .create(session, options.target, Then::Data)
        .await
        .map_err(told)
}
