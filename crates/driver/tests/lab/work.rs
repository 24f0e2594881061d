//! Random work of several clients at once on one disk, each answer compared with the oracle.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use block::ByteRange;
use flow::{Flags, Op, Root};
use io::World;
use io::sync::oneshot;
use sim::Rng;

use super::client::{self, Way};
use super::oracle::{Kind, Oracle};

/// How much work, and what kind.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub threads: usize,
    pub tasks: usize,
    /// Of each task.
    pub requests: usize,
    /// Longest request in bytes.
    pub longest: u64,
    /// Share of changes that are given up half-way.
    pub given_up: f64,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        Self { seed, threads: 3, tasks: 7, requests: 100, longest: 100_000, given_up: 0.15 }
    }
}

/// Carries out the plan; the first wrong byte is the error.
pub async fn run(world: &impl World, root: &Arc<Root>, oracle: &Oracle, plan: Plan) -> Result<(), String> {
    let threads: Vec<_> = (0..plan.threads).map(|i| world.start_thread(&format!("io{i}")).unwrap()).collect();
    let mut rng = Rng::new(plan.seed);
    let mut answers = Vec::new();
    for task in 0..plan.tasks {
        let (sender, answer) = oneshot::channel();
        let client = Client { root: root.clone(), oracle: oracle.clone(), plan, rng: rng.fork() };
        threads[task % plan.threads].run(Box::new(move || {
            Box::pin(async move {
                let _ = sender.send(client.work().await);
            })
        }));
        answers.push(answer);
    }
    let mut outcome = Ok(());
    for answer in answers {
        outcome = outcome.and(answer.await.unwrap_or_else(|_| Err("a client was lost".to_owned())));
    }
    for thread in threads {
        thread.stop();
    }
    outcome
}

struct Client {
    root: Arc<Root>,
    oracle: Oracle,
    plan: Plan,
    rng: Rng,
}

impl Client {
    async fn work(mut self) -> Result<(), String> {
        for _ in 0..self.plan.requests {
            let range = self.range();
            match self.rng.below(100) {
                0..50 => self.read(range).await?,
                50..80 => self.write(range).await?,
                80..89 => self.change(Op::WriteZeroes, Kind::Zeroes, range).await?,
                89..98 => self.change(Op::Discard, Kind::Discard, range).await?,
                _ => self.flush().await?,
            }
            if self.rng.chance(0.1) {
                io::yield_now().await;
            }
        }
        Ok(())
    }

    fn range(&mut self) -> ByteRange {
        let size = self.root.view().size();
        if self.rng.chance(0.3) {
            // Around the border of two clusters everybody meets.
            let start = size / 2 / 65536 * 65536 + self.rng.below(3000) - 1500;
            return ByteRange::new(start, self.rng.below(700) + 1);
        }
        let unit = [1, 1, 512, 4096, 4096, 65536][self.rng.index(6)];
        let longest = match self.rng.below(3) {
            0 => 300,
            1 => 20_000,
            _ => self.plan.longest,
        };
        let start = self.rng.below(size) / unit * unit;
        let len = (self.rng.below(longest) / unit + 1) * unit;
        ByteRange::new(start, len.min(size - start))
    }

    fn way(&mut self) -> Way {
        if self.rng.chance(0.7) { Way::Try } else { Way::Wait }
    }

    async fn read(&mut self, range: ByteRange) -> Result<(), String> {
        let way = self.way();
        let begun = self.oracle.begin_read();
        let bytes = client::read(&self.root, range, way).await.map_err(|e| e.to_string())?;
        self.oracle.end_read(begun, range, &bytes)
    }

    async fn write(&mut self, range: ByteRange) -> Result<(), String> {
        let way = self.way();
        let change = self.oracle.begin(Kind::Data, range);
        let bytes = change.bytes();
        let root = self.root.clone();
        if self.settle(client::write(&root, range.start(), &bytes, way)).await? {
            self.oracle.end(&change);
        }
        Ok(())
    }

    async fn change(&mut self, op: Op, kind: Kind, range: ByteRange) -> Result<(), String> {
        let flags = if self.rng.chance(0.5) { Flags::MAY_UNMAP } else { Flags::NONE };
        let change = self.oracle.begin(kind, range);
        let root = self.root.clone();
        if self.settle(client::change(&root, op, range, flags)).await? {
            self.oracle.end(&change);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), String> {
        client::change(&self.root, Op::Flush, ByteRange::default(), Flags::NONE)
            .await
            .map_err(|e| e.to_string())
    }

    /// Waits for the answer, or gives up some time before; answers whether there was one.
    async fn settle(&mut self, change: impl Future<Output = block::Result<()>>) -> Result<bool, String> {
        let done = if self.rng.chance(self.plan.given_up) {
            let patience = Duration::from_micros(self.rng.below(1500));
            match io::timeout_at(io::now().after(patience), change).await {
                Some(done) => done,
                None => return Ok(false),
            }
        } else {
            change.await
        };
        done.map(|()| true).map_err(|e| e.to_string())
    }
}
