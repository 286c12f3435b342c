//! The demo.

use anyhow::{Result, bail};

use crate::setup::Postgres;
use crate::ui::Ui;

/// What the command line asks of the demo.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    /// Leave the cluster up and say how to look at it.
    pub keep: bool,
    /// How many tenants the demo's platform has.
    pub tenants: u32,
}

/// Runs the demo; fails if anything it claims isn't true.
pub fn run(_postgres: &Postgres, _options: DemoOptions, _ui: &Ui) -> Result<()> {
    bail!("the demo isn't written yet")
}
