//! What of a copy is left to the kernel.

use super::*;

/// Copies with `how`; answers how many bytes were read, and taken by one file from another.
async fn offloaded(world: &SimWorld, from: &Arc<Root>, to: &Arc<Root>, how: Transfer) -> (u64, u64) {
    let before = world.disk().counts();
    transfer(&[from], to, &how, &Noting::default()).await.unwrap();
    let after = world.disk().counts();
    (after.read_bytes - before.read_bytes, after.taken_bytes - before.taken_bytes)
}

const SHARING: Transfer = Transfer { offload: Some(Offload::Share), ..PLAIN };

#[test]
fn between_plain_files_nothing_is_carried() {
    const SIZE: u64 = 1 << 20;
    for (source, target) in [(0, 0), (0, 16), (16, 0), (16, 16), (12, 16), (16, 12)] {
        let world = world(1);
        world.run(async {
            let bench = Bench::new(&world);
            let bytes: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8 | 1).collect();
            let from = match source {
                0 => {
                    world.disk().put("source", &bytes);
                    bench.raw("source").await
                }
                bits => bench.new_qcow2("source", SIZE, bits).await,
            };
            if source > 0 {
                seam::write(&from.view(), 0, &bytes).await.unwrap();
            }
            let to = match target {
                0 => {
                    world.disk().put_hole("target", SIZE);
                    bench.raw("target").await
                }
                bits => bench.new_qcow2("target", SIZE, bits).await,
            };
            let roots = (bench.lab.root(&from), bench.lab.root(&to));
            let (read, taken) = offloaded(&world, &roots.0, &roots.1, SHARING).await;
            assert_eq!(taken, SIZE, "{source} {target}");
            assert!(read < SIZE / 8, "{source} {target}: tables alone are read, {read} bytes");
            same(&content(&to).await, &bytes);
            is_sound(&to).await;
        });
    }
}

#[test]
fn what_the_kernel_copies_is_not_looked_through_for_zeros() {
    const CLUSTER: u64 = 64 * K;
    let world = world(1);
    world.run(async {
        let bench = Bench::new(&world);
        let mut bytes = vec![0; 16 * CLUSTER as usize];
        // Every other cluster: one byte.
        for cluster in (0..16).step_by(2) {
            bytes[cluster * CLUSTER as usize + [0, 60_000][cluster / 2 % 2]] = 1;
        }
        world.disk().put("source", &bytes);
        let (from, to) = (bench.raw("source").await, bench.new_qcow2("target", 16 * CLUSTER, 16).await);
        let how = Transfer { offload: Some(Offload::Copy), ..PLAIN };
        let roots = (bench.lab.root(&from), bench.lab.root(&to));
        let (_, taken) = offloaded(&world, &roots.0, &roots.1, how).await;
        assert_eq!(taken / CLUSTER, 16);
        same(&content(&to).await, &bytes);
        let view = to.view();
        let check = to.node().powers().check.unwrap();
        let report = check.check(flow::Repair::Nothing, &mut |_| {}, view.next()).await.unwrap();
        assert_eq!((report.allocated, report.leaks, report.corruptions), (16, 0, 0));
    });
}

#[test]
fn who_has_to_see_what_passes_does() {
    const SIZE: u64 = 256 * K;
    for case in ["filter above the source", "filter below the target", "refused", "blocks", "not these"] {
        let world = world(1);
        world.disk().adjust(|options| match case {
            "refused" => options.shares_blocks = None,
            "blocks" => options.shares_blocks = block::Alignment::new(256 << 10),
            _ => {}
        });
        world.run(async {
            let bench = Bench::new(&world);
            world.disk().put("source", &[7; SIZE as usize]);
            let filtered =
                async |tree: Tree| bench.lab.open("delay", json!({}), &[(Role::Filtered, &tree)]).await;
            let mut from = bench.raw("source").await;
            if case == "filter above the source" {
                from = filtered(from).await;
            }
            let bits = if case == "not these" { 9 } else { 16 };
            images::put(&world.disk(), "target", &NewImage::new(SIZE, bits));
            let mut file = bench.file("target").await;
            if case == "filter below the target" {
                file = filtered(file).await;
            }
            let to = bench.lab.open("qcow2", json!({}), &[(Role::File, &file)]).await;
            let roots = (bench.lab.root(&from), bench.lab.root(&to));
            let (_, taken) = offloaded(&world, &roots.0, &roots.1, SHARING).await;
            assert_eq!(taken, 0, "{case}");
            same(&content(&to).await, &[7; SIZE as usize]);
            is_sound(&to).await;
        });
    }
}
