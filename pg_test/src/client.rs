//! Named sessions over real connections.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use postgres::error::DbError;
use postgres::types::FromSqlOwned;
use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::endpoint::Endpoint;
use crate::pending::Pending;
use crate::wait::eventually;

/// Rows in text form; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// An error or notice of the server, with the fields a driver sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// ERROR, FATAL, WARNING, NOTICE, ...
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// DETAIL.
    pub detail: Option<String>,
    /// HINT.
    pub hint: Option<String>,
    /// The schema field.
    pub schema: Option<String>,
    /// The table field.
    pub table: Option<String>,
    /// The column field.
    pub column: Option<String>,
    /// The constraint field; holdfast puts the rule's name there.
    pub constraint: Option<String>,
}

impl Refusal {
    /// The server's error in `error`, if that is what went wrong.
    pub fn of(error: &anyhow::Error) -> Option<Refusal> {
        let error = error.chain().find_map(|cause| cause.downcast_ref::<postgres::Error>())?;
        error.as_db_error().map(Refusal::from)
    }
}

impl From<&DbError> for Refusal {
    fn from(error: &DbError) -> Refusal {
        let owned = |field: Option<&str>| field.map(str::to_owned);
        Refusal {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: owned(error.detail()),
            hint: owned(error.hint()),
            schema: owned(error.schema()),
            table: owned(error.table()),
            column: owned(error.column()),
            constraint: owned(error.constraint()),
        }
    }
}

/// A session: a connection of its own, dereferencing to [`postgres::Client`].
pub struct Session {
    client: Client,
    pid: i32,
    endpoint: Endpoint,
    notices: Arc<Mutex<Vec<Refusal>>>,
}

impl Session {
    /// Opens a connection. The reason of a failure is a server's error where there is one.
    pub fn connect(mut config: Config, endpoint: Endpoint) -> Result<Session> {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&notices);
        config.notice_callback(move |notice| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(Refusal::from(&notice));
        });
        let mut client = config.connect(NoTls).context("connecting")?;
        let pid = client.query_one("SELECT pg_catalog.pg_backend_pid()", &[])?.try_get(0)?;
        Ok(Session { client, pid, endpoint, notices })
    }

    /// The process id of the session's server process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Runs statements, in one implicit transaction unless they begin their own.
    pub fn exec(&mut self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).map_err(|error| explain(error, sql))
    }

    /// The single value of the single row of a query.
    pub fn one<T: FromSqlOwned>(&mut self, sql: &str) -> Result<T> {
        let row = self.client.query_one(sql, &[]).map_err(|error| explain(error, sql))?;
        row.try_get(0).map_err(|error| explain(error, sql))
    }

    /// All rows of a query in text form, over the simple protocol.
    pub fn rows(&mut self, sql: &str) -> Result<Rows> {
        let messages = self.client.simple_query(sql).map_err(|error| explain(error, sql))?;
        let mut rows = Rows::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                let text = |column| row.try_get(column).map(|value| value.map(str::to_owned));
                rows.push((0..row.len()).map(text).collect::<Result<_, _>>()?);
            }
        }
        Ok(rows)
    }

    /// Runs statements that the server must refuse; an error if it doesn't.
    pub fn refused(&mut self, sql: &str) -> Result<Refusal> {
        match self.client.batch_execute(sql) {
            Ok(()) => bail!("succeeded but should be refused: {sql}"),
            Err(error) => match error.as_db_error() {
                Some(refusal) => Ok(Refusal::from(refusal)),
                None => Err(explain(error, sql)),
            },
        }
    }

    /// The notices and warnings since the last call.
    pub fn notices(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs statements on a thread of their own, for what is expected to block.
    pub fn start(self, sql: &str) -> Pending {
        Pending::start(self, sql.to_owned())
    }

    /// Runs any work on a thread of its own.
    pub fn start_with<T: Send + 'static>(
        self,
        what: &str,
        work: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        Pending::start_with(self, what.to_owned(), work)
    }

    /// Waits until this session's server process waits for a heavyweight lock.
    pub fn wait_until_blocked(&self) -> Result<()> {
        let mut observer = self.endpoint.observe("postgres")?;
        let pid = self.pid;
        eventually(&format!("session {pid} to wait for a lock"), || is_blocked(&mut observer, pid))
    }

    /// Where this session's cluster listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the connection is gone, as after a FATAL error or a crash.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Whether the server process `pid` waits for a heavyweight lock.
pub(crate) fn is_blocked(observer: &mut Client, pid: i32) -> Result<bool> {
    let sql = "SELECT 1 FROM pg_catalog.pg_stat_activity \
               WHERE pid = $1 AND state = 'active' AND wait_event_type = 'Lock'";
    Ok(observer.query_opt(sql, &[&pid])?.is_some())
}

/// The error with everything the server said, and the statement.
fn explain(error: postgres::Error, sql: &str) -> anyhow::Error {
    let said = error.as_db_error().map(|refusal| {
        let field = |name: &str, value: Option<&str>| match value {
            Some(value) => format!("\n  {name}: {value}"),
            None => String::new(),
        };
        format!(
            "{} {}: {}{}{}",
            refusal.severity(),
            refusal.code().code(),
            refusal.message(),
            field("detail", refusal.detail()),
            field("hint", refusal.hint()),
        )
    });
    let said = said.unwrap_or_else(|| error.to_string());
    anyhow!(error).context(format!("{said}\n  statement: {sql}"))
}
