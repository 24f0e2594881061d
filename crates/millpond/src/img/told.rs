//! Standard output and standard error of `millpond img`.

use std::cell::Cell;

use img::Listener;

use crate::output;

/// Prints what a verb says.
pub(super) struct Told {
    program: &'static str,
    shows: Cell<bool>,
    /// Whether there is anything that progress is shown of, so that its line has to end.
    begun: Cell<bool>,
    percent: Cell<f32>,
    /// Percent that were last shown; below zero before the first time.
    shown: Cell<f32>,
}

/// The least change of progress that is shown, in percent.
const STEP: f32 = 1.0;

impl Told {
    pub(super) fn new(program: &'static str) -> Self {
        Self {
            program,
            shows: Cell::new(false),
            begun: Cell::new(false),
            percent: Cell::new(0.0),
            shown: Cell::new(-1.0),
        }
    }

    pub(super) fn program(&self) -> &'static str {
        self.program
    }

    /// Shows progress from now on, or not.
    pub(super) fn show_progress(&self, shows: bool) {
        self.shows.set(shows);
    }

    /// Prints an answer.
    pub(super) fn print(&self, text: &str) {
        output::print(text);
    }

    /// Prints an error.
    pub(super) fn error(&self, text: &str) {
        output::tell_line(format_args!("{}: {text}", self.program));
    }

    /// Prints a mistake on the command line, and where to read on.
    pub(super) fn misused(&self, text: &str, verb: Option<&str>) {
        let verb = verb.map(|verb| format!(" {verb}")).unwrap_or_default();
        output::tell_line(format_args!("{text}\nTry '{}{verb} --help' for more info", self.program));
    }

    /// Tells how far it is to whoever has asked by a signal.
    pub(super) fn tell_progress(&self) {
        if !self.shows.get() {
            output::tell_line(format_args!("    ({:.2}/100%)", self.percent.get()));
        }
    }
}

impl Listener for Told {
    fn begin_progress(&self) {
        self.begun.set(true);
    }

    fn end_progress(&self) {
        if self.begun.take() && self.shows.get() {
            self.shown.set(-1.0);
            self.print("\n");
        }
    }

    fn say(&self, text: &str) {
        self.print(text);
    }

    fn warn(&self, text: &str) {
        output::tell(text);
    }

    fn complain(&self, text: &str) {
        self.error(text);
    }

    fn progress(&self, percent: f32) {
        let percent = percent.clamp(0.0, 100.0);
        self.percent.set(percent);
        let moved = (percent - self.shown.get()).abs() > STEP;
        let is_end = percent >= 100.0 || percent <= 0.0;
        if self.shows.get() && (moved || is_end) {
            self.shown.set(percent);
            self.print(&format!("    ({percent:.2}/100%)\r"));
        }
    }
}
