//! A cache over the network: copy-on-read over `memory-format` over `nbd`, filled while it is read.

use std::sync::atomic::Ordering::SeqCst;

use block::{ByteRange, ExtentState};
use driver::protocols::nbd::{Config, Use};
use flow::copy::{Policy, Progress, fill};
use flow::{Body, Role, Root, View, seam};
use futures_util::future::join;
use serde_json::json;
use sim::{Options, Rng};
use std::sync::Arc;

use crate::lab::Tree;
use crate::stage::{Client, Stage, config, patient, play};
use crate::store::Store;

const LEN: u64 = 4 << 20;

/// A cache of the client's export.
async fn cache(stage: &Stage, client: &Client) -> (Arc<Root>, Tree) {
    let remote = stage.lab.node("nbd", Body::Executes(client.nbd.clone()), &[]);
    let clusters = stage.lab.memory_format("cache", json!({"size": LEN}), Some(&remote)).await;
    let copy_on_read = stage.lab.open("copy-on-read", json!({}), &[(Role::Filtered, &clusters)]).await;
    (stage.lab.root(&copy_on_read), clusters)
}

async fn read_at_random(view: &View, store: &Store, mut rng: Rng) {
    for _ in 0..40 {
        let start = rng.below(LEN);
        let range = ByteRange::new(start, 1 + rng.below((LEN - start).min(100_000)));
        assert!(seam::read(view, range).await.unwrap()[..] == store.at(range), "{range}");
    }
}

/// Fills a cache while a guest reads; answers the bytes that the server has read and that came.
fn filled(seed: u64, config: Config, cut: f64) -> (u64, u64) {
    play(seed, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN as usize);
        *store.delay_us.lock().unwrap() = 0..=500;
        let _server = stage.serve(&store, false, true).await;
        let client = stage.client(config, Use::READ).await;
        stage.world.net().adjust(|options| options.cut = cut);
        let (root, _clusters) = cache(&stage, &client).await;
        let (progress, policy) = (Progress::default(), Policy::default());
        let filling = async { fill(&root, &policy, &progress).await.unwrap() };
        let view = root.view();
        join(filling, read_at_random(&view, &store, Rng::new(seed))).await;
        // From now on the server is not needed.
        stage.world.net().refuse(&crate::stage::address(), true);
        stage.world.net().cut_all(&crate::stage::address());
        assert!(
            seam::read(&view, ByteRange::new(0, LEN)).await.unwrap()[..] == store.at(ByteRange::new(0, LEN))
        );
        (store.read_bytes.load(SeqCst), client.nbd.counters().received_bytes())
    })
}

#[test]
fn each_granule_of_data_comes_once() {
    let store = Store::patterned(LEN as usize);
    let data = store.extents(ByteRange::new(0, LEN)).into_iter().filter(|e| e.state == ExtentState::Data);
    // Holes are 4 KiB here and granules 64 KiB, so that what is fetched has holes in it.
    assert_eq!(data.map(|e| e.range.len()).sum::<u64>(), LEN / 4 * 3);
    for seed in 0..6 {
        let (read, received) = filled(seed, config(), 0.0);
        assert!(read <= LEN && received <= LEN, "{read} {received}");
    }
}

#[test]
fn cuts_during_a_fill_change_nothing() {
    for seed in 0..12 {
        filled(seed, patient(60), 0.02);
    }
}
