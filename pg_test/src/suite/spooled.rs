//! The spool of a database, seen from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::database::Database;
use crate::wait::within;

/// Where a cluster's spool files are.
pub fn folder(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().join("holdfast")
}

/// How many bytes lie in the spool of all databases.
pub fn bytes(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    // A file may be taken in, and removed, while it is looked at.
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Waits until everything that was refused in a database is in its record: nothing is queued, nothing spooled.
pub fn taken_in(_cluster: &Cluster, database: &Database, patience: Duration) -> Result<()> {
    let mut dba = database.connect()?;
    within(patience, "everything to be on record", || Ok(dba.exec("SELECT holdfast.flush_events()").is_ok()))
}
