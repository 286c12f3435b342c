//! What must be gone when the harness ends, and the ways it can end: normally, by a failing test,
//! by ^C or SIGTERM (both handled here), or by kill -9 (the launcher's parent-death signal stops
//! the servers; the next run sweeps the folder).

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};

use crate::account::Account;
use crate::small_disk::unmount_below;
use crate::wait::within;

const PREFIX: &str = "holdfast-";
/// In a run's folder that is to stay (`demo --keep`).
const KEEP: &str = "keep";
/// A socket's whole path must fit in 107 bytes; this leaves room for ours below the run's folder.
const LONGEST_FOLDER: usize = 70;

#[derive(Default)]
struct Live {
    postmasters: Vec<Pid>,
    folders: Vec<PathBuf>,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

static LIVE: Mutex<Live> = Mutex::new(Live { postmasters: Vec::new(), folders: Vec::new() });

fn live() -> MutexGuard<'static, Live> {
    // The lists stay consistent whatever panicked while it held the lock.
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers a running postmaster, to be stopped with the harness.
pub fn postmaster_started(pid: Pid) {
    live().postmasters.push(pid);
}

/// Forgets a postmaster that has ended, before its process id can be used again.
pub fn postmaster_ended(pid: Pid) {
    live().postmasters.retain(|known| *known != pid);
}

/// Ends everything that is left: servers, then folders.
pub fn end_everything() {
    let (postmasters, folders) = {
        let mut live = live();
        (std::mem::take(&mut live.postmasters), std::mem::take(&mut live.folders))
    };
    for signal in [Signal::SIGQUIT, Signal::SIGKILL] {
        for pid in &postmasters {
            // Whoever has ended already is what we want.
            let _ = kill(*pid, signal);
        }
        let all_gone = || Ok(postmasters.iter().all(|pid| gone(*pid)));
        if within(Duration::from_secs(5), "servers to stop", all_gone).is_ok() {
            break;
        }
    }
    for folder in folders {
        remove(&folder);
    }
}

/// On ^C, SIGTERM and SIGHUP: end everything, then exit as a shell expects of an interrupted program.
pub fn handle_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("\ninterrupted: stopping the servers");
        end_everything();
        std::process::exit(130);
    })
    .context("installing the signal handler")
}

/// Keeps the calling thread from going on, or from reporting what fails only because the servers
/// are being stopped; the process is about to end.
pub fn hold_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Whether our child has ended; reaps it if nobody else has.
fn gone(pid: Pid) -> bool {
    !matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}

fn remove(folder: &Path) {
    unmount_below(folder);
    let removed = within(Duration::from_secs(5), "the folder to be removable", || {
        // A backend on its way out may still create a file under the one we walk.
        Ok(fs::remove_dir_all(folder).is_ok() || !folder.exists())
    });
    if removed.is_err() {
        eprintln!("could not remove {}", folder.display());
    }
}

/// The temporary folder of one run. Dropping it removes it.
pub struct RunFolder {
    path: PathBuf,
    /// Held to the end: tells later runs that this folder is in use.
    _lock: Flock<File>,
}

impl RunFolder {
    /// Creates it, short enough for sockets, and sweeps what killed runs left. It is readable for
    /// all and stays ours; the unprivileged account gets subfolders.
    pub fn create() -> Result<RunFolder> {
        let mut base = std::env::temp_dir();
        if base.as_os_str().len() > LONGEST_FOLDER {
            base = PathBuf::from("/tmp");
        }
        sweep(&base);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(&base)
            .with_context(|| format!("creating a folder in {}", base.display()))?
            .keep();
        live().folders.push(folder.clone());
        let lock = lock(&folder)?.context("a new folder is locked by another process")?;
        Ok(RunFolder { path: folder, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new folder below it, the account's own.
    pub fn subfolder(&self, name: &str, account: &Account) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        account.own(&path)?;
        Ok(path)
    }

    /// Leaves the folder in place when the harness ends.
    pub fn keep(&self) -> Result<()> {
        fs::write(self.path.join(KEEP), b"")?;
        live().folders.retain(|known| *known != self.path);
        Ok(())
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let ours = {
            let mut live = live();
            let before = live.folders.len();
            live.folders.retain(|known| *known != self.path);
            live.folders.len() < before
        };
        if ours {
            remove(&self.path);
        }
    }
}

/// Locks a folder itself, without a file in it that could be missing from a half removed one.
fn lock(folder: &Path) -> Result<Option<Flock<File>>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let folder = OpenOptions::new().read(true).custom_flags(flags.bits()).open(folder)?;
    Ok(Flock::lock(folder, FlockArg::LockExclusiveNonblock).ok())
}

/// Removes the folders of runs that were killed: ours by name and owner, no longer locked, not kept.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == geteuid().as_raw());
        if ours && !path.join(KEEP).exists() && matches!(lock(&path), Ok(Some(_))) {
            remove(&path);
        }
    }
}
