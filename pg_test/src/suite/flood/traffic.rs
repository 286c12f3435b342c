//! A client that is out of its mind, and clients that go about their business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use postgres::{Client, Config, NoTls};

use crate::suite::ledger::{Ledger, Subject};
use crate::suite::provoker::Stage;

/// Sessions of the flood, as a connection pool gives them to a client.
const FLOODERS: u32 = 16;

/// How many refusals a flooder provokes in one statement: the machine is to refuse, not to talk.
const BATCH: u32 = 50;

/// Clients of the other tenants.
const WRITERS: u32 = 8;

/// How often each of them commits, if the machine can.
pub const COMMITS_A_SECOND: u32 = 50;

/// What a thread waits until it looks again whether it is to begin or to end.
const IDLE: Duration = Duration::from_millis(1);

/// Threads that each count something up, until they are stopped.
struct Crew<T> {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<T>>>,
}

impl<T: Send + 'static> Crew<T> {
    fn start(
        configs: Vec<Config>,
        work: impl Fn(usize, &mut Client, &Shift) -> Result<T> + Clone + Send + 'static,
    ) -> Crew<T> {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = configs.into_iter().enumerate().map(|(number, config)| {
            let (work, shift) = (work.clone(), Shift { stop: Arc::clone(&stop), count: Arc::clone(&count) });
            std::thread::spawn(move || work(number, &mut config.connect(NoTls)?, &shift))
        });
        let threads = threads.collect();
        Crew { stop, count, threads }
    }

    fn counted(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn end(mut self) -> Result<Vec<T>> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = std::mem::take(&mut self.threads).into_iter();
        joined.map(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?).collect()
    }
}

impl<T> Drop for Crew<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A thread's view of its crew.
struct Shift {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Shift {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, more: u64) {
        self.count.fetch_add(more, Ordering::Relaxed);
    }
}

/// A pace that isn't made up for: who comes late begins the next turn late.
struct Pace {
    interval: Option<Duration>,
    next: Instant,
}

impl Pace {
    fn new(interval: Option<Duration>) -> Pace {
        Pace { interval, next: Instant::now() }
    }

    fn keep(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = Instant::now();
        if now < self.next {
            std::thread::sleep(self.next - now);
        }
        self.next = self.next.max(now) + interval;
    }
}

/// The flood.
pub struct Flood(Crew<Ledger>);

impl Flood {
    /// Gets ready to provoke so many refusals a second while `on`. Each session has a tenant of its own to offend with.
    pub fn start(stage: &Stage, a_second: u32, on: &Arc<AtomicBool>) -> Result<Flood> {
        let config = stage.database.session().role(&stage.rebuilt).application_name("flood").config()?;
        let on = Arc::clone(on);
        let interval = Duration::from_secs(1) * FLOODERS * BATCH / a_second;
        let crew = Crew::start(vec![config; FLOODERS as usize], move |number, client, shift| {
            let (mut ledger, mut pace) = (Ledger::default(), Pace::new(Some(interval)));
            let tenant = format!("tenant {number}");
            let batch = client.prepare(&format!("SELECT provoke($1, {BATCH})"))?;
            while !shift.is_over() {
                if !on.load(Ordering::Relaxed) {
                    std::thread::sleep(IDLE);
                    continue;
                }
                pace.keep();
                let refused: i32 = client.query_one(&batch, &[&tenant])?.try_get(0)?;
                ensure!(refused.unsigned_abs() == BATCH, "{refused} of {BATCH} writes refused");
                ledger.told(Subject::new("not_owner", "public.orders", &tenant), u64::from(BATCH));
                shift.count(u64::from(BATCH));
            }
            Ok(ledger)
        });
        Ok(Flood(crew))
    }

    /// How many refusals there were so far.
    pub fn told(&self) -> u64 {
        self.0.counted()
    }

    /// Ends it; what was refused.
    pub fn end(self) -> Result<Ledger> {
        let mut all = Ledger::default();
        for ledger in self.0.end()? {
            all.add(ledger);
        }
        Ok(all)
    }
}

/// The legacy backend's clients, each with a tenant of its own.
pub struct Tenants {
    config: Config,
}

impl Tenants {
    /// Makes their table.
    pub fn prepare(stage: &Stage) -> Result<Tenants> {
        let legacy = stage.database.role("legacy")?;
        stage.database.connect()?.exec(&format!(
            "CREATE TABLE accounts (tenant text PRIMARY KEY, balance int NOT NULL) WITH (fillfactor = 50);
             INSERT INTO accounts SELECT 'account ' || n, 0 FROM generate_series(0, {WRITERS} - 1) n;
             GRANT ALL ON accounts TO {legacy};
             SELECT holdfast.add_identity('legacy', role => '{legacy}');
             SELECT holdfast.guard_table('accounts', 'tenant')"
        ))?;
        let config = stage.database.session().role(&legacy).config()?;
        Ok(Tenants { config })
    }

    /// They begin to commit, at [`COMMITS_A_SECOND`] each or as fast as they can.
    pub fn start(&self, paced: bool) -> Writers {
        let interval = paced.then(|| Duration::from_secs(1) / COMMITS_A_SECOND);
        Writers(Crew::start(vec![self.config.clone(); WRITERS as usize], move |number, client, shift| {
            let mut pace = Pace::new(interval);
            let tenant = format!("account {number}");
            let write = client.prepare("UPDATE accounts SET balance = balance + 1 WHERE tenant = $1")?;
            while !shift.is_over() {
                pace.keep();
                ensure!(client.execute(&write, &[&tenant])? == 1, "no {tenant}");
                shift.count(1);
            }
            Ok(())
        }))
    }
}

/// The other tenants' clients at work.
pub struct Writers(Crew<()>);

impl Writers {
    /// How many transactions they committed so far.
    pub fn committed(&self) -> u64 {
        self.0.counted()
    }

    /// Ends them.
    pub fn end(self) -> Result<()> {
        self.0.end().map(drop)
    }
}
