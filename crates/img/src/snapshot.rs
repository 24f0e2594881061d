//! `snapshot`: lists, makes, applies or deletes internal snapshots.

use block::{BlockError, ErrorKind};

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::{Flag, Given};
use crate::image::Image;
use crate::session::{How, Session, Source};
use crate::snapshot_table;
use crate::verbs::{Call, Verb};
use crate::words;

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "snapshot",
    about: "list, make, apply or delete internal snapshots",
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
    flags::FORCE_SHARE,
    Flag::switch('l', "list", "list them (the default)"),
    Flag::with('c', "create", "SNAPSHOT", "make one"),
    Flag::with('a', "apply", "SNAPSHOT", "go back to one"),
    Flag::with('d', "delete", "SNAPSHOT", "delete one"),
];

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let operations = ["list", "create", "apply", "delete"];
    if given.in_order().filter(|(name, _)| operations.contains(name)).count() > 1 {
        return Err(Failure::misused("Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let name = given.one_operand()?;
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    let changes = ["create", "apply", "delete"].iter().any(|operation| given.has(operation));
    // What is deleted gives its storage back.
    let how = How { writable: changes, unmap: true, force_share: given.has("force-share"), ..How::READ };
    let image = session.open(source, how).await?;
    let done = carry_out(&session, &given, &image).await;
    let closed = image.close().await;
    done.and(closed)?;
    Ok(0)
}

async fn carry_out(session: &Session, given: &Given, image: &Image) -> Result<()> {
    if let Some(name) = given.value("create") {
        let created = session.engine.create_snapshot(&image.node, name, Some(0)).await;
        created.map_err(|e| Failure::new(format!("Could not create snapshot '{name}': {}", cause(&e))))
    } else if let Some(name) = given.value("apply") {
        let applied = session.engine.apply_snapshot(&image.node, name).await;
        applied.map_err(|error| {
            let why = loading(session, &error, image);
            Failure::new(format!("Could not apply snapshot '{name}': {why}"))
        })
    } else if let Some(name) = given.value("delete") {
        delete(session, image, name).await
    } else {
        let found = match session.engine.snapshots(&image.node).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
            found => found?,
        };
        session.listener.say(&snapshot_table::text(&found));
        Ok(())
    }
}

/// Deletes the first one of that name; ids do not count here.
async fn delete(session: &Session, image: &Image, name: &str) -> Result<()> {
    let failed = |why: String| Failure::new(format!("Could not delete snapshot '{name}': {why}"));
    let found = match session.engine.snapshots(&image.node).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
        found => found?,
    };
    let Some(snapshot) = found.iter().find(|snapshot| snapshot.name == name) else {
        return Err(failed("snapshot not found".to_owned()));
    };
    let deleted = session.engine.delete_snapshot(&image.node, &snapshot.id).await;
    deleted.map_err(|error| failed(cause(&error)))
}

/// Why a snapshot cannot be gone back to. What is wrong with its table has a line of its own.
fn loading(session: &Session, error: &BlockError, image: &Image) -> String {
    if let Some((lie, why)) = snapshot_table::lying(&error.to_string()) {
        session.listener.complain(lie);
        return format!("Failed to load snapshot: {why}");
    }
    match error.kind() {
        ErrorKind::Unsupported if image.format != "qcow2" => {
            "Block driver does not support snapshots".to_owned()
        }
        ErrorKind::Busy => "Device has active dirty bitmaps".to_owned(),
        _ => format!("Failed to load snapshot: {}", cause(error)),
    }
}

fn cause(error: &BlockError) -> String {
    match error.kind() {
        ErrorKind::Unsupported => "Operation not supported".to_owned(),
        ErrorKind::NotFound => "No such file or directory".to_owned(),
        _ => match snapshot_table::lying(&error.to_string()) {
            Some((lie, _)) => lie.to_owned(),
            None => words::cause(error),
        },
    }
}
