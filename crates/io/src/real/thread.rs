//! I/O threads: one OS thread, one single-threaded runtime, one queue of tasks from elsewhere.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use tokio::runtime::{self, LocalOptions, LocalRuntime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::here::RealHere;
use super::ring;
use super::world::Shared;
use crate::here;
use crate::thread::{Start, Thread};

/// Starts an I/O thread and waits until it runs.
pub(super) fn start(shared: &Arc<Shared>, name: &str) -> io::Result<Arc<dyn Thread>> {
    let (orders, queue) = unbounded_channel();
    let (tell, told) = std::sync::mpsc::channel();
    let shared = shared.clone();
    let run = move || {
        let outcome = enter(&shared, |runtime| {
            // Whoever starts us waits for this; if it is gone, so is the sender of orders.
            let _ = tell.send(Ok(()));
            runtime.block_on(obey(queue));
        });
        if let Err(error) = outcome {
            let _ = tell.send(Err(error));
        }
    };
    let handle = Builder::new().name(name.to_owned()).spawn(run)?;
    told.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
    Ok(Arc::new(RealThread { name: name.to_owned(), orders, handle: Mutex::new(Some(handle)) }))
}

/// Makes the calling OS thread an I/O thread while `run` runs, then drops all its tasks.
pub(super) fn enter<T>(shared: &Arc<Shared>, run: impl FnOnce(&LocalRuntime) -> T) -> io::Result<T> {
    // Tasks may ask for the time or spawn while they are dropped, so the runtime is dropped before this.
    let _installed = Installed::new(shared);
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let value = run(&runtime);
    // While tasks can still be woken and spawned: what buffers in flight carry may want to.
    let _guard = runtime.enter();
    ring::drain();
    Ok(value)
}

/// The services of this thread, there until dropped.
struct Installed {
    before: Option<Rc<dyn here::Here>>,
}

impl Installed {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { before: here::install(Some(Rc::new(RealHere::new(shared)))) }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        ring::close();
        here::install(self.before.take());
    }
}

enum Order {
    Run(Start),
    Stop,
}

async fn obey(mut queue: UnboundedReceiver<Order>) {
    while let Some(Order::Run(start)) = queue.recv().await {
        here::spawn(start());
    }
}

struct RealThread {
    name: String,
    orders: UnboundedSender<Order>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Thread for RealThread {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, start: Start) {
        // After the end the order comes back unrun and is dropped here.
        let _ = self.orders.send(Order::Run(start));
    }

    fn stop(&self) {
        let _ = self.orders.send(Order::Stop);
        // Held while joining, so that whoever else stops it waits for the end too.
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let is_self = |h: &JoinHandle<()>| h.thread().id() == std::thread::current().id();
        if let Some(handle) = handle.take_if(|handle| !is_self(handle)) {
            // Its panic was reported when it happened; there is nothing left to do for it.
            let _ = handle.join();
        }
    }
}
