//! The spool of a database, seen from outside.

use std::time::Duration;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::database::Database;
use crate::wait::within;

/// Waits until everything that was refused in a database is in its record: nothing is queued, nothing spooled.
pub fn taken_in(_cluster: &Cluster, database: &Database, patience: Duration) -> Result<()> {
    let mut dba = database.connect()?;
    within(patience, "everything to be on record", || Ok(dba.exec("SELECT holdfast.flush_events()").is_ok()))
}
