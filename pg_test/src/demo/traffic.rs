//! The traffic: a fixed number of users, each with one request at a time, served by whichever backend the router
//! names. A backend is a lane: a queue and a few connections of its login role that work it off.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use fastrand::Rng;
use parking_lot::RwLock;

use super::ledger::{Ledger, NOT_OWNER, Outcome, Told};
use super::meter::Meter;
use super::operation::{Attempt, Kind, Worker};
use super::router::Router;

/// How long an idle worker waits before it looks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// A request that isn't served after this many attempts is a fault.
const MOST_ATTEMPTS: u32 = 100;

/// What one user waits for.
struct Request {
    tenant: i32,
    kind: Kind,
    born: Instant,
    attempts: u32,
}

/// Which tenants the requests are for.
#[derive(Clone, Default)]
pub struct Aim {
    /// Tenants that get every other request; none: all tenants get the same.
    pub hot: Vec<i32>,
}

struct Lane {
    queue: Sender<Request>,
    work: Receiver<Request>,
}

/// The users, the router and the queues between them and the backends.
pub struct Traffic {
    /// Who serves whom.
    pub router: Router,
    /// What the clients were told.
    pub ledger: Ledger,
    /// What the clients felt.
    pub meter: Meter,
    lanes: [Lane; 2],
    aim: RwLock<Aim>,
    tenants: i32,
    waiting: AtomicUsize,
    closing: AtomicBool,
    failed: AtomicBool,
}

impl Traffic {
    /// No users yet.
    pub fn new(tenants: i32, router: Router, meter: Meter) -> Traffic {
        let lane = || {
            let (queue, work) = unbounded();
            Lane { queue, work }
        };
        Traffic {
            router,
            ledger: Ledger::default(),
            meter,
            lanes: [lane(), lane()],
            aim: RwLock::default(),
            tenants,
            waiting: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    /// Lets `users` in; each sends its next request when it has been served.
    pub fn open(&self, users: usize, random: &mut Rng) -> Result<()> {
        for _ in 0..users {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.send_new(random)?;
        }
        Ok(())
    }

    /// Points half of the requests at these tenants.
    pub fn aim_at(&self, hot: &[i32]) {
        self.aim.write().hot = hot.to_vec();
    }

    /// Sends nobody away unserved, but lets nobody ask again.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Ends at once, because something went wrong.
    pub fn abort(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Whether a worker met an error that it can't explain; its thread returns it.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Works off a backend's queue until the traffic ends.
    pub fn serve(&self, worker: &mut Worker, seed: u64) -> Result<()> {
        let mut random = Rng::with_seed(seed);
        let result = self.work_off(worker, &mut random);
        if result.is_err() {
            self.abort();
        }
        result
    }

    fn work_off(&self, worker: &mut Worker, random: &mut Rng) -> Result<()> {
        let lane = &self.lanes[worker.backend().index()];
        while !self.has_failed() {
            match lane.work.recv_timeout(PATIENCE) {
                Ok(request) => self.attempt(worker, request, random)?,
                Err(RecvTimeoutError::Timeout) if self.waiting.load(Ordering::Relaxed) > 0 => {}
                Err(RecvTimeoutError::Timeout) if !self.closing.load(Ordering::Relaxed) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn attempt(&self, worker: &mut Worker, mut request: Request, random: &mut Rng) -> Result<()> {
        request.attempts += 1;
        let backend = worker.backend();
        let outcome = self.perform(worker, request.tenant, request.kind, random, false);
        match outcome {
            Outcome::Committed => {
                self.meter.committed(backend, request.born.elapsed());
                if self.closing.load(Ordering::Relaxed) {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    return Ok(());
                }
                return self.send_new(random);
            }
            Outcome::Refused(rule) if rule == NOT_OWNER => {
                self.router.forget(request.tenant);
                self.meter.rerouted();
            }
            Outcome::TryAgain(sqlstate) => self.meter.retried(&sqlstate),
            other => bail!("{} client, {:?} of tenant {}: {other:?}", backend.name(), request.kind, request.tenant),
        }
        if request.attempts == MOST_ATTEMPTS {
            bail!("{:?} of tenant {} found no owner in {MOST_ATTEMPTS} attempts", request.kind, request.tenant);
        }
        self.send(request)
    }

    /// One attempt, noted in the ledger. `misdirected` marks one that the backend knows it must not make.
    pub fn perform(
        &self,
        worker: &mut Worker,
        tenant: i32,
        kind: Kind,
        random: &mut Rng,
        misdirected: bool,
    ) -> Outcome {
        let attempt = Attempt { id: self.ledger.next_id(), tenant, kind };
        let mut written = Vec::new();
        let outcome = match worker.perform(attempt, random, &mut written) {
            Ok(()) => Outcome::Committed,
            Err(error) => Outcome::of(&error),
        };
        self.ledger.note(Told {
            id: attempt.id,
            tenant,
            backend: worker.backend(),
            written,
            outcome: outcome.clone(),
            misdirected,
        });
        outcome
    }

    fn send_new(&self, random: &mut Rng) -> Result<()> {
        let aim = self.aim.read();
        let tenant = match random.choice(&aim.hot) {
            Some(hot) if random.bool() => *hot,
            _ => random.i32(1..=self.tenants),
        };
        drop(aim);
        self.send(Request { tenant, kind: Kind::draw(random), born: Instant::now(), attempts: 0 })
    }

    fn send(&self, request: Request) -> Result<()> {
        let backend = self.router.backend_of(request.tenant)?;
        if self.lanes[backend.index()].queue.send(request).is_err() {
            bail!("the queue of {} is closed", backend.name());
        }
        Ok(())
    }
}
