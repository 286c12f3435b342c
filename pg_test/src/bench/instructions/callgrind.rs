//! Callgrind's count of a session: all instructions that its server process executed, and those of holdfast's own code.
//!
//! The server runs below valgrind from the start, because each session is a fork of the postmaster. A real one, not
//! `postgres --single`, where the guard is inert by design. When a session ends its process writes a file with the counts of
//! its whole life, so what a piece of work costs is the difference between two sessions that do it once and twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::within;

/// Valgrind writes them when the session is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All that the process executed.
    pub all: i64,
    /// Those in the extension's library.
    pub own: i64,
}

impl Count {
    /// What another one has more, for each of so many units.
    pub fn step_to(self, other: Count, units: u32) -> Count {
        let each = |from: i64, to: i64| (to - from) / i64::from(units.max(1));
        Count { all: each(self.all, other.all), own: each(self.own, other.own) }
    }
}

/// Valgrind with its arguments, to run a server that leaves its counts in a folder.
pub fn wrapper(valgrind: &Path, folder: &Path) -> Vec<String> {
    [
        valgrind.display().to_string().as_str(),
        "--tool=callgrind",
        "--quiet",
        "--child-silent-after-fork=yes",
        "--dump-line=no",
        &format!("--callgrind-out-file={}", file(folder, "%p").display()),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn file(folder: &Path, pid: &str) -> PathBuf {
    folder.join(format!("count.{pid}"))
}

/// The counts of a session that has ended.
pub fn read(folder: &Path, pid: i32) -> Result<Count> {
    let file = file(folder, &pid.to_string());
    let mut text = String::new();
    within(PATIENCE, "callgrind to write its counts", || {
        text = fs::read_to_string(&file).unwrap_or_default();
        Ok(text.lines().any(|line| line.starts_with("totals:")))
    })?;
    // They are large, and nobody reads them again.
    let _ = fs::remove_file(&file);
    count(&text).with_context(|| file.display().to_string())
}

/// Sums up a file. An object is named where it begins (`ob=(7) /path`), later by its number alone; a line that begins with a
/// number is a position and what was executed there; one that follows `calls=` is what was executed elsewhere.
fn count(text: &str) -> Result<Count> {
    let (mut sum, mut total, mut ours, mut is_ours, mut called) = (Count::default(), None, None, false, false);
    for line in text.lines() {
        if let Some(totals) = line.strip_prefix("totals:") {
            total = Some(totals.trim().parse()?);
        } else if let Some(object) = line.strip_prefix("ob=") {
            let (number, name) = object.split_once(' ').unwrap_or((object, ""));
            if name.ends_with("/holdfast.so") {
                ours = Some(number.to_owned());
            }
            is_ours = ours.as_deref() == Some(number);
        } else if let Some(object) = line.strip_prefix("cob=") {
            if object.ends_with("/holdfast.so") {
                ours = object.split_once(' ').map(|(number, _)| number.to_owned());
            }
        } else if line.starts_with("calls=") {
            called = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '*')) {
            if is_ours && !std::mem::take(&mut called) {
                let executed = line.split(' ').nth(1).context("a line without a count")?;
                sum.own += executed.parse::<i64>()?;
            }
            called = false;
        }
    }
    let Some(all) = total else { bail!("no totals") };
    Ok(Count { all, ..sum })
}

#[cfg(test)]
mod tests {
    use super::{Count, count};

    #[test]
    fn own_code_is_told_from_what_it_calls() {
        let text = "ob=(1) /bin/postgres\nfn=(1) main\n0 100\ncob=(2) /lib/holdfast.so\ncfn=(2) hook\ncalls=3 0\n0 60\n\
            ob=(2)\nfn=(2)\n0 20\ncob=(1)\ncfn=(3) palloc\ncalls=1 0\n0 40\n+1 5\nob=(1)\nfn=(3)\n0 40\ntotals: 165\n";
        assert_eq!(count(text).ok(), Some(Count { all: 165, own: 25 }));
    }
}
