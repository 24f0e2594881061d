//! Roots: where clients enter the graph, and how they see its changes.
//!
//! Read-copy-update: a new view is published whole; each thread sees it at its next turn. An edit counts as done
//! for a root when the old view is gone: no turn uses it and no waiting request holds it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use io::sync::oneshot;

use crate::guard::{Domain, Guard};
use crate::view::View;

/// An entry into the graph: of an export, a job or a named user.
pub struct Root {
    current: ArcSwap<View>,
    turns: Arc<Domain>,
}

impl Root {
    /// A root that sees `view`; `turns` is the domain of its graph.
    pub fn new(view: Arc<View>, turns: Arc<Domain>) -> Self {
        Self { current: ArcSwap::new(view), turns }
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

    /// Makes `view` the present one. The answer tells when nobody uses the old one any more.
    pub fn publish(&self, view: Arc<View>) -> Retiring {
        let old = self.current.swap(view);
        Retiring { gone: old.on_retired() }
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

/// A view that was replaced and may still be in use.
#[must_use]
pub struct Retiring {
    gone: oneshot::Receiver<()>,
}

impl Retiring {
    /// Ready when nobody uses the view any more.
    pub async fn gone(self) {
        // An error means that the sender was dropped unused, which is as gone as it gets.
        let _ = self.gone.await;
    }
}
