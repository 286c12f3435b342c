//! Statements under way: run on a thread, watched from outside.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client::{Refusal, Rows, Session, is_blocked};
use crate::endpoint::Endpoint;
use crate::wait::eventually;

/// A statement that takes longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Work of a session that goes on while the test does something else.
pub struct Pending<T = Rows> {
    what: String,
    pid: i32,
    endpoint: Endpoint,
    result: Receiver<(Session, Result<T>)>,
    done: Option<(Session, Result<T>)>,
}

impl Pending {
    pub(crate) fn start(session: Session, sql: String) -> Pending {
        let what = sql.clone();
        Pending::start_with(session, what, move |session| session.rows(&sql))
    }

    /// Waits for the end, which must be a refusal.
    pub fn finish_refused(self) -> Result<(Session, Refusal)> {
        let what = self.what.clone();
        let (session, result) = self.finish()?;
        match result {
            Ok(_) => bail!("succeeded but should be refused: {what}"),
            Err(error) => {
                let refusal = Refusal::of(&error).ok_or(error)?;
                Ok((session, refusal))
            }
        }
    }
}

impl<T: Send + 'static> Pending<T> {
    pub(crate) fn start_with(
        mut session: Session,
        what: String,
        work: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let (pid, endpoint) = (session.pid(), session.endpoint().clone());
        let (sender, result) = channel();
        std::thread::spawn(move || {
            let outcome = work(&mut session);
            // A test that failed meanwhile doesn't listen any more.
            let _ = sender.send((session, outcome));
        });
        Pending { what, pid, endpoint, result, done: None }
    }

    /// The process id of the session's server process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until the session waits for a heavyweight lock; an error if it ends instead.
    pub fn wait_until_blocked(&mut self) -> Result<()> {
        let mut observer = self.endpoint.observe("postgres")?;
        let pid = self.pid;
        eventually(&format!("session {pid} to wait for a lock"), || {
            if self.is_finished() {
                bail!("has finished instead of waiting for a lock: {}", self.what);
            }
            is_blocked(&mut observer, pid)
        })
    }

    /// Whether it has ended, one way or the other.
    pub fn is_finished(&mut self) -> bool {
        if self.done.is_none() {
            match self.result.try_recv() {
                Ok(outcome) => self.done = Some(outcome),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {}
            }
        }
        true
    }

    /// Cancels the statement, as ^C in psql does.
    pub fn cancel(&self) -> Result<()> {
        self.signal("SELECT pg_catalog.pg_cancel_backend($1)")
    }

    /// Ends the session's server process in an orderly way.
    pub fn terminate(&self) -> Result<()> {
        self.signal("SELECT pg_catalog.pg_terminate_backend($1)")
    }

    /// Waits for the end; gives the session back with what came out.
    pub fn finish(mut self) -> Result<(Session, Result<T>)> {
        if let Some(outcome) = self.done.take() {
            return Ok(outcome);
        }
        match self.result.recv_timeout(DEADLINE) {
            Ok(outcome) => Ok(outcome),
            Err(RecvTimeoutError::Timeout) => {
                self.terminate()?;
                bail!("hangs, now terminated: {}", self.what)
            }
            Err(RecvTimeoutError::Disconnected) => bail!("panicked: {}", self.what),
        }
    }

    fn signal(&self, sql: &str) -> Result<()> {
        let mut observer = self.endpoint.observe("postgres")?;
        observer.query_one(sql, &[&self.pid]).context("signalling a session")?;
        Ok(())
    }
}
