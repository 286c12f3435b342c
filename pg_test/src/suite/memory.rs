//! Memory stays flat: whatever a session has written, however many sessions there were, however much was refused.
//!
//! Each promise is tried with some units and with twice as many, of which the second half may cost next to nothing. In the suite
//! there are just enough of them to fill what is bounded; `cargo verify --memory` takes the full numbers and prints what it finds.

mod gauge;
mod refusals;
mod sessions;
mod tenants;

use anyhow::{Result, ensure};

use super::Test;
use crate::cluster::{Cluster, ClusterOptions};
use crate::setup::Postgres;
use crate::ui::Ui;

/// What twice as many units may cost more, in bytes: tables that grow have two sizes for a moment, and whether that is seen is chance.
const SLACK: u64 = 3 << 20;

/// A figure, with some units and with twice as many.
struct Figure {
    of: String,
    once: u64,
    twice: u64,
}

impl Figure {
    fn new(of: impl Into<String>, once: u64, twice: u64) -> Figure {
        Figure { of: of.into(), once, twice }
    }

    /// For people.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn print(&self) {
        println!("    {:<64} {:>8.2} MB {:>8.2} MB", self.of, self.once as f64 / 1e6, self.twice as f64 / 1e6);
    }

    fn judge(&self) -> Result<()> {
        let Figure { of, once, twice } = self;
        ensure!(*twice <= once + SLACK, "{of}: {once} bytes, and {twice} with twice as many");
        Ok(())
    }
}

/// Of memory.
pub fn tests() -> Vec<Test> {
    let own = ClusterOptions::new;
    vec![
        Test::own("writing_ever_more_tenants_costs_a_session_nothing", own(), |cluster| {
            judge(&tenants::measure(cluster, 50_000)?)
        }),
        Test::own("long_keys_are_not_remembered", own(), tenants::long_keys),
        Test::own("lock_table_holds_a_server_full_of_escalated_writers", own(), tenants::full_server),
        Test::own("sessions_come_and_go_without_a_trace", own(), |cluster| judge(&sessions::measure(cluster, 150)?)),
        Test::own("a_day_of_refusals_leaves_few_rows", own(), |cluster| judge(&refusals::measure(cluster, 12_000)?)),
    ]
}

fn judge(figures: &[Figure]) -> Result<()> {
    figures.iter().for_each(Figure::print);
    figures.iter().try_for_each(Figure::judge)
}

/// The full numbers: a million tenants, ten thousand sessions, a million refusals.
pub fn benchmark(postgres: &Postgres, ui: &Ui) -> Result<()> {
    type Measure = fn(&Cluster, u32) -> Result<Vec<Figure>>;
    let measures: [(&str, Measure, u32); 3] = [
        ("tenants written", tenants::measure, 500_000),
        ("sessions", sessions::measure, 5_000),
        ("refusals", refusals::measure, 500_000),
    ];
    let mut all = Vec::new();
    for (units, measure, once) in measures {
        let cluster = Cluster::start(postgres, ClusterOptions::new())?;
        let figures = ui.step(&format!("Memory with {once} and {} {units}", 2 * once), |_| measure(&cluster, once))?;
        figures.iter().for_each(Figure::print);
        all.extend(figures);
    }
    all.iter().try_for_each(Figure::judge)
}
