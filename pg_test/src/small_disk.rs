//! A file system of a few megabytes, for tests that fill it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::account::Account;

/// A mounted file system in memory; dropping it unmounts it.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at a folder that is created for it.
    pub fn mount(path: &Path, megabytes: u32, account: &Account) -> Result<SmallDisk> {
        fs::create_dir_all(path)?;
        let size = format!("size={megabytes}m,mode=0755");
        mount(Some("holdfast"), path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .with_context(|| format!("mounting a small file system at {}", path.display()))?;
        let disk = SmallDisk { path: path.to_owned() };
        account.own(path)?;
        Ok(disk)
    }

    /// Whether we may mount one.
    pub fn possible() -> bool {
        static POSSIBLE: OnceLock<bool> = OnceLock::new();
        *POSSIBLE.get_or_init(|| {
            let tried = tempfile::tempdir().map_err(anyhow::Error::from);
            tried.and_then(|folder| SmallDisk::mount(&folder.path().join("tried"), 1, &Account::Ourselves)).is_ok()
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to the last byte; dropping what comes back makes room again.
    pub fn fill(&self) -> Result<Ballast> {
        let path = self.path.join("ballast");
        let mut file = File::create(&path)?;
        let ballast = Ballast { path };
        // A server at work may free a page while we fill.
        for _ in 0..10 {
            for size in [1 << 20, 1 << 12, 1] {
                let block = vec![0; size];
                while file.write(&block).is_ok() {}
            }
            let probe = self.path.join("probe");
            let full = fs::write(&probe, b"x").is_err();
            let _ = fs::remove_file(&probe);
            if full {
                return Ok(ballast);
            }
        }
        bail!("{} can't be filled", self.path.display())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// What takes all the room of a disk.
pub struct Ballast {
    path: PathBuf,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Unmounts what a run that was killed has left mounted in a folder.
pub fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for path in ours.filter(|path| path.starts_with(folder)) {
        unmount(path);
    }
}

fn unmount(path: &Path) {
    // Processes that still have files open there keep them until they end.
    let _ = umount2(path, MntFlags::MNT_DETACH);
}
