//! What the person at the terminal (or the reader of a CI log) sees while things are set up.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// In a log, a long step says every so often that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Progress on standard error: a spinner on a terminal, plain lines elsewhere.
#[derive(Clone, Copy)]
pub struct Ui {
    terminal: bool,
}

impl Default for Ui {
    /// Looks at standard error to decide between spinners and plain lines.
    fn default() -> Ui {
        Ui { terminal: stderr().is_terminal() }
    }
}

impl Ui {
    /// Whether progress displays make sense.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// One plain line.
    pub fn say(&self, line: &str) {
        eprintln!("{line}");
    }

    /// Runs `work` under a heading; a tick and the time it took follow when it succeeds.
    pub fn step<T>(&self, what: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        let step = Step::start(self.terminal, what);
        let result = work(&step);
        step.finish(what, result.is_ok());
        result
    }
}

/// A step under way.
pub struct Step {
    spinner: Option<ProgressBar>,
    started: Instant,
    last_sign: Cell<Instant>,
}

impl Step {
    fn start(terminal: bool, what: &str) -> Step {
        let spinner = terminal.then(|| {
            let bar = ProgressBar::new_spinner().with_message(what.to_owned());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed}) {prefix:.dim}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if spinner.is_none() {
            eprintln!("- {what}");
        }
        let now = Instant::now();
        Step { spinner, started: now, last_sign: Cell::new(now) }
    }

    /// What the step is busy with right now; on a terminal it replaces the previous note.
    pub fn note(&self, line: &str) {
        match &self.spinner {
            Some(bar) => bar.set_prefix(one_line(line)),
            None if self.last_sign.get().elapsed() >= SIGN_OF_LIFE => {
                self.last_sign.set(Instant::now());
                eprintln!("  {} s: {}", self.started.elapsed().as_secs(), one_line(line));
            }
            None => {}
        }
    }

    fn finish(&self, what: &str, succeeded: bool) {
        let seconds = self.started.elapsed().as_secs_f32();
        match &self.spinner {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{} {what} ({seconds:.1} s)", if succeeded { "✓" } else { "✗" });
            }
            None if !succeeded => eprintln!("  failed after {seconds:.1} s"),
            None if seconds >= 1.0 => eprintln!("  {seconds:.1} s"),
            None => {}
        }
    }
}

/// Terminal lines are short; a note longer than one would wrap and leave debris.
fn one_line(line: &str) -> String {
    let line = line.trim();
    match line.char_indices().nth(72) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_owned(),
    }
}
