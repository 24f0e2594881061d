//! How the server ends: what has begun is carried out, what waits is called off, and nobody waits for ever.
//!
//! | told to end | what happens |
//! |---|---|
//! | once | no new requests; what a filter holds back goes on, what waits for a lost source fails |
//! | once more, or [`GRACE`] later | the process ends, saying what was still under way |
//!
//! Invariant: what was acknowledged as flushed is on disk already, however it ends.

use std::process;
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use engine::{Engine, NbdServer};
use io::real::process::Signals;
use io::select::{Either, race};

use super::EXPORT;
use super::args::Args;

/// How long requests may take that cannot be called off: those that a disk or a server was given.
const GRACE: Duration = Duration::from_secs(5);

/// Takes the export away. Ends the process itself where that takes too long.
pub(super) async fn end(
    engine: &Engine,
    server: &NbdServer,
    signals: &mut Signals,
    args: &Args,
) -> Result<()> {
    let export = server.export(EXPORT);
    let node = engine.exports().into_iter().find(|export| export.id == EXPORT).map(|export| export.node);
    let too_long = async {
        // The export closes first: those whose requests are called off send no more.
        engine.call_off();
        if args.verbose {
            eprintln!("ending");
        }
        match race(signals.next(), io::sleep(GRACE)).await {
            Either::First(_) => "told to end once more".to_owned(),
            Either::Second(()) => format!("waited {} s to end", GRACE.as_secs()),
        }
    };
    let removed = async {
        server.remove(EXPORT).await?;
        match node {
            // What was written and not flushed may be lost; whoever reads our status shall know.
            Some(node) if !engine.is_read_only(&node)? => engine.flush(&node).await,
            _ => Ok(()),
        }
    };
    match race(removed, too_long).await {
        Either::First(removed) => removed,
        Either::Second(why) => {
            let (waiting, clients) = export.map_or((0, 0), |export| (export.waiting(), export.clients()));
            let image = args.file.as_deref().unwrap_or_default();
            let context = format!(
                "'{image}': {why} while {waiting} requests of {clients} clients were still under way: they were \
                 given up, see what its storage or its server is doing"
            );
            crate::complain(&BlockError::new(ErrorKind::Cancelled, context));
            // What hangs would hang whoever waits for its thread.
            process::exit(1)
        }
    }
}
