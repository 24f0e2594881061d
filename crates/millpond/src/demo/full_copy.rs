//! The alternative: copy the whole image first, then start. Over the same link, and as fast as it goes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block::{BlockError, Result};
use engine::Engine;
use serde_json::json;

use super::link::Shape;
use super::live::Live;
use super::source::Source;
use super::sweep::{pieces, sweep};

/// Longer copies are not made but computed.
const MEASURED_MAX: Duration = Duration::from_secs(15);
const PIECE: u64 = 512 << 10;
/// 32 MiB in flight: more than any line of the demo holds.
const DEPTH: usize = 64;

/// What the full copy takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct FullCopy {
    pub(super) took: Duration,
    /// Whether it was made, or computed from bytes and rate.
    pub(super) measured: bool,
}

/// Copies the data of `source` from `export` at the end of the link at `socket` to a file, or computes how long that
/// takes.
pub(super) async fn full_copy(
    engine: &Arc<Engine>,
    source: &Source,
    shape: Shape,
    (socket, export): (&Path, &str),
    to: &Path,
    live: &Live,
) -> Result<FullCopy> {
    let computed = Duration::from_secs_f64(source.allocated() as f64 / shape.rate as f64) + shape.round_trip;
    if computed > MEASURED_MAX {
        return Ok(FullCopy { took: computed, measured: false });
    }
    let failed = |e| BlockError::system(format!("cannot write '{}'", to.display()), e);
    let began = Instant::now();
    let options = json!({
        "driver": "nbd", "node-name": "full-copy", "read-only": true, "export": export,
        "server": { "type": "unix", "path": socket },
    });
    let node = engine.add_node(options.as_object().cloned().unwrap_or_default()).await?;
    let reader = Rc::new(engine.reader(&node, &node)?);
    let file = File::create_new(to).map_err(failed)?;
    file.set_len(source.size).map_err(failed)?;
    let (mut done, allocated) = (0, source.allocated().max(1));
    let all = source.data.iter().flat_map(|range| pieces(*range, PIECE));
    sweep(&reader, all, DEPTH, |range, bytes| {
        done += range.len();
        live.show(&format!("for comparison, a full copy first: {} %", done * 100 / allocated));
        file.write_all_at(bytes, range.start()).map_err(failed)
    })
    .await?;
    let took = began.elapsed();
    if let Some(reader) = Rc::into_inner(reader) {
        reader.close().await?;
    }
    engine.delete_node(&node).await?;
    std::fs::remove_file(to).map_err(failed)?;
    Ok(FullCopy { took, measured: true })
}
