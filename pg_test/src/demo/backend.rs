//! The two backends of the demo.

use anyhow::{Result, bail};

/// An application backend; each logs in with a role of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backend {
    /// Proven: only ownership binds it.
    Legacy,
    /// Unproven: every rule binds it.
    Rebuilt,
}

impl Backend {
    /// Both, in the order of their indexes.
    pub const ALL: [Backend; 2] = [Backend::Legacy, Backend::Rebuilt];

    /// Its name in the policy.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Legacy => "legacy",
            Backend::Rebuilt => "rebuilt",
        }
    }

    /// Its login role.
    pub fn role(self) -> &'static str {
        match self {
            Backend::Legacy => "legacy_app",
            Backend::Rebuilt => "rebuilt_app",
        }
    }

    /// Its place in arrays that hold one thing a backend.
    pub fn index(self) -> usize {
        match self {
            Backend::Legacy => 0,
            Backend::Rebuilt => 1,
        }
    }

    /// The backend of that name.
    pub fn named(name: &str) -> Result<Backend> {
        match Backend::ALL.into_iter().find(|backend| backend.name() == name) {
            Some(backend) => Ok(backend),
            None => bail!("\"{name}\" is no backend of this demo"),
        }
    }
}
