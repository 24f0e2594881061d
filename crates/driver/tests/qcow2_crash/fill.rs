//! A cache that is filled while it is read, and cut off from its source; then it is written to.

use block::ByteRange;
use flow::{Op, Request, Role, seam};
use futures_util::future::join_all;
use io::Lease;
use serde_json::json;
use sim::Rng;

use crate::model::{Kind, SECTOR, bytes, bytes_of};
use crate::row::{SECTORS, SIZE, header_of};
use crate::stage::{Stage, flush};

/// Fetches all through copy-on-read, flushing now and then; then the image forgets its source.
pub async fn fill(stage: &Stage<'_>) {
    let filter = stage.lab.open("copy-on-read", json!({}), &[(Role::Filtered, stage.tree)]).await;
    let (view, model) = (filter.view(), stage.model);
    let mut rng = Rng::new(stage.seed);
    let clients = (0..3).map(|_| {
        let (view, mut rng) = (&view, rng.fork());
        async move {
            for _ in 0..8 {
                let start = rng.below(SECTORS);
                let sectors = start..(start + 1 + rng.below(60)).min(SECTORS);
                match rng.below(8) {
                    0 => flush(view).await,
                    1..4 => {
                        let rq = Request::new(Op::Cache, bytes(&sectors));
                        seam::execute(view, rq, Lease::empty()).await.0.unwrap();
                    }
                    _ => {
                        let found = seam::read(view, bytes(&sectors)).await.unwrap();
                        model.borrow().check_now(sectors, &found).unwrap();
                    }
                }
            }
        }
    });
    join_all(clients).await;
    let whole = Request::new(Op::Cache, ByteRange::new(0, SIZE));
    seam::execute(&view, whole, Lease::empty()).await.0.unwrap();
    flush(&view).await;
    let below = stage.tree.view();
    below.root().powers().backing.unwrap().set_backing(None, below.next()).await.unwrap();
    stage.promise("source", |disk| match header_of(&disk.bytes("disk").unwrap()).backing {
        None => Ok(()),
        Some(backing) => Err(format!("it was cut off, and names '{}' again", backing.name)),
    });
    // It goes on without it.
    for start in 0..8 {
        let number = model.borrow_mut().next_write();
        model.borrow_mut().begin(start..start + 1, Kind::Write(number));
        seam::write(&below, start * SECTOR as u64, &bytes_of(number, start..start + 1)).await.unwrap();
        model.borrow_mut().end(start..start + 1);
    }
}
