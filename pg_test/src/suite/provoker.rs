//! Clients that do nothing but provoke refusals, one way or another, and keep a ledger of what they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use fastrand::Rng;
use postgres::{Client, Config, NoTls};

use super::ledger::{Ledger, Subject};
use crate::cluster::Cluster;
use crate::database::{Database, Role};
use crate::wait::within;

/// How often a function that swallows refusals provokes them, at most.
const MOST_SWALLOWED: i32 = 4;

/// How long to wait before another try to connect to a server that is down.
const PAUSE: Duration = Duration::from_millis(5);

/// A migration in enforce mode whose rebuilt backend may write `orders`, and owns nothing but the tenant `mine`. Each
/// client has a global and an unclassified table of its own to offend with.
pub struct Stage {
    /// The database.
    pub database: Database,
    /// The login role of the clients.
    pub rebuilt: Role,
    clients: usize,
}

impl Stage {
    /// Sets the stage for so many clients.
    pub fn set(cluster: &Cluster, prefix: &str, clients: usize) -> Result<Stage> {
        let database = cluster.guarded_database(prefix)?;
        let rebuilt = database.role("rebuilt")?;
        let mut dba = database.connect()?;
        dba.exec(
            "CREATE TABLE orders (tenant text NOT NULL, note text);
             CREATE FUNCTION provoke(tenant text, times int) RETURNS int LANGUAGE plpgsql AS $$
             DECLARE swallowed int := 0;
             BEGIN
                 FOR n IN 1..times LOOP
                     BEGIN
                         INSERT INTO orders VALUES (tenant);
                     EXCEPTION WHEN SQLSTATE 'WG001' THEN swallowed := swallowed + 1;
                     END;
                 END LOOP;
                 RETURN swallowed;
             END $$",
        )?;
        dba.exec(&format!(
            "SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
             SELECT holdfast.add_identity('rebuilt', role => '{rebuilt}');
             SELECT holdfast.guard_table('orders', 'tenant');
             SELECT holdfast.allow_writes('rebuilt', 'orders');
             SELECT holdfast.set_mode('enforce')"
        ))?;
        for n in 0..clients {
            dba.exec(&format!(
                "CREATE TABLE plans_{n} (id int); SELECT holdfast.guard_global('plans_{n}'); CREATE TABLE loose_{n} (id int)"
            ))?;
        }
        dba.exec(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {rebuilt}"))?;
        dba.exec("SELECT holdfast.cutover('mine', 'rebuilt', require_ready => false)")?;
        Ok(Stage { database, rebuilt, clients })
    }

    /// Starts the clients. Every other one says that it doesn't care for its commits.
    pub fn provoke(&self, seed: u64) -> Result<Provocation> {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = Vec::new();
        for number in 0..self.clients {
            let session = self.database.session().role(&self.rebuilt);
            let session = if number % 2 == 0 { session } else { session.option("synchronous_commit", "off") };
            let provoker = Provoker {
                number,
                config: session.config()?,
                random: Rng::with_seed(seed.wrapping_add(number as u64)),
                attempts: 0,
                ledger: Ledger::default(),
                told: Arc::clone(&told),
            };
            let stop = Arc::clone(&stop);
            clients.push(std::thread::spawn(move || provoker.run(&stop)));
        }
        Ok(Provocation { stop, told, clients })
    }

    /// The rows that were written in spite of all refusals.
    pub fn written(&self) -> Result<i64> {
        let tables: Vec<String> =
            (0..self.clients).flat_map(|n| [format!("plans_{n}"), format!("loose_{n}")]).collect();
        let mut sql = "SELECT (SELECT count(*) FROM orders WHERE tenant <> 'mine')".to_owned();
        for table in tables {
            sql.push_str(&format!(" + (SELECT count(*) FROM {table})"));
        }
        self.database.connect()?.one(&sql)
    }
}

/// Clients at work; dropping it stops them.
pub struct Provocation {
    stop: Arc<AtomicBool>,
    told: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<Ledger>>>,
}

impl Provocation {
    /// How many refusals the clients were told of so far.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Waits until the clients were told of so many more refusals: the server is up and recording.
    pub fn wait_for(&self, more: u64, patience: Duration) -> Result<()> {
        let enough = self.told() + more;
        within(patience, &format!("{more} more refusals"), || {
            if let Some(ended) = self.clients.iter().find(|client| client.is_finished()) {
                bail!("client {:?} has given up", ended.thread().id());
            }
            Ok(self.told() >= enough)
        })
    }

    /// Stops the clients; what they know.
    pub fn end(mut self) -> Result<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for client in std::mem::take(&mut self.clients) {
            all.add(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(all)
    }
}

impl Drop for Provocation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One client.
struct Provoker {
    number: usize,
    config: Config,
    random: Rng,
    attempts: u64,
    ledger: Ledger,
    told: Arc<AtomicU64>,
}

impl Provoker {
    fn run(mut self, stop: &AtomicBool) -> Result<Ledger> {
        while !stop.load(Ordering::Relaxed) {
            let Ok(mut client) = self.config.connect(NoTls) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            while !stop.load(Ordering::Relaxed) && !client.is_closed() {
                self.attempt(&mut client)?;
            }
        }
        Ok(self.ledger)
    }

    /// Tenants that nobody else tries make a lost or doubled event stand out; one that all try, and one that only this
    /// client tries, give events a reason to become one.
    fn tenant(&mut self) -> String {
        self.attempts += 1;
        match self.random.u8(0..10) {
            0 | 1 => "everybody's".to_owned(),
            2 | 3 => format!("client {}", self.number),
            _ => format!("client {}, attempt {}", self.number, self.attempts),
        }
    }

    fn attempt(&mut self, client: &mut Client) -> Result<()> {
        let number = self.number;
        match self.random.u8(0..9) {
            0 => self.rule(client, "global_write", "WG011", &format!("plans_{number}"), "INSERT INTO {} VALUES (1)"),
            1 => self.rule(client, "outside_surface", "WG010", &format!("loose_{number}"), "INSERT INTO {} VALUES (1)"),
            2 => self.rule(client, "destructive_command", "WG016", &format!("plans_{number}"), "TRUNCATE {}"),
            3 => self.in_savepoints(client),
            4 | 5 => self.swallowed(client),
            6 => self.parameter(client),
            _ => self.plain(client),
        }
    }

    fn rule(&mut self, client: &mut Client, rule: &str, code: &str, table: &str, sql: &str) -> Result<()> {
        let subject = Subject::new(rule, &format!("public.{table}"), "");
        let outcome = client.batch_execute(&sql.replace("{}", table));
        self.write_down(subject, code, outcome)
    }

    fn plain(&mut self, client: &mut Client) -> Result<()> {
        let tenant = self.tenant();
        let outcome = client.batch_execute(&format!("INSERT INTO orders VALUES ({})", literal(&tenant)));
        self.write_down(not_owner(&tenant), "WG001", outcome)
    }

    fn parameter(&mut self, client: &mut Client) -> Result<()> {
        let tenant = self.tenant();
        let outcome = client.execute("INSERT INTO orders VALUES ($1)", &[&tenant]).map(drop);
        self.write_down(not_owner(&tenant), "WG001", outcome)
    }

    /// Refused in a savepoint, then outside of one; the transaction's own write goes with it.
    fn in_savepoints(&mut self, client: &mut Client) -> Result<()> {
        if !proceed(client.batch_execute("BEGIN; INSERT INTO orders VALUES ('mine'); SAVEPOINT s"))? {
            return Ok(());
        }
        self.plain(client)?;
        if proceed(client.batch_execute("ROLLBACK TO s; SAVEPOINT t"))? {
            self.plain(client)?;
        }
        proceed(client.batch_execute("ROLLBACK")).map(drop)
    }

    /// No error reaches the client; the function's result tells of its refusals.
    fn swallowed(&mut self, client: &mut Client) -> Result<()> {
        let (tenant, times) = (self.tenant(), self.random.i32(1..=MOST_SWALLOWED));
        let subject = not_owner(&tenant);
        match client.query_one("SELECT provoke($1, $2)", &[&tenant, &times]) {
            Ok(row) => {
                let swallowed: i32 = row.try_get(0)?;
                if swallowed != times {
                    bail!("{swallowed} of {times} writes refused: {subject}");
                }
                self.ledger.told(subject, u64::from(times.unsigned_abs()));
                self.told.fetch_add(u64::from(times.unsigned_abs()), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.ledger.untold(subject, u64::from(times.unsigned_abs()));
                proceed(Err(error)).map(drop)
            }
        }
    }

    fn write_down(&mut self, subject: Subject, code: &str, outcome: Result<(), postgres::Error>) -> Result<()> {
        match outcome {
            Ok(()) => bail!("not refused: {subject}"),
            Err(error) if error.code().is_some_and(|given| given.code() == code) => {
                self.ledger.told(subject, 1);
                self.told.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.ledger.untold(subject, 1);
                proceed(Err(error)).map(drop)
            }
        }
    }
}

fn not_owner(tenant: &str) -> Subject {
    Subject::new("not_owner", "public.orders", tenant)
}

/// Whether the session can go on; an error where the server complains of anything but the end of the session or of the
/// statement.
fn proceed(outcome: Result<(), postgres::Error>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) => match error.code() {
            // Operator intervention, and aborted transactions that follow from it.
            Some(code) if !code.code().starts_with("57") && code.code() != "25P02" => {
                Err(anyhow!(error).context("a client was told something else than its refusal"))
            }
            _ => Ok(false),
        },
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
