//! A simulated I/O thread from the outside.

use std::sync::Arc;

use io::Thread;
use io::thread::Start;

use crate::core::Core;
use crate::executor::drop_tasks_of;
use crate::ready::{ThreadId, Work};

pub(crate) struct SimThread {
    core: Arc<Core>,
    id: ThreadId,
    name: String,
}

impl SimThread {
    pub(crate) fn start(core: Arc<Core>, name: &str) -> Arc<Self> {
        let id = core.add_thread();
        core.note("thread", id, 0);
        Arc::new(Self { core, id, name: name.to_owned() })
    }
}

impl Thread for SimThread {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, start: Start) {
        if self.core.thread_index(self.id).is_some() {
            self.core.ready.push(self.id, Work::Start(start));
        }
    }

    fn stop(&self) {
        if self.core.remove_thread(self.id) {
            self.core.note("stop", self.id, 0);
            drop_tasks_of(&self.core, self.id);
        }
    }
}
