//! `check`: looks for errors in an image's own tables, and mends them with `-r`.
//!
//! Exit status 0: none (left), 1: it could not be checked, 2: errors, 3: leaks only, 63: the format has no tables.

use block::ErrorKind;
use flow::{CheckReport, Repair};
use serde_json::{Map, Value};

use crate::cache::Cache;
use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::image::Image;
use crate::json as printed;
use crate::session::{How, Session, Source};
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "check",
    about: "look for errors in an image's own tables",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    Flag::with('r', "repair", "leaks|all", "mend what is found"),
    flags::OUTPUT,
    flags::READ_CACHE,
    flags::FORCE_SHARE,
    flags::QUIET,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

const FAILED: u8 = 1;
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NO_TABLES: u8 = 63;

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let json = given.json()?;
    let repair = match given.value("repair") {
        None => Repair::Nothing,
        Some("leaks") => Repair::Leaks,
        Some("all") => Repair::All,
        Some(other) => {
            let text = format!("--repair (-r) expects 'leaks' or 'all' not '{other}'");
            return Err(Failure::misused(text));
        }
    };
    let name = given.one_operand()?;
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    let cache = Cache::named(given.value("cache"), "source cache", Cache::WRITEBACK)?;
    let writable = repair != Repair::Nothing;
    let force_share = given.has("force-share");
    let how = How { writable, cache, force_share, alone: true, check_only: true, ..How::READ };
    let image = session.open(source, how).await?;
    let quiet = given.has("quiet");
    let (first, last) = checked(&session, &image, repair, quiet || json).await?;
    let format = image.format;
    image.close().await?;
    if !quiet {
        session.listener.say(&match json {
            true => printed::pretty(&Value::Object(members(&first, &last, name, format))),
            false => text(&last),
        });
    }
    Ok(match last {
        CheckReport { errors: 1.., .. } => FAILED,
        CheckReport { corruptions: 1.., .. } => CORRUPT,
        CheckReport { leaks: 1.., .. } => LEAKS,
        _ => 0,
    })
}

/// What was found and mended, and what is left.
async fn checked(
    session: &Session,
    image: &Image,
    repair: Repair,
    quiet: bool,
) -> Result<(CheckReport, CheckReport)> {
    let first = one(session, image, repair).await?;
    if first.corruptions_fixed + first.leaks_fixed == 0 {
        return Ok((first, first));
    }
    if !quiet {
        session.listener.say(&format!(
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\nDouble checking the fixed image now...\n",
            first.leaks_fixed, first.corruptions_fixed
        ));
    }
    Ok((first, one(session, image, Repair::Nothing).await?))
}

async fn one(session: &Session, image: &Image, repair: Repair) -> Result<CheckReport> {
    let mut tell = |line: &str| session.listener.warn(&format!("{line}\n"));
    let error = match session.engine.check(&image.node, repair, &mut tell).await {
        Ok(report) => return Ok(report),
        Err(error) => error,
    };
    if let Some(line) = words::oversized_snapshots(&error) {
        session.listener.complain(&line);
        return Err(Failure::new("Check failed: File too large"));
    }
    Err(match error.kind() {
        ErrorKind::Unsupported => {
            Failure::new("This image format does not support checks").with_status(NO_TABLES)
        }
        _ => Failure::new(format!("Check failed: {}", words::cause(&error))),
    })
}

fn text(report: &CheckReport) -> String {
    let mut text = String::new();
    if report.corruptions + report.leaks + report.errors == 0 {
        text.push_str("No errors were found on the image.\n");
    }
    let parts = [
        (
            report.corruptions,
            "errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
        ),
        (
            report.leaks,
            "leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.",
        ),
        (report.errors, "internal errors have occurred during the check."),
    ];
    for (count, what) in parts.iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("\n{count} {what}\n"));
    }
    if report.total > 0 && report.allocated > 0 {
        let percent = |part: u64, of: u64| part as f64 * 100.0 / of as f64;
        text.push_str(&format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            report.allocated,
            report.total,
            percent(report.allocated, report.total),
            percent(report.fragmented, report.allocated),
            percent(report.compressed, report.allocated),
        ));
    }
    if report.image_end > 0 {
        text.push_str(&format!("Image end offset: {}\n", report.image_end));
    }
    text
}

/// In QEMU's order; what is none is left out, but for errors of the check.
fn members(first: &CheckReport, last: &CheckReport, name: &str, format: &str) -> Map<String, Value> {
    let some = |count: u64| (count > 0).then(|| Value::from(count));
    let members = [
        ("image-end-offset", some(last.image_end)),
        ("compressed-clusters", some(last.compressed)),
        ("total-clusters", some(last.total)),
        ("corruptions-fixed", some(first.corruptions_fixed)),
        ("corruptions", some(last.corruptions)),
        ("check-errors", Some(Value::from(last.errors))),
        ("leaks-fixed", some(first.leaks_fixed)),
        ("leaks", some(last.leaks)),
        ("allocated-clusters", some(last.allocated)),
        ("filename", Some(Value::from(name))),
        ("format", Some(Value::from(format))),
        ("fragmented-clusters", some(last.fragmented)),
    ];
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
