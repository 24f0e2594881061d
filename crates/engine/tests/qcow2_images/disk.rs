//! Nodes of an engine, read as an NBD server reads them: at once what can be, and the rest by waiting.

use std::ops::AsyncFnOnce;
use std::path::Path;
use std::sync::Arc;

use block::{ByteRange, Extent, Result};
use engine::{Engine, EngineOptions, ImagePolicy};
use flow::{Now, Op, Request, Root, Window, seam};
use graph::{Demand, RootId, User};
use io::real::RealWorld;
use io::sync::oneshot;
use io::{Lease, Thread, World};
use serde_json::{Map, Value, json};

/// Runs a test on an engine in the real world.
pub(crate) fn run<T>(test: impl AsyncFnOnce(&Arc<Engine>) -> T) -> T {
    run_with(ImagePolicy::Anywhere, test)
}

pub(crate) fn run_with<T>(policy: ImagePolicy, test: impl AsyncFnOnce(&Arc<Engine>) -> T) -> T {
    let world = RealWorld::new();
    let shared: Arc<dyn World> = Arc::new(world.clone());
    world.block_on(async move {
        let engine =
            Engine::new(shared, EngineOptions { threads: 1, policy, ..EngineOptions::default() }).unwrap();
        test(&engine).await
    })
}

/// The options that `millpond nbd -r -f qcow2 FILE` makes.
pub(crate) fn qcow2(file: &Path) -> Value {
    json!({"driver": "qcow2", "file": {"driver": "file", "filename": file}, "read-only": true})
}

pub(crate) fn map(options: Value) -> Map<String, Value> {
    let Value::Object(map) = options else { panic!("no object: {options}") };
    map
}

/// An open node and a user of it.
pub(crate) struct Disk {
    engine: Arc<Engine>,
    pub(crate) node: String,
    user: RootId,
    pub(crate) root: Arc<Root>,
}

/// Whether a reader tries before it waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// As the NBD loop: try, and on Wait take what is done along.
    Try,
    /// Only the path that waits.
    Wait,
}

impl Disk {
    /// Opens the qcow2 image `file`.
    pub(crate) async fn image(engine: &Arc<Engine>, file: &Path) -> Result<Self> {
        Self::open(engine, qcow2(file)).await
    }

    pub(crate) async fn open(engine: &Arc<Engine>, options: Value) -> Result<Self> {
        let node = engine.add_node(map(options)).await?;
        let user = User::named(&format!("reader of {node}"));
        let attached = engine.attach(&node, user, Demand::READ);
        let (user, root) = match attached {
            Ok(attached) => attached,
            Err(error) => {
                engine.delete_node(&node).await.unwrap();
                return Err(error);
            }
        };
        Ok(Self { engine: engine.clone(), node, user, root })
    }

    pub(crate) async fn close(self) {
        self.engine.detach(self.user).await.unwrap();
        // Nodes with made-up names are the user's too.
        self.engine.delete_node(&self.node).await.unwrap();
    }

    pub(crate) fn size(&self) -> u64 {
        self.root.view().size()
    }

    pub(crate) async fn read(&self, start: u64, len: u64) -> Result<Vec<u8>> {
        read(&self.root, ByteRange::new(start, len), Way::Try).await
    }

    /// All extents, from the first byte to the last.
    pub(crate) async fn extents(&self) -> Result<Vec<Extent>> {
        let (view, mut found) = (self.root.view(), Vec::new());
        let mut rest = ByteRange::between(0, view.size());
        while !rest.is_empty() {
            for extent in seam::extents(&view, rest).await? {
                assert_eq!(extent.range.start(), rest.start());
                rest = rest.skip(extent.range.len());
                block::push_extent(&mut found, extent);
            }
        }
        Ok(found)
    }

    /// Reads everything, then parts of all sizes at random from two more I/O threads, and expects `bytes`.
    pub(crate) async fn expect(&self, bytes: &Arc<Vec<u8>>, what: &str) {
        assert_eq!(self.size(), bytes.len() as u64, "{what}: size");
        for (piece, way) in [(1 << 20, Way::Wait), (100_001, Way::Try)] {
            let reads = (0..bytes.len()).step_by(piece).map(|at| (at, piece.min(bytes.len() - at)));
            expect_reads(&self.root, bytes, reads, way).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        let mut answers = Vec::new();
        for thread in 0..2 {
            answers.push(self.expect_elsewhere(bytes, thread));
        }
        for (thread, answer) in answers {
            let answer = answer.await.unwrap();
            // Its tasks end with it.
            drop(thread);
            answer.unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }

    fn expect_elsewhere(
        &self,
        bytes: &Arc<Vec<u8>>,
        seed: u64,
    ) -> (Arc<dyn Thread>, oneshot::Receiver<Outcome>) {
        let thread = self.engine.world().start_thread("reader").unwrap();
        let (tell, told) = oneshot::channel();
        let (root, bytes) = (self.root.clone(), bytes.clone());
        thread.run(Box::new(move || {
            Box::pin(async move {
                let outcome = expect_at_random(&root, &bytes, seed).await;
                // Whoever asked has failed otherwise.
                let _ = tell.send(outcome);
            })
        }));
        (thread, told)
    }
}

type Outcome = std::result::Result<(), String>;

async fn expect_at_random(root: &Root, bytes: &[u8], seed: u64) -> Outcome {
    let mut random = seed + 1;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % bound
    };
    if bytes.is_empty() {
        return Ok(());
    }
    for round in 0..60 {
        let at = below(bytes.len());
        let longest = [1, 512, 4096, 70_000, 3 << 20][round % 5];
        let len = (1 + below(longest)).min(bytes.len() - at);
        let way = if below(2) == 0 { Way::Try } else { Way::Wait };
        expect_reads(root, bytes, std::iter::once((at, len)), way).await?;
    }
    Ok(())
}

async fn expect_reads(
    root: &Root,
    bytes: &[u8],
    reads: impl Iterator<Item = (usize, usize)>,
    way: Way,
) -> Outcome {
    for (at, len) in reads {
        let range = ByteRange::new(at as u64, len as u64);
        let got = read(root, range, way).await.map_err(|error| format!("read of {range}: {error}"))?;
        let expected = &bytes[at..at + len];
        if got != expected {
            let wrong = got.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
            return Err(format!("wrong byte at {} in a read of {range} ({way:?})", at + wrong));
        }
    }
    Ok(())
}

pub(crate) async fn read(root: &Root, range: ByteRange, way: Way) -> Result<Vec<u8>> {
    let mut rq = Request::new(Op::Read, range);
    let mut bytes = vec![0xdd; range.len() as usize];
    let view = {
        let turn = root.turn();
        if way == Way::Try && seam::try_now(&turn, &mut rq, Window::In(&mut bytes))? == Now::Done {
            return Ok(bytes);
        }
        turn.view().clone()
    };
    let mut lease = Lease::new(bytes.len());
    lease.fill(0xcc);
    let done = rq.done as usize;
    lease[..done].copy_from_slice(&bytes[..done]);
    let (result, lease) = seam::execute(&view, rq, lease).await;
    result.map(|()| lease.to_vec())
}
