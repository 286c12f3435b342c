//! What ends a handover.

use anyhow::{Context, Result, bail, ensure};

use super::super::crash;
use super::step::Step;
use crate::client::{Refusal, Session};
use crate::cluster::{Cluster, Shutdown};
use crate::pending::Pending;
use crate::wait::eventually;

/// How long a statement or an idle transaction may take where a timeout ends it: enough to get to its step, and less than a rollback waits.
const TIMEOUT: &str = "1200ms";

/// A failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// pg_cancel_backend
    Cancel,
    /// statement_timeout, or idle_in_transaction_session_timeout between statements.
    Timeout,
    /// pg_terminate_backend
    Terminate,
    /// kill -9 of the session's process.
    Kill9,
    /// kill -9 of the postmaster and all others.
    Postmaster,
}

impl Blow {
    /// Those that leave the other sessions alone.
    pub const OF_ONE_SESSION: [Blow; 3] = [Blow::Cancel, Blow::Timeout, Blow::Terminate];

    /// Whether it ends every session of the server.
    pub fn ends_all(self) -> bool {
        matches!(self, Blow::Kill9 | Blow::Postmaster)
    }

    /// Whether it can come at a step: a cancel doesn't touch an idle session, and statement_timeout is off when a
    /// statement of its own commits.
    pub fn comes_at(self, step: Step) -> bool {
        match self {
            Blow::Cancel => step != Step::BeforeCommit,
            Blow::Timeout => !matches!(step, Step::Notify | Step::Standby),
            _ => true,
        }
    }

    /// What the session sets before.
    pub fn settings(self) -> String {
        match self {
            Blow::Timeout => {
                format!("SET statement_timeout = '{TIMEOUT}'; SET idle_in_transaction_session_timeout = '{TIMEOUT}'")
            }
            _ => String::new(),
        }
    }

    /// Ends a statement under way; whether it succeeded all the same.
    pub fn end(self, statement: Pending, cluster: &mut Cluster) -> Result<bool> {
        match self {
            Blow::Cancel => statement.cancel()?,
            Blow::Timeout => {}
            Blow::Terminate => statement.terminate()?,
            Blow::Kill9 => crash::kill9(cluster, statement.pid())?,
            Blow::Postmaster => cluster.restart(Shutdown::Kill9)?,
        }
        let (_, result) = statement.finish()?;
        match result {
            Ok(_) => Ok(true),
            Err(error) => self.explains(Refusal::of(&error)).context(error).map(|()| false),
        }
    }

    /// Ends a transaction that is idle.
    pub fn end_idle(self, mut session: Session, cluster: &mut Cluster) -> Result<()> {
        match self {
            Blow::Cancel => bail!("nothing to cancel"),
            Blow::Timeout => {}
            Blow::Terminate => {
                let mut observer = session.endpoint().observe("postgres")?;
                observer.query_one("SELECT pg_catalog.pg_terminate_backend($1)", &[&session.pid()])?;
            }
            Blow::Kill9 => crash::kill9(cluster, session.pid())?,
            Blow::Postmaster => cluster.restart(Shutdown::Kill9)?,
        }
        let (pid, endpoint) = (session.pid(), session.endpoint().clone());
        eventually("the idle session to end", || {
            let mut observer = endpoint.observe("postgres")?;
            Ok(observer.query_opt("SELECT 1 FROM pg_catalog.pg_stat_activity WHERE pid = $1", &[&pid])?.is_none())
        })?;
        ensure!(session.exec("COMMIT").is_err(), "the session has outlived {self:?}");
        Ok(())
    }

    /// Whether an error is what this failure gives; none = the connection has gone.
    fn explains(self, error: Option<Refusal>) -> Result<()> {
        let code = error.as_ref().map(|refusal| refusal.code.as_str());
        let fits = match self {
            Blow::Cancel | Blow::Timeout => code == Some("57014"),
            // What the server says as it goes down doesn't always arrive.
            Blow::Terminate => matches!(code, Some("57P01") | None),
            Blow::Kill9 | Blow::Postmaster => matches!(code, Some("57P02") | None),
        };
        ensure!(fits, "not the error of {self:?}: {error:?}");
        Ok(())
    }
}
