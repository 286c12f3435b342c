//! What the clients felt: counts and latencies, by act.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::backend::Backend;

/// Longer than anything here may take, in microseconds.
const LONGEST: u64 = 600_000_000;

/// Running totals, for the live display.
#[derive(Clone, Copy, Default)]
pub struct Totals {
    /// Committed writes by backend.
    pub committed: [u64; 2],
    /// Requests that a backend didn't own and the other served.
    pub rerouted: u64,
    /// Attempts that PostgreSQL asked to try again.
    pub retried: u64,
}

/// Durations of one kind, in microseconds.
#[derive(Clone)]
pub struct Durations(Histogram<u64>);

impl Durations {
    /// None yet; three significant figures.
    pub fn new() -> Result<Durations> {
        Ok(Durations(Histogram::new_with_max(LONGEST, 3)?))
    }

    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration that this share of them doesn't exceed; zero when there is none.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

/// One act's share of the traffic.
pub struct Stretch {
    /// What happened meanwhile.
    pub name: &'static str,
    /// From a request's birth to its commit, waits, reroutes and retries included.
    pub latency: Durations,
    /// How long the stretch was.
    pub lasted: Duration,
}

struct State {
    totals: Totals,
    retries: BTreeMap<String, u64>,
    latency: Durations,
    since: Instant,
    name: &'static str,
    stretches: Vec<Stretch>,
}

/// Counts and latencies, shared by all workers.
pub struct Meter(Mutex<State>);

impl Meter {
    /// Starts with the stretch `name`.
    pub fn new(name: &'static str) -> Result<Meter> {
        Ok(Meter(Mutex::new(State {
            totals: Totals::default(),
            retries: BTreeMap::new(),
            latency: Durations::new()?,
            since: Instant::now(),
            name,
            stretches: Vec::new(),
        })))
    }

    /// A request has been served.
    pub fn committed(&self, backend: Backend, latency: Duration) {
        let mut state = self.0.lock();
        state.totals.committed[backend.index()] += 1;
        state.latency.add(latency);
    }

    /// A request went to the other backend.
    pub fn rerouted(&self) {
        self.0.lock().totals.rerouted += 1;
    }

    /// An attempt is made again because of this SQLSTATE.
    pub fn retried(&self, sqlstate: &str) {
        let mut state = self.0.lock();
        state.totals.retried += 1;
        *state.retries.entry(sqlstate.to_owned()).or_default() += 1;
    }

    /// Ends the stretch under way and begins `name`.
    pub fn begin(&self, name: &'static str) -> Result<()> {
        let fresh = Durations::new()?;
        let mut state = self.0.lock();
        let stretch = Stretch {
            name: std::mem::replace(&mut state.name, name),
            latency: std::mem::replace(&mut state.latency, fresh),
            lasted: state.since.elapsed(),
        };
        state.since = Instant::now();
        state.stretches.push(stretch);
        Ok(())
    }

    /// Totals so far.
    pub fn totals(&self) -> Totals {
        self.0.lock().totals
    }

    /// The stretches that ended, in order, leaving none.
    pub fn take_stretches(&self) -> Vec<Stretch> {
        std::mem::take(&mut self.0.lock().stretches)
    }

    /// Retries by SQLSTATE.
    pub fn retries(&self) -> BTreeMap<String, u64> {
        self.0.lock().retries.clone()
    }
}
