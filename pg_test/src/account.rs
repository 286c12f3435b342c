//! The unprivileged account that owns everything server-side: initdb and postgres refuse to run as root.

use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{User, geteuid};
use walkdir::WalkDir;

/// Accounts to drop to when the harness runs as root, the best first.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// The account server-side programs run as.
#[derive(Clone, Debug)]
pub enum Account {
    /// The harness isn't root: everything runs as the user who started it.
    Ourselves,
    /// The harness is root and steps down to this user.
    StepDown {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

impl Account {
    /// Chooses the account.
    pub fn choose() -> Result<Account> {
        if !geteuid().is_root() {
            return Ok(Account::Ourselves);
        }
        for name in CANDIDATES {
            if let Some(user) = User::from_name(name).context("reading the user database")? {
                return Ok(Account::StepDown { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
            }
        }
        bail!(
            "PostgreSQL doesn't run as root, and there is none of the users {CANDIDATES:?} to step \
             down to; run this as an ordinary user"
        )
    }

    /// Makes `command` run as this account. The standard library clears root's supplementary
    /// groups when it changes the user.
    pub fn apply(&self, command: &mut Command) {
        if let Account::StepDown { uid, gid } = self {
            command.gid(*gid).uid(*uid);
        }
    }

    /// Gives `path` to this account.
    pub fn own(&self, path: &Path) -> Result<()> {
        if let Account::StepDown { uid, gid } = self {
            lchown(path, Some(*uid), Some(*gid))
                .with_context(|| format!("changing the owner of {}", path.display()))?;
        }
        Ok(())
    }

    /// Gives `path` and everything below it to this account.
    pub fn own_all(&self, path: &Path) -> Result<()> {
        for entry in WalkDir::new(path) {
            self.own(entry?.path())?;
        }
        Ok(())
    }
}
