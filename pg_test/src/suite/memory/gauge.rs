//! How much memory a process has for itself, at most, while something happens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::suite::processes::own_memory;

const INTERVAL: Duration = Duration::from_millis(20);

/// The most that any of these processes has while `work` is done. Which they are is asked each time.
pub fn peak(processes: impl Fn() -> Result<Vec<i32>> + Send + Sync, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            loop {
                // Once more when the work is done.
                let last = over.load(Ordering::Relaxed);
                most = processes()?.into_iter().map(own_memory).fold(most, u64::max);
                if last {
                    return Ok(most);
                }
                thread::sleep(INTERVAL);
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        let most = watch.join().map_err(|_| anyhow!("the gauge panicked"))?;
        done.and(most)
    })
}
