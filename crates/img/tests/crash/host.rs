//! A machine whose images verbs work on.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use block::ByteRange;
use engine::{Engine, EngineOptions, ImagePolicy};
use flow::seam;
use graph::{Demand, User};
use img::{Call, Given, Listener, Session};
use serde_json::{Value, json};
use sim::{Rng, SimDisk, SimWorld};

/// What a verb has said.
#[derive(Default)]
pub struct Said(RefCell<String>);

impl Listener for Said {
    fn say(&self, text: &str) {
        self.0.borrow_mut().push_str(text);
    }

    fn warn(&self, text: &str) {
        self.say(text);
    }

    fn complain(&self, text: &str) {
        self.say(text);
    }

    fn progress(&self, _: f32) {}

    fn begin_progress(&self) {}

    fn end_progress(&self) {}
}

fn engine(world: &SimWorld) -> Arc<Engine> {
    let options = EngineOptions { threads: 1, policy: ImagePolicy::Anywhere, ..EngineOptions::default() };
    Engine::new(Arc::new(world.clone()), options).unwrap()
}

/// A verb that is being carried out.
pub type Running = io::LocalFut<'static, Result<u8, img::Failure>>;

/// A call of a verb.
pub struct Command {
    pub verb: &'static str,
    /// Long names of flags, with their values.
    pub flags: Vec<(&'static str, Option<&'static str>)>,
    pub operands: Vec<&'static str>,
}

impl Command {
    /// Carries it out; answers the exit status, and what it said last.
    pub async fn run(&self, world: &SimWorld) -> (u8, String) {
        let said = Rc::new(Said::default());
        let (status, text) = self.run_telling(world, said.clone()).await;
        (status, said.0.take() + &text)
    }

    /// Carries it out and tells what it says; answers the exit status, and why it failed.
    pub async fn run_telling(&self, world: &SimWorld, listener: Rc<dyn Listener>) -> (u8, String) {
        match self.begin(world, listener).1.await {
            Ok(status) => (status, String::new()),
            Err(failure) => (failure.status, failure.text.unwrap_or_default()),
        }
    }

    /// The call, to be ended early or not.
    pub fn begin(&self, world: &SimWorld, listener: Rc<dyn Listener>) -> (Rc<Session>, Running) {
        let mut given = Given::default();
        given.operands = self.operands.iter().map(|&text| text.into()).collect();
        for (long, value) in &self.flags {
            given.flag(long, value.map(str::to_owned));
        }
        let session = Session::new(engine(world), listener);
        let running = (img::find(self.verb).unwrap().run)(Call { session: session.clone(), given });
        (session, running)
    }
}

/// The tables of a qcow2 image hold nothing worse than leaks.
pub async fn check(world: &SimWorld, image: &'static str) -> Result<(), String> {
    let check = Command { verb: "check", flags: vec![("format", Some("qcow2"))], operands: vec![image] };
    match check.run(world).await {
        (0 | 3, _) => Ok(()),
        (status, said) => Err(format!("check of {image}: {status}: {said}")),
    }
}

/// What an image reads as, with all that lies below it.
pub async fn read(world: &SimWorld, image: &str, format: &str) -> Result<Vec<u8>, String> {
    let engine = engine(world);
    let file = json!({ "driver": "file", "filename": image });
    let node = json!({ "driver": format, "node-name": "n", "read-only": true, "file": file });
    engine.add_node(map(node)).await.map_err(|error| error.to_string())?;
    let reader = engine.reader("test", "n").map_err(|error| error.to_string())?;
    let bytes = reader.read(ByteRange::new(0, reader.size())).await.map_err(|error| error.to_string())?;
    reader.close().await.unwrap();
    Ok(bytes.to_vec())
}

fn map(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Writes here and there to an image, and flushes.
pub async fn scribble(world: &SimWorld, image: &str, format: &str, rng: &mut Rng) {
    let engine = engine(world);
    let file = json!({ "driver": "file", "filename": image });
    let node = json!({ "driver": format, "node-name": "n", "file": file });
    engine.add_node(map(node)).await.unwrap();
    let (id, root) = engine.attach("n", User::named("test"), Demand::WRITE).unwrap();
    let size = root.view().size();
    for _ in 0..8 {
        let start = rng.below(size / 512) * 512;
        let len = (512 * (1 + rng.below(40))).min(size - start);
        let bytes: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
        if rng.chance(0.2) {
            let zeroed = flow::Request::new(flow::Op::WriteZeroes, ByteRange::new(start, len));
            seam::execute(&root.view(), zeroed, io::Lease::empty()).await.0.unwrap();
        } else {
            seam::write(&root.view(), start, &bytes).await.unwrap();
        }
    }
    engine.detach(id).await.unwrap();
    engine.flush("n").await.unwrap();
    engine.delete_node("n").await.unwrap();
}

/// The file of a fresh image.
pub fn put(disk: &SimDisk, path: &str, image: &qcow2::NewImage) {
    let fresh = image.bytes().unwrap();
    let mut bytes = vec![0; fresh.len as usize];
    for (at, piece) in fresh.pieces {
        bytes[at.0 as usize..][..piece.len()].copy_from_slice(&piece);
    }
    disk.put(path, &bytes);
}
