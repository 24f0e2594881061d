//! What people and scripts tell the daemon.

use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use serde_json::{Value, json};

use super::args::{CloneArgs, ListArgs, ModeArg, PivotArgs, RemoveArgs, WatchArgs};
use super::client::Client;
use super::places::{Places, absolute};
use super::show;
use crate::output;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// `millpond clone`.
pub(crate) fn clone(args: CloneArgs) -> Result<()> {
    let places = args.which.places()?;
    let source = match args.source.contains("://") {
        true => args.source.clone(),
        false => text(&absolute(Path::new(&args.source))?)?,
    };
    let overlay = text(&absolute(&args.overlay)?)?;
    let mut daemon = daemon_or_new(&places)?;
    let mode = match args.mode {
        ModeArg::Complete => "complete",
        ModeArg::WorkingSet => "working-set",
    };
    let mut request = json!({ "source": source, "overlay": overlay, "force": args.force, "mode": mode });
    if let Some(size) = args.size {
        request["size"] = json!(size);
    }
    if let Some(quota) = args.quota {
        request["quota"] = json!(quota);
    }
    if let Some(owner) = args.owner {
        request["owner"] = json!({ "user": owner.user, "group": owner.group });
    }
    let made = daemon.execute("clone-create", request)?;
    if args.json {
        output::line(format_args!("{made:#}"));
        return Ok(());
    }
    let size = show::size(show::number(&made, "size"));
    output::line(format_args!("'{overlay}' is a disk of {size}, a clone of {source}"));
    output::line(format_args!("use it: qemu-system-x86_64 ... -drive file={overlay},if=virtio"));
    output::line(format_args!(
        "when 'millpond list' says complete and the VM is off: millpond pivot {overlay}"
    ));
    Ok(())
}

/// `millpond list`.
pub(crate) fn list(args: ListArgs) -> Result<()> {
    let mut daemon = running(&args.which.places()?)?;
    let (images, clones) = (all(&mut daemon, "query-images")?, all(&mut daemon, "query-clones")?);
    match args.json {
        true => output::line(format_args!("{:#}", json!({ "images": images, "clones": clones }))),
        false => drop(output::print(show::tables(&images, &clones))),
    }
    Ok(())
}

/// `millpond watch`.
pub(crate) fn watch(args: WatchArgs) -> Result<()> {
    let mut daemon = running(&args.which.places()?)?;
    let terminal = std::io::stdout().is_terminal();
    let (mut before, mut height) = (String::new(), 0);
    loop {
        let (images, clones) = (all(&mut daemon, "query-images")?, all(&mut daemon, "query-clones")?);
        let now = show::tables(&images, &clones);
        if now != before {
            if terminal && height > 0 {
                output::print(format_args!("\x1b[{height}A\x1b[J"));
            }
            if !output::print(&now) {
                return Ok(());
            }
            height = now.lines().count();
            before = now;
        }
        if args.until_complete && images.iter().all(|image| image["state"] == "complete") {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// `millpond pivot`.
pub(crate) fn pivot(args: PivotArgs) -> Result<()> {
    let mut daemon = running(&args.which.places()?)?;
    for overlay in &args.overlays {
        let overlay = text(&absolute(overlay)?)?;
        daemon.execute("clone-pivot", json!({ "overlay": overlay }))?;
        output::line(format_args!("'{overlay}' needs no daemon from now on"));
    }
    Ok(())
}

/// `millpond remove`.
pub(crate) fn remove(args: RemoveArgs) -> Result<()> {
    let mut daemon = running(&args.which.places()?)?;
    for image in &args.images {
        daemon.execute("image-remove", json!({ "image": image }))?;
        output::line(format_args!("image '{image}' and its cache are gone"));
    }
    Ok(())
}

fn all(daemon: &mut Client, command: &str) -> Result<Vec<Value>> {
    match daemon.execute(command, json!({}))? {
        Value::Array(all) => Ok(all),
        _ => Ok(Vec::new()),
    }
}

fn running(places: &Places) -> Result<Client> {
    Client::connect(&places.control())?.ok_or_else(|| {
        let context =
            format!("no daemon runs for pond '{}': start one with 'millpond up'", places.pond.display());
        BlockError::new(ErrorKind::NotFound, context)
    })
}

/// The daemon that runs, or one that is started in the background.
fn daemon_or_new(places: &Places) -> Result<Client> {
    if let Some(client) = Client::connect(&places.control())? {
        return Ok(client);
    }
    let failed = |e| BlockError::system("cannot start a daemon in the background: run 'millpond up'", e);
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("up").arg("--fork").arg("--pond").arg(&places.pond).arg("--runtime").arg(&places.runtime);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().map_err(failed)?;
    if !status.success() {
        let context =
            "the daemon that was to run in the background did not come up: run 'millpond up' to see more";
        return Err(BlockError::new(ErrorKind::Io, context));
    }
    let pond = places.pond.display();
    output::tell_line(format_args!(
        "no daemon was running for pond '{pond}': one runs in the background now"
    ));
    running(places)
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let context = format!("the path '{}' is not UTF-8", path.display());
        BlockError::new(ErrorKind::Invalid, context)
    })
}
