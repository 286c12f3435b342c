//! How much memory and disk the record of refusals takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::cluster::Cluster;
use crate::database::Database;
use crate::suite::processes::{own_memory, titled_below};
use crate::suite::spool;

const INTERVAL: Duration = Duration::from_millis(100);

/// The most that was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// Bytes that one of the extension's processes has for itself; what all share is fixed when the server starts.
    pub memory: u64,
    /// Bytes in the spool.
    pub spool: u64,
}

/// Looks again and again until it is told to end.
pub struct Gauge {
    stop: Arc<AtomicBool>,
    watch: JoinHandle<Result<Peak>>,
}

impl Gauge {
    /// Begins to look.
    pub fn watch(cluster: &Cluster) -> Result<Gauge> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, postmaster, folder) = (Arc::clone(&stop), cluster.postmaster_pid()?, spool::folder(cluster));
        let watch = std::thread::spawn(move || {
            let mut peak = Peak::default();
            while !stopped.load(Ordering::Relaxed) {
                for pid in titled_below(postmaster, "holdfast")? {
                    peak.memory = peak.memory.max(own_memory(pid));
                }
                peak.spool = peak.spool.max(spool::bytes(&folder));
                std::thread::sleep(INTERVAL);
            }
            Ok(peak)
        });
        Ok(Gauge { stop, watch })
    }

    /// Ends it.
    pub fn end(self) -> Result<Peak> {
        self.stop.store(true, Ordering::Relaxed);
        self.watch.join().map_err(|_| anyhow!("the gauge panicked"))?
    }
}

/// Bytes of all tables of the extension, indexes included.
pub fn disk(database: &Database) -> Result<u64> {
    let bytes: i64 = database.connect()?.one(
        "SELECT sum(pg_catalog.pg_total_relation_size(oid))::int8 FROM pg_catalog.pg_class
         WHERE relnamespace = 'holdfast'::regnamespace AND relkind IN ('r', 'm')",
    )?;
    Ok(u64::try_from(bytes)?)
}
