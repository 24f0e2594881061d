//! Bodies of nodes for the tests: a disk with locks, a filter that can hold requests back, a format; and a graph of
//! them that is edited by name.

#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use block::{BlockError, ByteRange, ChildIndex, ErrorKind, Mapping, Permissions, Place, Result};
use flow::{
    Body, Execute, Flags, Format, Limits, Next, NodeId, Now, Op, Permit, Powers, Request, Role, Window,
};
use graph::{Demand, Drained, Edit, Graph, NewNode, NodeName, Reopen, RootId, User};
use io::sync::Notify;
use io::{Lease, LocalFut};

/// Every byte reads as `byte`; writes vanish. Remembers what it was told of its users.
pub struct Disk {
    pub size: u64,
    pub byte: u8,
    pub told: Mutex<Vec<Demand>>,
    pub refuses: AtomicBool,
    pub asked: Mutex<Vec<(Op, Flags)>>,
}

impl Disk {
    pub fn new(byte: u8) -> Arc<Self> {
        Arc::new(Self {
            size: 1 << 20,
            byte,
            told: Mutex::default(),
            refuses: AtomicBool::new(false),
            asked: Mutex::default(),
        })
    }

    /// What it was told last, as letters: `used/shared`, of r(ead), w(rite), u(nchanged), s(ize).
    pub fn last(&self) -> String {
        self.told
            .lock()
            .expect("no test panics while it holds it")
            .last()
            .map_or("-/rwus".to_owned(), |demand| letters(*demand))
    }

    pub fn all(&self) -> Vec<String> {
        self.told
            .lock()
            .expect("no test panics while it holds it")
            .iter()
            .map(|demand| letters(*demand))
            .collect()
    }
}

pub fn letters(demand: Demand) -> String {
    let all = ["r", "w", "u", "s"];
    let of = |set: Permissions| {
        let text: String = Permissions::NAMES
            .iter()
            .zip(all)
            .filter(|((p, _), _)| set.contains(*p))
            .map(|(_, c)| c)
            .collect();
        if text.is_empty() { "-".to_owned() } else { text }
    };
    format!("{}/{}", of(demand.uses), of(demand.shares))
}

impl Permit for Disk {
    fn permit(&self, uses: Permissions, shares: Permissions) -> Result<()> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(BlockError::new(ErrorKind::Busy, "Failed to get \"write\" lock"));
        }
        self.told.lock().expect("no test panics while it holds it").push(Demand { uses, shares });
        Ok(())
    }
}

impl Execute for Disk {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, _: &mut Request, window: Window<'_>, _: Next<'_>) -> Result<Now> {
        if let Window::In(buffer) = window {
            buffer.fill(self.byte);
        }
        Ok(Now::Done)
    }

    fn execute<'a>(
        &'a self,
        rq: Request,
        mut lease: Lease,
        _: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        self.asked.lock().expect("no test panics while it holds it").push((rq.op, rq.flags));
        if rq.op == Op::Read {
            lease.fill(self.byte);
        }
        Box::pin(async move { (Ok(()), lease) })
    }

    fn powers(&self) -> Powers<'_> {
        Powers { permit: Some(self), ..Powers::default() }
    }
}

/// A filter. While it is shut, requests wait in it until it is released.
#[derive(Default)]
pub struct Gate {
    pub shut: AtomicBool,
    pub released: AtomicUsize,
    pub seen: AtomicUsize,
    opened: Notify,
}

impl Gate {
    pub fn open() -> Arc<Self> {
        Arc::default()
    }

    pub fn shut() -> Arc<Self> {
        Arc::new(Self { shut: AtomicBool::new(true), ..Self::default() })
    }

    pub fn released(&self) -> usize {
        self.released.load(Ordering::SeqCst)
    }
}

impl Execute for Gate {
    fn size(&self) -> Option<u64> {
        None
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, _: &mut Request, _: Window<'_>, _: Next<'_>) -> Result<Now> {
        Ok(Now::Wait)
    }

    fn execute<'a>(&'a self, rq: Request, lease: Lease, next: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async move {
            self.seen.fetch_add(1, Ordering::SeqCst);
            loop {
                let opened = self.opened.notified();
                if !self.shut.load(Ordering::SeqCst) {
                    break;
                }
                opened.await;
            }
            next.execute(ChildIndex(0), rq, lease).await
        })
    }

    fn release(&self) {
        self.released.fetch_add(1, Ordering::SeqCst);
        self.shut.store(false, Ordering::SeqCst);
        self.opened.notify_waiters();
    }
}

/// A format that holds the first half of its bytes in its first child, at the same offset; the rest shines
/// through from the backing child.
pub struct Layer {
    pub size: u64,
}

impl Layer {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { size: 1 << 20 })
    }
}

impl Format for Layer {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn map_now(&self, range: ByteRange) -> Result<Option<Mapping>> {
        let half = self.size / 2;
        Ok(Some(if range.start() >= half {
            Mapping { len: range.len(), place: Place::Unallocated }
        } else {
            let place = Place::Data { child: ChildIndex(0), offset: range.start(), exclusive: false };
            Mapping { len: range.len().min(half - range.start()), place }
        }))
    }

    fn load<'a>(&'a self, _: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn read_special<'a>(
        &'a self,
        _: ByteRange,
        lease: Lease,
        _: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(async { (Ok(()), lease) })
    }

    fn changes(&self) -> Option<&dyn flow::Changes> {
        None
    }
}

/// A graph that is edited by name.
#[derive(Default)]
pub struct World {
    pub graph: Graph,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn id(&self, name: &str) -> NodeId {
        self.graph.find(name).expect("a node of that name")
    }

    pub fn try_edit(&mut self, edits: &[Edit]) -> Result<Drained> {
        self.graph.edit(edits)
    }

    pub fn edit(&mut self, edits: &[Edit]) -> Drained {
        self.graph.edit(edits).expect("the edit is fine")
    }

    pub fn refused(&self, edits: &[Edit]) -> String {
        self.graph.check(edits).err().expect("the edit is refused").to_string()
    }

    pub fn new_node(&self, name: &str, body: Body) -> NewNode {
        // Whether the name is taken is left to the edit.
        let name = if name.is_empty() { self.graph.name(None) } else { NodeName::new(name) };
        NewNode::new(self.graph.new_node(&name.expect("a good name"), "test", body))
    }

    pub fn new_disk(&self, name: &str) -> NewNode {
        self.new_node(name, Body::Executes(Disk::new(0)))
    }

    pub fn new_filter(&self, name: &str, gate: &Arc<Gate>, on: &str) -> NewNode {
        self.new_node(name, Body::Executes(gate.clone())).child(Role::Filtered, self.id(on))
    }

    pub fn new_layer(&self, name: &str, file: &str) -> NewNode {
        self.new_node(name, Body::Maps(Layer::new())).child(Role::File, self.id(file))
    }

    pub fn disk(&mut self, name: &str) -> Arc<Disk> {
        let disk = Disk::new(name.as_bytes()[0]);
        let node = self.new_node(name, Body::Executes(disk.clone()));
        drop(self.edit(&[Edit::AddNode(node)]));
        disk
    }

    pub fn filter(&mut self, name: &str, on: &str) -> Arc<Gate> {
        let gate = Gate::open();
        let node = self.new_filter(name, &gate, on);
        drop(self.edit(&[Edit::AddNode(node)]));
        gate
    }

    pub fn layer(&mut self, name: &str, file: &str) {
        let node = self.new_layer(name, file);
        drop(self.edit(&[Edit::AddNode(node)]));
    }

    pub fn overlay(&mut self, name: &str, file: &str, backing: &str) {
        let node = self.new_layer(name, file).child(Role::Backing, self.id(backing));
        drop(self.edit(&[Edit::AddNode(node)]));
    }

    pub fn attach(&mut self, node: &str, user: User, demand: Demand) -> RootId {
        let root = self.graph.new_root();
        drop(self.edit(&[self.attaching(root, node, user, demand)]));
        root
    }

    pub fn attaching(&self, root: RootId, node: &str, user: User, demand: Demand) -> Edit {
        Edit::AttachRoot { root, node: self.id(node), user, demand }
    }

    pub fn export(&mut self, node: &str) -> RootId {
        self.attach(node, User::export("e"), Demand::READ)
    }

    pub fn read_only(&self, node: &str, read_only: bool) -> Edit {
        Edit::SetReadOnly { node: self.id(node), read_only }
    }

    pub fn reopen(&self, node: &str, body: Body) -> Edit {
        Edit::Reopen(Reopen { body: Some(body), ..Reopen::new(self.id(node)) })
    }

    /// Names of what a root sees, the root first.
    pub fn seen(&self, root: RootId) -> Vec<String> {
        let view = self.graph.root(root).expect("attached").view();
        view.nodes().map(|n| n.name().to_string()).collect()
    }
}
