//! Many clients of both backends on few server connections, some of which misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use postgres::types::Type;
use postgres::{Client, Config, NoTls};

use crate::wait::within;

/// Tenants that are written, and move.
pub const TENANTS: usize = 40;

/// Rows of each.
pub const ROWS: usize = 20;

/// One in so many transactions ends otherwise than by COMMIT.
const ODD: u32 = 50;

/// One in so many goes to whatever tenant, whoever owns it.
const STRAY: u32 = 100;

/// What a client waits until it looks again whether it is to go on.
const IDLE: Duration = Duration::from_millis(2);

/// What clients share: whom they take for a tenant's owner, and whether they are to work.
#[derive(Default)]
pub struct Board {
    /// By tenant: the number of its backend.
    pub owners: Vec<AtomicU32>,
    /// Whether transactions are begun.
    pub on: AtomicBool,
    /// Whether tenants are handed over meanwhile.
    pub moving: AtomicBool,
    stop: AtomicBool,
    connected: AtomicU64,
    committed: AtomicU64,
    refused: AtomicU64,
    odd: AtomicU64,
}

impl Board {
    /// All tenants belong to the first backend.
    pub fn new() -> Arc<Board> {
        Arc::new(Board { owners: (0..TENANTS).map(|_| AtomicU32::new(0)).collect(), ..Board::default() })
    }

    /// Whether clients have been told to go.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Transactions that were committed.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Transactions that were refused, or held too long.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Transactions that ended oddly.
    pub fn odd(&self) -> u64 {
        self.odd.load(Ordering::Relaxed)
    }
}

/// How clients of a backend come in.
#[derive(Clone)]
pub struct Door {
    /// Where they connect to.
    pub config: Config,
    /// The backend's name.
    pub backend: &'static str,
    /// Whether the pooler survives cancel requests of our driver.
    pub cancels: bool,
    /// Shown in each transaction, if there is one.
    pub token: Option<String>,
}

/// Clients at work. Dropping it has them stop.
pub struct Fleet {
    board: Arc<Board>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Fleet {
    /// Starts so many clients, of each backend as many, and waits until they are connected.
    pub fn start(board: &Arc<Board>, doors: &[Door; 2], clients: usize) -> Result<Fleet> {
        let start = |number: usize| {
            let (board, backend) = (Arc::clone(board), number % 2);
            let door = doors[backend].clone();
            std::thread::spawn(move || Member { board, door, backend: backend as u32 }.work())
        };
        let mut fleet = Fleet { board: Arc::clone(board), threads: (0..clients).map(start).collect() };
        within(Duration::from_secs(60), "all clients to be connected", || {
            if let Some(ended) = fleet.threads.iter().position(JoinHandle::is_finished) {
                Fleet::join(fleet.threads.swap_remove(ended))?;
                bail!("a client has gone");
            }
            Ok(board.connected.load(Ordering::Relaxed) == clients as u64)
        })?;
        Ok(fleet)
    }

    /// Ends them; an error if any met what it should not have.
    pub fn end(mut self) -> Result<()> {
        self.board.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().try_for_each(Fleet::join)
    }

    fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
        thread.join().map_err(|_| anyhow!("a client panicked"))?
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.board.stop.store(true, Ordering::Relaxed);
    }
}

struct Member {
    board: Arc<Board>,
    door: Door,
    backend: u32,
}

impl Member {
    fn work(&self) -> Result<()> {
        let mut client = self.connect()?;
        self.board.connected.fetch_add(1, Ordering::Relaxed);
        while !self.board.stop.load(Ordering::Relaxed) {
            if !self.board.on.load(Ordering::Relaxed) {
                std::thread::sleep(IDLE);
                continue;
            }
            let tenant = self.choose();
            if let Err(error) = self.write(&mut client, tenant) {
                self.took_refusal(&error).context("a write")?;
                client.batch_execute("ROLLBACK")?;
            } else if fastrand::u32(..ODD) == 0 {
                self.board.odd.fetch_add(1, Ordering::Relaxed);
                if self.end_oddly(&mut client)? {
                    client = self.connect()?;
                }
            } else {
                client.batch_execute("COMMIT").context("COMMIT")?;
                self.board.committed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn connect(&self) -> Result<Client> {
        self.door.config.connect(NoTls).context("a client connects")
    }

    /// A tenant of its own, as far as it knows; now and then any.
    fn choose(&self) -> usize {
        let any = || fastrand::usize(..TENANTS);
        let stray = fastrand::u32(..STRAY) == 0;
        let mine = |tenant: &usize| stray || self.board.owners[*tenant].load(Ordering::Relaxed) == self.backend;
        (0..TENANTS).map(|_| any()).find(mine).unwrap_or_else(any)
    }

    /// Everything of a transaction but its end. Each row says who thinks to have written it, and who Holdfast thinks it was.
    fn write(&self, client: &mut Client, tenant: usize) -> Result<(), postgres::Error> {
        let tenant = tenant as i32;
        client.batch_execute("BEGIN")?;
        if let Some(token) = &self.door.token {
            client.query_typed("SELECT holdfast.identify($1)", &[(token, Type::TEXT)])?;
        }
        let row = fastrand::i32(0..ROWS as i32);
        let sql = "UPDATE accounts SET writes = writes + 1 WHERE tenant = $1 AND id = $2";
        client.query_typed(sql, &[(&tenant, Type::INT4), (&row, Type::INT4)])?;
        // By now the tenant is held, so its owner is the same at this time and at the commit.
        let sql = "INSERT INTO writes (tenant, client, identity, at) VALUES ($1, $2, who(), clock_timestamp())";
        client.query_typed(sql, &[(&tenant, Type::INT4), (&self.door.backend, Type::TEXT)])?;
        Ok(())
    }

    /// Whether a client that writes may meet this: the tenant has moved, or is about to.
    fn took_refusal(&self, error: &postgres::Error) -> Result<()> {
        match error.code().map(|code| code.code()) {
            Some("WG001" | "55P03" | "40P01") => {
                self.board.refused.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            code => bail!("{}: {code:?} {error}: {:?}", self.door.backend, error.as_db_error()),
        }
    }

    /// Ends the transaction in some other way; whether the connection is of no use any more.
    fn end_oddly(&self, client: &mut Client) -> Result<bool> {
        match fastrand::u32(..5) {
            0 => client.batch_execute("ROLLBACK")?,
            1 => {
                ensure!(client.batch_execute("SELECT 1/0").is_err());
                client.batch_execute("ROLLBACK")?;
            }
            2 if !self.door.cancels => {
                let sql = "SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(1)";
                ensure!(client.batch_execute(sql).is_err());
                client.batch_execute("ROLLBACK")?;
            }
            2 => {
                let token = client.cancel_token();
                let canceller = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    token.cancel_query(NoTls)
                });
                // It may come late.
                let _ = client.batch_execute("SELECT pg_sleep(0.05)");
                let _ = canceller.join();
                return Ok(true);
            }
            3 => {
                client.batch_execute("ROLLBACK")?;
                client.batch_execute("DISCARD ALL")?;
                return Ok(true);
            }
            // In mid-transaction.
            _ => return Ok(true),
        }
        Ok(false)
    }
}
