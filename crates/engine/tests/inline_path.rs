//! Receive, answer at once, send: a live export whose clients' requests need not wait asks for no memory, whatever
//! stands below it. Alone in its process, since all of its threads are counted; without a harness, whose thread asks
//! for memory while the test is already running.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Engine, EngineOptions, ExportRequest, ServerRequest};
use export::nbd::ExportOptions;
use io::counting::{self, Counting};
use io::real::RealWorld;
use io::sync::oneshot;
use io::{Address, World};
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE: u64 = 1 << 20;
const BLOCK: usize = 4096;
const BLOCKS: u64 = SIZE / BLOCK as u64;
/// Blocks of the requests that are sent at a time: every second one is a write.
const BATCH: [usize; 8] = [1, 1, 2, 1, 16, 4, 1, 1];
const READ: u16 = 0;
const WRITE: u16 = 1;

/// A client that asks for no memory itself, once it is there.
struct Client {
    stream: UnixStream,
    out: Vec<u8>,
    input: Vec<u8>,
}

impl Client {
    /// The oldest handshake there is, and so the simplest replies.
    fn connect(path: &Path, export: &str) -> Self {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        // Fixed newstyle, no zeros; then the option that names an export.
        let mut hello = vec![0, 0, 0, 3];
        hello.extend(b"IHAVEOPT\0\0\0\x01");
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export.as_bytes());
        stream.write_all(&hello).unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..8], SIZE.to_be_bytes());
        Self { stream, out: Vec::with_capacity(1 << 20), input: vec![0; 1 << 20] }
    }

    fn ask(&mut self, code: u16, block: u64, blocks: usize) {
        self.out.extend(0x2560_9513_u32.to_be_bytes());
        self.out.extend([0, 0]);
        self.out.extend(code.to_be_bytes());
        self.out.extend(block.to_be_bytes());
        self.out.extend((block * BLOCK as u64).to_be_bytes());
        self.out.extend(((blocks * BLOCK) as u32).to_be_bytes());
        if code == WRITE {
            self.out.resize(self.out.len() + blocks * BLOCK, 7);
        }
    }

    /// Sends all that was asked for and takes `data` bytes in `replies` replies, none of which is an error.
    fn push(&mut self, replies: usize, data: usize) {
        self.stream.write_all(&self.out).unwrap();
        let rest = &mut self.input[..replies * 16 + data];
        self.stream.read_exact(rest).unwrap();
        assert_eq!(rest[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "a reply without an error");
        // What waits is answered later than others.
        let in_order = rest[8..16] == self.out[8..16];
        assert!(
            data == 0 || !in_order || rest[16..][..BLOCK].iter().all(|byte| *byte == 7),
            "what was written"
        );
        self.out.clear();
    }

    /// Writes everything, so that later writes are in place.
    fn fill(&mut self) {
        for block in 0..BLOCKS {
            self.ask(WRITE, block, 1);
            self.push(1, 0);
        }
    }

    /// Reads and writes in place, several at a time.
    fn round(&mut self, number: u64) {
        let mut data = 0;
        for (at, blocks) in BATCH.into_iter().enumerate() {
            let block = (number * 37 + at as u64 * 11) % (BLOCKS - blocks as u64);
            let code = if at % 2 == 1 { WRITE } else { READ };
            self.ask(code, block, blocks);
            data += if code == READ { blocks * BLOCK } else { 0 };
        }
        self.push(BATCH.len(), data);
    }
}

/// Node `name` of a chain and what stands on it, the lowest first; the last one is exported.
fn chain() -> Vec<Value> {
    let memory = |name: &str| json!({"driver": "memory", "node-name": name, "size": SIZE});
    let format = |name: &str, file: &str, backing: Value| {
        json!({
            "driver": "memory-format", "node-name": name, "size": SIZE, "file": file, "backing": backing,
        })
    };
    let mut nodes = vec![memory("disk0"), format("layer0", "disk0", Value::Null)];
    for layer in 1..10 {
        let (disk, below) = (format!("disk{layer}"), format!("layer{}", layer - 1));
        nodes.push(memory(&disk));
        nodes.push(format(&format!("layer{layer}"), &disk, json!(below)));
    }
    nodes.push(json!({"driver": "raw", "node-name": "raw", "file": "layer9"}));
    nodes.push(json!({"driver": "copy-on-read", "node-name": "cor", "file": "raw"}));
    nodes.push(json!({"driver": "throttle", "node-name": "throttle", "throttle-group": "tg", "file": "cor"}));
    nodes.push(json!({"driver": "delay", "node-name": "delay", "file": "throttle"}));
    nodes.push(json!({"driver": "fault", "node-name": "fault", "file": "delay"}));
    nodes
}

fn map(options: Value) -> Map<String, Value> {
    options.as_object().unwrap().clone()
}

/// What one client's requests make the process ask for, after it has got used to them.
fn asked_by_a_client(socket: &Path, export: &str) -> u64 {
    let mut client = Client::connect(socket, export);
    client.fill();
    (0..200).for_each(|number| client.round(number));
    let before = counting::asked();
    (200..1200).for_each(|number| client.round(number));
    counting::asked() - before
}

async fn serve(world: &RealWorld, nodes: Vec<Value>, socket: PathBuf) -> u64 {
    let options = EngineOptions { threads: 1, ..EngineOptions::default() };
    let engine = Engine::new(Arc::new(world.clone()) as Arc<dyn World>, options).unwrap();
    let group = json!({"qom-type": "throttle-group", "id": "tg", "limits": {"iops-total": 1_000_000_000}});
    engine.add_object(map(group)).await.unwrap();
    let mut top = String::new();
    for node in nodes {
        top = engine.add_node(map(node)).await.unwrap();
    }
    let server = Arc::new(engine.nbd_server(&ServerRequest::default()));
    let options = ExportOptions::writable("disk");
    server.add(ExportRequest { id: "disk".to_owned(), node: top, options }).unwrap();
    let (address, accepting) = (Address::Unix { path: socket.clone() }, server.clone());
    let (ready, listening) = oneshot::channel();
    io::spawn(async move {
        accepting.listen(&address, |_| ready.send(()).unwrap()).await.unwrap();
    });
    listening.await.unwrap();
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || tell.send(asked_by_a_client(&socket, "disk")).unwrap());
    let asked = told.await.unwrap();
    server.remove("disk").await.unwrap();
    asked
}

fn main() {
    // What runners of tests ask for.
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    match (has("--list"), has("--ignored")) {
        (true, false) => println!("what_is_answered_at_once_asks_for_no_memory_on_any_thread: test"),
        (false, false) => count(),
        (_, true) => {}
    }
}

fn count() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir().unwrap();
    world.block_on(async {
        let all = chain();
        // A disk, a format on it, ten of them, and with each filter on top.
        for len in
            [1, 2, all.len() - 5, all.len() - 4, all.len() - 3, all.len() - 2, all.len() - 1, all.len()]
        {
            let top = all[len - 1]["node-name"].as_str().unwrap();
            let socket = folder.path().join(format!("socket{len}"));
            let asked = serve(&world, all[..len].to_vec(), socket).await;
            assert_eq!(asked, 0, "blocks asked for in 8000 requests to '{top}'");
        }
        let slow = json!({"driver": "delay", "node-name": "slow", "read-us": 1, "file": "disk0"});
        let asked = serve(&world, vec![all[0].clone(), slow], folder.path().join("slow")).await;
        assert!(asked > 1000, "reads that wait ask for {asked}");
    });
}
