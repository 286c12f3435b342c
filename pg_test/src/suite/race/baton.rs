//! How the driver of the cutovers and the writers know of each other, outside of the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use parking_lot::{Condvar, Mutex};

/// Far more than the writes of a moment take on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    /// Grows before and after each cutover.
    phase: u64,
    /// Commits of legacy and rebuilt since the last phase began.
    commits: [u64; 2],
    ended: bool,
}

/// Shared by the driver and the writers.
#[derive(Clone)]
pub struct Baton(Arc<(Mutex<State>, Condvar)>);

impl Baton {
    pub fn new() -> Baton {
        Baton(Arc::default())
    }

    /// The phase, while the race is on.
    pub fn phase(&self) -> Option<u64> {
        let state = self.0.0.lock();
        (!state.ended).then_some(state.phase)
    }

    /// A cutover begins or has ended.
    pub fn advance(&self) {
        self.change(|state| {
            state.phase += 1;
            state.commits = [0; 2];
        });
    }

    /// A writer was told that its transaction is committed.
    pub fn committed(&self, backend: &str) {
        self.change(|state| state.commits[usize::from(backend != "legacy")] += 1);
    }

    /// The race is over.
    pub fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Waits until `backend` has committed so often in this phase.
    pub fn wait_for_commits(&self, backend: &str, count: u64) -> Result<()> {
        let limit = Instant::now() + DEADLINE;
        let mut state = self.0.0.lock();
        while state.commits[usize::from(backend != "legacy")] < count {
            if state.ended || self.0.1.wait_until(&mut state, limit).timed_out() {
                bail!("{backend} owns the tenant but commits nothing");
            }
        }
        Ok(())
    }

    /// Waits until the phase isn't `seen` any more, the race ends, or `patience` does.
    pub fn wait_for_change(&self, seen: u64, patience: Duration) {
        let limit = Instant::now() + patience;
        let mut state = self.0.0.lock();
        while state.phase == seen && !state.ended && !self.0.1.wait_until(&mut state, limit).timed_out() {}
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock());
        self.0.1.notify_all();
    }
}
