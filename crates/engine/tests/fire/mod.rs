//! A live export under fire: clients read and write it while the graph below it is edited.
//!
//! What must hold: no wrong byte, every request and every edit answered, memory flat, and at the end nothing left of
//! what came and went.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod client;
pub mod editor;
pub mod images;
pub mod model;
pub mod scene;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use engine::{Engine, EngineOptions, Event, ImagePolicy, NbdServer, ServerRequest};
use flow::Repair;
use io::select::{Either, race};
use io::sync::oneshot;
use io::{Address, Thread, World};
use serde_json::json;
use sim::Rng;

use client::{Client, Done, Habit};
use editor::{Count, Editor, map, request};
use model::Model;
use scene::{SCENES, Scene};

/// The export under fire.
const LIVE: &str = "live";
/// What the last third of a battle may hold more than the second one in a simulated world: what lists and maps have
/// grown to.
pub const SLACK: i64 = 32 << 10;
/// Lost connections that are written down.
const LOSSES_MAX: usize = 8;
/// The longest that the editor pauses between two edits.
const PAUSE: u64 = 200_000;

/// One run.
#[derive(Clone)]
pub struct Battle {
    pub seed: u64,
    pub scene: &'static Scene,
    /// I/O threads of the engine.
    pub threads: usize,
    /// Clients that stay for a round.
    pub clients: u64,
    /// Rounds: all clients come anew, and are gone at the end, when all bytes are looked at.
    pub rounds: u32,
    /// Requests of each client in a round.
    pub requests: u64,
    /// Edits that are to be made at least: rounds follow until they are.
    pub edits: u64,
    pub address: Address,
    /// Folder of the files.
    pub folder: String,
    /// Whether the scene's own caches are cut off in the second half.
    pub cuts: bool,
    /// Live bytes of memory, without what is kept for reuse or stands for disks.
    pub memory: Arc<dyn Fn() -> i64>,
    /// Goes up whenever something is answered.
    pub done: Arc<Done>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub done: Arc<Done>,
    pub edits: BTreeMap<&'static str, Count>,
    /// Live bytes after each round, when no request, client, filter or other export is left.
    pub memory: Vec<i64>,
}

impl Outcome {
    /// Fails when memory grows from round to round. The first third fills caches, tables and disks.
    pub fn memory_is_flat(&self, slack: i64) -> Result<(), String> {
        let third = self.memory.len() / 3;
        let median = |part: &[i64]| {
            let mut sorted = part.to_vec();
            sorted.sort_unstable();
            sorted[sorted.len() / 2]
        };
        let (second, last) = (median(&self.memory[third..2 * third]), median(&self.memory[2 * third..]));
        match last - second <= slack {
            true => Ok(()),
            false => Err(format!("{} bytes more at last: {:?}", last - second, self.memory)),
        }
    }
}

/// Bytes of an image, some units of which are zeros, and what the disk is at first.
pub fn image(seed: u64) -> (Model, Vec<u8>) {
    let mut rng = Rng::new(seed);
    let units = (scene::BASE / model::UNIT) as usize;
    let mut base = Vec::with_capacity(units);
    while base.len() < units {
        let (run, something) = (1 + rng.index(64), rng.chance(0.7));
        base.extend(std::iter::repeat_n(something, run.min(units - base.len())));
    }
    Model::new(scene::SIZE, &base)
}

impl Scene {
    /// Makes its files in a folder of the machine; false when that cannot be done here.
    pub fn make_files(&self, folder: &Path, image: &[u8]) -> bool {
        for (name, len) in self.files {
            let mut bytes = image.to_vec();
            bytes.resize(*len as usize, 0);
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        if !self.images.is_empty() && !images::can_be_made() {
            return false;
        }
        let mut bytes = image.to_vec();
        bytes.resize(scene::SIZE as usize, 0);
        self.images.iter().for_each(|image| image.make(folder, &bytes));
        true
    }

    /// Has its images looked at by those who made them, where the battle has left them in a folder of the machine.
    pub fn check_images(&self, folder: &Path) {
        self.images.iter().for_each(|image| image.check(folder));
    }
}

impl Battle {
    /// The whole run, on an I/O thread of `world`. The files of the scene are there.
    pub async fn run(self, world: Arc<dyn World>, model: Model) -> Result<Outcome, String> {
        let options = EngineOptions {
            threads: self.threads,
            policy: ImagePolicy::Anywhere,
            ..EngineOptions::default()
        };
        let engine = Engine::new(world.clone(), options).map_err(|e| e.to_string())?;
        let group = json!({"qom-type": "throttle-group", "id": editor::THROTTLE_GROUP});
        engine.add_object(map(group)).await.map_err(|e| e.to_string())?;
        let path = |name: &str| format!("{}{name}", self.folder);
        for node in (self.scene.nodes)(&path) {
            engine.add_node(map(node)).await.map_err(|e| e.to_string())?;
        }
        let server = Arc::new(engine.nbd_server(&ServerRequest::default()));
        let losses = watch(&engine);
        let nodes = engine.nodes();
        server.add(request(LIVE, "top", self.scene.writable)).map_err(|e| e.to_string())?;
        let (address, listening) = listen(&server, &self.address).await;
        let threads = start(&world, self.clients)?;
        let editor =
            Editor::new(engine.clone(), server.clone(), self.scene, &self.folder, Rng::new(self.seed).fork());
        let mut field = Field {
            battle: Battle { address, ..self },
            world,
            server: server.clone(),
            editor,
            threads,
            model: Arc::new(model),
        };
        let fought = field.rounds().await;
        let outcome = fought.map_err(|e| format!("{e}\nconnections lost: {:?}", losses.lock()))?;
        field.check().await?;
        server.remove(LIVE).await.map_err(|e| e.to_string())?;
        listening.send(()).map_err(|()| "nobody was listening")?;
        field.threads.iter().for_each(|thread| thread.stop());
        match engine.nodes() {
            left if left.len() == nodes.len() => Ok(outcome),
            left => Err(format!("other nodes are left than there were: {left:?}, not {nodes:?}")),
        }
    }
}

/// Writes down why connections were lost.
fn watch(engine: &Engine) -> Arc<Mutex<Vec<String>>> {
    let (mut events, losses) =
        (engine.events().subscribe(), Arc::new(Mutex::new(Vec::with_capacity(LOSSES_MAX))));
    let list = losses.clone();
    io::spawn(async move {
        loop {
            if let Event::ClientGone { error: Some(error), .. } = events.next().await {
                let mut list: MutexGuard<'_, Vec<String>> = list.lock().unwrap();
                if list.len() < LOSSES_MAX {
                    list.push(error);
                }
            }
        }
    });
    losses
}

/// Serves until the sender is used or dropped.
async fn listen(server: &Arc<NbdServer>, address: &Address) -> (Address, oneshot::Sender<()>) {
    let (server, address) = (server.clone(), address.clone());
    let ((stop, stopped), (ready, is_ready)) = (oneshot::channel(), oneshot::channel());
    io::spawn(async move {
        let tell = |address: &Address| ready.send(address.clone()).unwrap();
        if let Either::First(ended) = race(server.listen(&address, tell), stopped).await {
            panic!("the server stopped listening: {ended:?}");
        }
    });
    (is_ready.await.unwrap(), stop)
}

fn start(world: &Arc<dyn World>, count: u64) -> Result<Vec<Arc<dyn Thread>>, String> {
    (0..count).map(|at| world.start_thread(&format!("client{at}")).map_err(|e| e.to_string())).collect()
}

struct Field {
    battle: Battle,
    world: Arc<dyn World>,
    server: Arc<NbdServer>,
    editor: Editor,
    threads: Vec<Arc<dyn Thread>>,
    model: Arc<Model>,
}

impl Field {
    async fn rounds(&mut self) -> Result<Outcome, String> {
        let mut memory = Vec::new();
        let mut rng = Rng::new(self.battle.seed);
        let mut round = 0;
        while round < self.battle.rounds || self.editor.made() < self.battle.edits {
            self.editor.late = self.battle.cuts && round * 2 >= self.battle.rounds;
            self.round(&mut rng).await?;
            memory.push((self.battle.memory)() - self.model.memory() - self.editor.memory_disks());
            round += 1;
        }
        Ok(Outcome { done: self.battle.done.clone(), edits: self.editor.counts.clone(), memory })
    }

    /// Clients come, the graph is edited for as long as they are there, all is tidied up and looked at.
    async fn round(&mut self, rng: &mut Rng) -> Result<(), String> {
        let left = Arc::new(AtomicUsize::new(self.threads.len()));
        let clients: Vec<_> = (0..self.threads.len())
            .map(|at| {
                let writes = self.battle.scene.writable && at != 1;
                let rude = !writes && rng.chance(0.5);
                let depth = 1 + rng.index(12);
                let may_fail = &[editor::FAULT];
                let habit = Habit { writes, rude, depth, may_fail, ..self.habit(self.battle.requests) };
                self.send(at, habit, rng.fork(), &left)
            })
            .collect();
        while left.load(Ordering::SeqCst) > 0 {
            self.editor.step().await?;
            self.battle.done.edits.fetch_add(1, Ordering::Relaxed);
            io::sleep(Duration::from_nanos(rng.below(PAUSE))).await;
        }
        for client in clients {
            client.await.map_err(|_| "a client was dropped")??;
        }
        self.editor.tidy().await.map_err(|e| format!("tidying up: {e}"))?;
        self.look(rng.fork()).await?;
        self.server.idle().await;
        self.model.rest();
        self.editor.reopen_all().await.map_err(|e| format!("reopening: {e}"))
    }

    fn habit(&self, requests: u64) -> Habit {
        Habit {
            address: self.battle.address.clone(),
            export: LIVE.to_owned(),
            writes: false,
            requests,
            depth: 1,
            rude: false,
            may_fail: &[],
        }
    }

    /// Lets a client do its work on a thread of its own.
    fn send(
        &self,
        at: usize,
        habit: Habit,
        rng: Rng,
        left: &Arc<AtomicUsize>,
    ) -> oneshot::Receiver<Result<(), String>> {
        let (tell, told) = oneshot::channel();
        let (world, model, done) = (self.world.clone(), self.model.clone(), self.battle.done.clone());
        let left = left.clone();
        self.threads[at].run(Box::new(move || {
            Box::pin(async move {
                let outcome = match Client::connect(&world, habit, model, done).await {
                    Ok(client) => client.run(rng).await,
                    Err(error) => Err(error),
                };
                left.fetch_sub(1, Ordering::SeqCst);
                // Whoever sent it may have failed meanwhile.
                let _ = tell.send(outcome);
            })
        }));
        told
    }

    /// All bytes are what they must be.
    async fn look(&self, rng: Rng) -> Result<(), String> {
        let habit = self.habit(20);
        let client =
            Client::connect(&self.world, habit, self.model.clone(), self.battle.done.clone()).await?;
        client.read_all().await?;
        client.run(rng).await?;
        client.flush().await
    }

    /// Nothing of what came and went is left in the nodes.
    async fn check(&self) -> Result<(), String> {
        for cache in self.battle.scene.caches {
            let export = self.server.add(request("check", cache, false)).map_err(|e| e.to_string())?;
            let view = export.root().view();
            let check = view.root().powers().check.ok_or("a cache can be checked")?;
            let mut lines = String::new();
            let mut tell = |line: &str| lines = format!("{lines}\n{line}");
            let found =
                check.check(Repair::Nothing, &mut tell, view.next()).await.map_err(|e| e.to_string())?;
            if found.corruptions + found.leaks + found.errors > 0 {
                return Err(format!("cache '{cache}': {found:?}{lines}"));
            }
            drop(view);
            self.server.remove("check").await.map_err(|e| e.to_string())?;
        }
        let live = self.server.export(LIVE).ok_or("the export is gone")?;
        match (live.clients(), self.server.connections()) {
            (0, 0) => Ok(()),
            left => Err(format!("clients of the export and connections are left: {left:?}")),
        }
    }
}

/// Fights all battles of a scene: its seeds, each with one and with several I/O threads. `fight` answers `None` where
/// the scene cannot be set.
pub fn all(
    name: &str,
    seeds: Range<u64>,
    fight: impl Fn(&'static Scene, usize, u64) -> Option<Result<Outcome, String>>,
) -> BTreeMap<&'static str, Count> {
    let scene = SCENES.iter().find(|scene| scene.name == name).unwrap();
    let mut edits = BTreeMap::<_, Count>::new();
    for seed in seeds {
        for threads in [1, 3] {
            let begun = Instant::now();
            let Some(outcome) = fight(scene, threads, seed) else { continue };
            let again = format!("MILLPOND_FIRE_SEED={seed} runs it again");
            let outcome = outcome.unwrap_or_else(|e| panic!("{name}, {threads} threads: {e}\n{again}"));
            println!("{name}, {threads} threads, seed {seed}: {outcome:?}, {:?}", begun.elapsed());
            for (edit, count) in outcome.edits {
                let sum = edits.entry(edit).or_default();
                sum.made += count.made;
                sum.refused += count.refused;
            }
        }
    }
    edits
}

/// Defines a test for each scene, which calls `$all` with its name.
macro_rules! every_scene {
    ($all:path) => {
        #[test]
        fn a_raw_image() {
            $all("raw");
        }

        #[test]
        fn a_cache() {
            $all("memory-format");
        }

        #[test]
        fn two_caches() {
            $all("two caches");
        }

        #[test]
        fn a_cache_in_memory() {
            $all("memory");
        }

        #[test]
        fn a_qcow2_chain() {
            $all("qcow2");
        }

        #[test]
        fn a_cache_in_qcow2() {
            $all("cache in qcow2");
        }

        #[test]
        fn a_cache_of_a_qcow2_chain() {
            $all("cache of qcow2");
        }
    };
}
pub(crate) use every_scene;

/// How many seeds a test takes: `few`, or as many as a full run is worth.
pub fn seeds(few: u64, full: u64) -> Range<u64> {
    let number = |text: String| text.parse::<u64>().expect("MILLPOND_FIRE_SEED is a number");
    if let Some(seed) = std::env::var("MILLPOND_FIRE_SEED").ok().map(number) {
        return seed..seed + 1;
    }
    let all = std::env::var_os("MILLPOND_TEST_FULL").is_some();
    0..if all { full } else { few }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_by_two_thousand_bytes_a_round_is_not_flat() {
        let outcome = |grown: fn(i64) -> i64| {
            let (done, edits) = Default::default();
            Outcome { done, edits, memory: (0..60).map(|round| 1_000_000 + grown(round)).collect() }
        };
        assert!(outcome(|round| round % 7 * 3000).memory_is_flat(SLACK).is_ok());
        assert!(outcome(|round| 90_000 * i64::from(round > 15)).memory_is_flat(SLACK).is_ok(), "early on");
        assert!(outcome(|round| round * 2000).memory_is_flat(SLACK).is_err());
    }
}
