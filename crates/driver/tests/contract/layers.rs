//! Which layers answer: asked from front to back, files are asked once for many answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::lab::layer::Layer;
use crate::lab::{Lab, Tree};
use block::{ByteRange, Extent, ExtentState, Result};
use flow::{Body, Execute, Holds, Layers, Limits, Next, Now, Request, Role, Window, seam};
use io::{Lease, LocalFut};
use serde_json::json;
use sim::{Options, SimWorld};

const STRIPE: u64 = 4096;
/// Stripes that one answer tells of.
const TOLD: u64 = 100;
const SIZE: u64 = 1000 * STRIPE;

/// Nothing but stripes: data and holes in turn.
struct Striped {
    asked: Arc<AtomicU64>,
}

impl Execute for Striped {
    fn size(&self) -> Option<u64> {
        Some(SIZE)
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, _rq: &mut Request, _window: Window<'_>, _next: Next<'_>) -> Result<Now> {
        Ok(Now::Wait)
    }

    fn execute<'a>(
        &'a self,
        _rq: Request,
        lease: Lease,
        _next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move { (Ok(()), lease) })
    }

    fn extents<'a>(&'a self, range: ByteRange, _next: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        self.asked.fetch_add(1, SeqCst);
        Box::pin(async move { Ok(stripes(range).take(TOLD as usize).collect()) })
    }
}

fn stripes(range: ByteRange) -> impl Iterator<Item = Extent> {
    let numbers = range.start() / STRIPE..range.end().div_ceil(STRIPE);
    numbers.map(move |number| {
        let state = if number % 2 == 0 { ExtentState::Data } else { ExtentState::Hole };
        Extent { range: ByteRange::new(number * STRIPE, STRIPE).intersection(range), state }
    })
}

/// All answers about a tree, and how often its file was asked.
async fn walked(lab: &Lab, tree: &Tree, asked: &AtomicU64) -> (Vec<(ByteRange, u32, Holds)>, u64) {
    let root = lab.root(tree);
    let (mut layers, mut found) = (Layers::default(), Vec::new());
    let mut rest = ByteRange::between(0, root.view().size());
    while !rest.is_empty() {
        let layer = seam::layer(&root.view(), &mut layers, rest).await.unwrap();
        found.push((rest.head(layer.len), layer.depth, layer.holds));
        rest = rest.skip(layer.len);
    }
    (found, asked.swap(0, SeqCst))
}

fn told(range: ByteRange, depth: u32) -> Vec<(ByteRange, u32, Holds)> {
    let holds = |state| if state == ExtentState::Data { Holds::Data } else { Holds::Hole };
    stripes(range).map(|extent| (extent.range, depth, holds(extent.state))).collect()
}

#[test]
fn a_file_in_many_parts_is_asked_once_for_many_answers() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let (asked, calls) = (Arc::<AtomicU64>::default(), Arc::default());
        let file = lab.node("striped", Body::Executes(Arc::new(Striped { asked: asked.clone() })), &[]);
        let all = ByteRange::between(0, SIZE);
        assert_eq!(walked(&lab, &file, &asked).await, (told(all, 0), SIZE / STRIPE / TOLD));
        let layer = Body::Maps(Arc::new(Layer::empty(SIZE, &calls)));
        let over = lab.node("layer", layer, &[(Role::Backing, &file)]);
        assert_eq!(walked(&lab, &over, &asked).await, (told(all, 1), SIZE / STRIPE / TOLD));

        // What lies between is the overlay's: the file is not asked again behind it.
        let overlay = lab.memory_format("top", json!({"size": SIZE}), Some(&file)).await;
        let cluster = ByteRange::new(64 << 10, 64 << 10);
        let (root, zeros) = (lab.root(&overlay), Lease::zeroed(cluster.len() as usize));
        seam::execute(&root.view(), Request::new(flow::Op::Write, cluster), zeros).await.0.unwrap();
        let mut expected = told(ByteRange::between(0, cluster.start()), 1);
        expected.push((cluster, 0, Holds::Data));
        expected.extend(told(ByteRange::between(cluster.end(), SIZE), 1));
        assert_eq!(walked(&lab, &overlay, &asked).await, (expected, SIZE / STRIPE / TOLD));
    });
}

#[test]
fn what_is_asked_of_another_graph_is_not_taken_from_memory() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let asked = Arc::<AtomicU64>::default();
        let striped = || Body::Executes(Arc::new(Striped { asked: asked.clone() }));
        let (striped, ram) = (lab.node("striped", striped(), &[]), lab.ram(SIZE));
        let mut layers = Layers::default();
        let all = ByteRange::between(0, SIZE);
        for (tree, len) in [(&striped, STRIPE), (&ram, SIZE), (&striped, STRIPE)] {
            let layer = seam::layer(&tree.view(), &mut layers, all).await.unwrap();
            assert_eq!((layer.holds, layer.len), (Holds::Data, len));
        }
        assert_eq!(asked.load(SeqCst), 2);
    });
}
