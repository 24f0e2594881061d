//! Random work in a rough simulated world, and a last look at everything.

use std::time::Duration;

use block::ByteRange;
use io::real::RealWorld;
use sim::{OpKind, Options, Rng, SimWorld, Verdict};

use super::client::{self, Way};
use super::oracle::{self, Oracle};
use super::work::{self, Plan};
use super::{Lab, Tree};

/// Runs random work of clients on what `build` makes, `size` bytes long, over the first `base` bytes of it in a file
/// of that name. The error is the first wrong byte, or what a check found.
pub fn run(seed: u64, size: u64, base: u64, build: &impl AsyncFn(&Lab) -> Tree) -> Result<(), String> {
    let world = SimWorld::new(seed, Options::default());
    let mut rng = Rng::new(seed);
    // Some writes take long: when they are given up, they land behind much else.
    world.disk().set_policy(move |op| match op.kind == OpKind::Write && rng.chance(0.05) {
        true => Verdict::Delay(Duration::from_micros(rng.below(20_000))),
        false => Verdict::Go,
    });
    world.disk().put("base", &oracle::initial(base));
    let outcome = world.run(async {
        let lab = Lab::new(&world);
        let tree = build(&lab).await;
        let (root, oracle) = (lab.root(&tree), Oracle::new(base));
        work::run(&world, &root, &oracle, Plan::new(seed)).await?;
        while world.disk().in_flight() > 0 {
            io::sleep(Duration::from_millis(1)).await;
        }
        finish(&tree, &root, &oracle).await?;
        assert!(oracle.checked() > size, "hardly anything was compared");
        Ok(())
    });
    outcome.map_err(|wrong: String| format!("seed {seed}: {wrong}"))
}

/// All bytes once more, and every table below.
pub async fn finish(tree: &Tree, root: &flow::Root, oracle: &Oracle) -> Result<(), String> {
    let begun = oracle.begin_read();
    let whole = ByteRange::new(0, root.view().size());
    let bytes = client::read(root, whole, Way::Wait).await.map_err(|e| e.to_string())?;
    oracle.end_read(begun, whole, &bytes)?;
    for below in tree.subtrees() {
        if let Some(check) = below.node().powers().check {
            let (view, mut lines) = (below.view(), String::new());
            let mut tell = |line: &str| lines = format!("{lines}\n{line}");
            let report = check.check(flow::Repair::Nothing, &mut tell, view.next()).await;
            let report = report.map_err(|e| e.to_string())?;
            if report.leaks + report.corruptions + report.errors > 0 {
                return Err(format!("{:?}: {report:?}{lines}", below.node()));
            }
        }
    }
    Ok(())
}

/// Random work on real threads, and a last look at everything; panics at the first wrong byte.
pub async fn on_threads(lab: &Lab<RealWorld>, tree: &Tree, plan: Plan) {
    let (root, oracle) = (lab.root(tree), Oracle::new(0));
    let (seed, plan) = (plan.seed, Plan { threads: 4, tasks: 8, longest: 60_000, ..plan });
    work::run(&lab.world, &root, &oracle, plan).await.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    finish(tree, &root, &oracle).await.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
}
