//! What is said while the demo runs: one live line on a terminal, else a plain line a second. On standard error, so
//! that the results have standard output for themselves.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two states of a terminal's line.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two plain lines.
const PLAIN: Duration = Duration::from_secs(1);

/// The line.
pub(super) struct Live {
    terminal: bool,
    shown: Cell<Option<Instant>>,
    text: RefCell<String>,
}

impl Live {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, shown: Cell::new(None), text: RefCell::default() }
    }

    /// Says something that stays.
    pub(super) fn say(&self, text: &str) {
        self.write(if self.terminal { "\r\x1b[K" } else { "" }, text, "\n");
        self.shown.set(None);
        self.text.borrow_mut().clear();
    }

    /// Shows how far something is, if it is time to.
    pub(super) fn show(&self, text: &str) {
        let pause = if self.terminal { REDRAW } else { PLAIN };
        if self.shown.get().is_some_and(|at| at.elapsed() < pause) || *self.text.borrow() == text {
            return;
        }
        self.shown.set(Some(Instant::now()));
        text.clone_into(&mut self.text.borrow_mut());
        match self.terminal {
            true => self.write("\r\x1b[K", text, ""),
            false => self.write("", text, "\n"),
        }
    }

    fn write(&self, before: &str, text: &str, after: &str) {
        let mut err = std::io::stderr().lock();
        // Nobody reads it: the demo goes on.
        let _ = write!(err, "{before}  {text}{after}").and_then(|()| err.flush());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.terminal && !self.text.borrow().is_empty() {
            self.write("\r\x1b[K", "", "\r");
        }
    }
}
