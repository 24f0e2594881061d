//! Roots: where clients enter the graph, and how they see its changes.
//!
//! Read-copy-update: a new view is published whole; each thread sees it at its next turn. An edit counts as done
//! for a root when the old views are gone: no turn uses them and no waiting request holds them.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use io::sync::oneshot;

use crate::guard::{Domain, Guard};
use crate::view::View;

/// An entry into the graph: of an export, a job or a named user.
pub struct Root {
    current: ArcSwap<View>,
    /// Replaced, and perhaps still in use.
    older: Mutex<Vec<Weak<View>>>,
    turns: Arc<Domain>,
}

impl Root {
    /// A root that sees `view`; `turns` is the domain of its graph.
    pub fn new(view: Arc<View>, turns: Arc<Domain>) -> Self {
        Self { current: ArcSwap::new(view), older: Mutex::default(), turns }
    }

    /// Begins a turn: a short stretch of work that never waits.
    pub fn turn(&self) -> Turn<'_> {
        // The guard first: it must be older than anything looked up under it.
        let guard = self.turns.enter();
        Turn { view: self.current.load(), _guard: guard }
    }

    /// The present view, for work that waits.
    pub fn view(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Makes `view` the present one. The answer tells when nobody uses any older one any more.
    pub fn publish(&self, view: Arc<View>) -> Retiring {
        let old = self.current.swap(view);
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        older.push(Arc::downgrade(&old));
        drop(old);
        let mut gone = Vec::new();
        older.retain(|view| {
            let used = view.upgrade();
            gone.extend(used.iter().map(|view| view.on_retired()));
            used.is_some()
        });
        Retiring { gone }
    }
}

/// A turn of one thread at one root. Holds its guard, so it must not live across an await.
pub struct Turn<'a> {
    view: arc_swap::Guard<Arc<View>>,
    _guard: Guard<'a>,
}

impl Turn<'_> {
    /// The view of this turn.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }
}

/// Views that were replaced and may still be in use.
#[must_use]
pub struct Retiring {
    gone: Vec<oneshot::Receiver<()>>,
}

impl Retiring {
    /// Ready when nobody uses the views any more.
    pub async fn gone(self) {
        for gone in self.gone {
            // An error means that the sender was dropped unused, which is as gone as it gets.
            let _ = gone.await;
        }
    }
}
