//! The one place where the harness waits: a condition, polled until a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a test may wait for something that should happen at once.
pub const DEADLINE: Duration = Duration::from_secs(10);

const INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it holds. Fails after [`DEADLINE`], naming `what` was waited for.
pub fn eventually(what: &str, condition: impl FnMut() -> Result<bool>) -> Result<()> {
    within(DEADLINE, what, condition)
}

/// The same with a deadline of its own, for what is slow by nature (a crash recovery, a shutdown).
pub fn within(deadline: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > deadline {
            bail!("waited {deadline:?} in vain: {what}");
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}
