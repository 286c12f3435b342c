//! What the watcher sees: acts, live figures, transcripts and tables.

use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use console::style;
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::Refusal;
use crate::ui::Ui;

use super::backend::Backend;
use super::meter::Totals;
use super::traffic::Traffic;

/// How often live figures change on a terminal, and how often they are printed elsewhere.
const TICK: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The terminal, or a log.
pub struct Screen {
    live: bool,
    started: Instant,
}

impl Screen {
    /// Live figures only where both streams go to a terminal.
    pub fn new(ui: &Ui) -> Screen {
        Screen { live: ui.is_terminal() && stdout().is_terminal(), started: Instant::now() }
    }

    /// Announces an act in one line.
    pub fn act(&self, title: &str) {
        println!("\n{} {}", style(format!("[{:>3} s]", self.started.elapsed().as_secs())).dim(), style(title).bold());
    }

    /// What was seen, in one line.
    pub fn say(&self, line: &str) {
        println!("        {line}");
    }

    /// Lines of a transcript or a table.
    pub fn block(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("          {}", line.trim_end());
        }
    }

    /// A statement as typed at psql's prompt.
    pub fn typed(&self, prompt: &str, sql: &str) {
        for (number, line) in sql.lines().enumerate() {
            let prompt = if number == 0 { prompt.to_owned() } else { prompt.replace('=', "-") };
            println!("          {} {line}", style(prompt).dim());
        }
    }

    /// An error as psql shows it.
    pub fn refusal(&self, refusal: &Refusal) {
        let head = format!("{}:  {}: {}", refusal.severity, refusal.code, refusal.message);
        self.block(&style(head).red().to_string());
        for (name, text) in [("DETAIL", &refusal.detail), ("HINT", &refusal.hint)] {
            if let Some(text) = text {
                self.block(&format!("{name}:  {text}"));
            }
        }
    }

    /// A claim and whether it is true.
    pub fn verdict(&self, holds: bool, claim: &str, examined: &str) {
        let sign = if holds { style("✓").green() } else { style("✗").red() };
        println!("        {sign} {claim} {}", style(format!("({examined})")).dim());
    }

    /// Lets the traffic run, with its rates on show.
    pub fn watch(&self, traffic: &Traffic, lasting: Duration) -> Result<()> {
        let started = Instant::now();
        let bar = self.spinner();
        let before = traffic.meter.totals();
        let (mut last, mut since) = (before, started);
        let mut every = if self.live { TICK } else { LINE_EVERY };
        while started.elapsed() < lasting {
            // A tick of the display; nothing waits for it.
            std::thread::sleep(TICK.min(lasting.saturating_sub(started.elapsed())));
            if traffic.has_failed() {
                bail!("the traffic stopped");
            }
            if since.elapsed() >= every {
                let now = traffic.meter.totals();
                let line = rates(&last, &now, since.elapsed());
                match &bar {
                    Some(bar) => bar.set_message(line),
                    None => self.say(&line),
                }
                (last, since) = (now, Instant::now());
                every = if self.live { Duration::from_secs(1) } else { LINE_EVERY };
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
            // A log has its lines already; on a terminal the mean is what stays.
            self.say(&rates(&before, &traffic.meter.totals(), started.elapsed()));
        }
        Ok(())
    }

    /// A gauge of `total` steps, for a terminal.
    pub fn gauge(&self, total: usize) -> Option<ProgressBar> {
        let bar = self.live.then(|| ProgressBar::new(total as u64))?;
        if let Ok(style) = ProgressStyle::with_template("        {bar:40} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Some(bar)
    }

    fn spinner(&self) -> Option<ProgressBar> {
        let bar = self.live.then(ProgressBar::new_spinner)?;
        if let Ok(style) = ProgressStyle::with_template("      {spinner} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Some(bar)
    }
}

/// The rates between two moments.
fn rates(before: &Totals, now: &Totals, lasted: Duration) -> String {
    let rate = |backend: Backend| {
        let writes = now.committed[backend.index()] - before.committed[backend.index()];
        format!("{} {:>5.0} writes/s", backend.name(), writes as f64 / lasted.as_secs_f64())
    };
    format!("{} | {} | {} rerouted", rate(Backend::Legacy), rate(Backend::Rebuilt), now.rerouted - before.rerouted)
}

/// A duration in milliseconds.
pub fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
