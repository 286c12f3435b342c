//! Where a handover can be stopped, and by whom.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use postgres::Client;

use super::super::two_backends::{NOT_OWNER, TwoBackends, is, write};
use super::{Handover, Point};
use crate::client::{Refusal, Session};
use crate::cluster::Cluster;
use crate::pending::Pending;
use crate::wait::within;

/// A tenant besides the point's that rebuilt owns.
pub const OF_REBUILT: i32 = 90;

/// One that legacy owns.
const OF_LEGACY: i32 = 91;

/// Getting to a step on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a handover is about to do when it is stopped, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begin a wave. `wave` is locked against those who lock rows.
    BeginWave,
    /// Pick a tenant of the wave. `wave_tenant` is locked against those who lock rows.
    PickTenant,
    /// Look at the owner before it locks anything. `ownership` is locked.
    Look,
    /// See to it that who may own stays as it is. Somebody retires a backend.
    Owners,
    /// Take the tenant's lock. A writer has it.
    TenantLock,
    /// Announce itself to those who share all tenants. A writer of many does.
    AllLock,
    /// Take the tenant's lock once more, after a deadlock in which it stepped back.
    SecondTry,
    /// Read the row again under its locks. `ownership` is locked since it waited for the tenant.
    Reread,
    /// Change the row. `ownership` is locked against writers.
    Change,
    /// The same; the row is locked.
    Row,
    /// Write history. `ownership_change` is locked against writers.
    Record,
    /// Note that the wave's tenant has moved. `wave_tenant` is locked against writers.
    NoteTenant,
    /// Commit, in a transaction with more to it. Nobody stops it.
    BeforeCommit,
    /// Commit, and tell listeners first. Another commit that does is under way.
    Notify,
    /// End its commit, which is in the log. The standby doesn't answer.
    Standby,
}

impl Step {
    const ALL: [Step; 15] = [
        Step::BeginWave,
        Step::PickTenant,
        Step::Look,
        Step::Owners,
        Step::TenantLock,
        Step::AllLock,
        Step::SecondTry,
        Step::Reread,
        Step::Change,
        Step::Row,
        Step::Record,
        Step::NoteTenant,
        Step::BeforeCommit,
        Step::Notify,
        Step::Standby,
    ];

    /// Those of a handover. A wave runs in no transaction of the client's; its first commit is none of a tenant's, so who stops it when
    /// it commits doesn't get any further.
    pub fn of(handover: Handover) -> impl Iterator<Item = Step> {
        Step::ALL.into_iter().filter(move |step| match step {
            Step::BeginWave | Step::PickTenant | Step::NoteTenant => handover == Handover::Wave,
            Step::BeforeCommit | Step::Standby => handover != Handover::Wave,
            _ => true,
        })
    }

    /// What the handover waits for there.
    pub fn waits_for(self) -> &'static str {
        match self {
            Step::Look | Step::Reread | Step::Change => "relation holdfast.ownership",
            Step::BeginWave => "relation holdfast.wave",
            Step::PickTenant | Step::NoteTenant => "relation holdfast.wave_tenant",
            Step::Owners => "advisory 18506",
            Step::TenantLock | Step::SecondTry => "advisory 18502",
            Step::AllLock => "advisory 18503",
            Step::Row => "transactionid",
            Step::Record => "relation holdfast.ownership_change",
            Step::BeforeCommit => "ClientRead",
            Step::Notify => "object",
            Step::Standby => "SyncRep",
        }
    }

    /// Whether writers of the tenant are held meanwhile.
    fn holds_writers(self, handover: Handover) -> bool {
        match self {
            Step::BeginWave | Step::PickTenant | Step::Look | Step::Owners => false,
            Step::Notify => handover != Handover::Wave,
            _ => true,
        }
    }
}

/// A handover that stands still.
pub struct Stopped {
    handover: Stood,
    /// A writer of the tenant, whom the handover holds.
    held: Option<Pending>,
    /// The sessions in its way.
    idle: Vec<Session>,
    busy: Vec<Pending>,
}

enum Stood {
    Waiting(Pending),
    Idle(Session),
}

impl Stopped {
    /// Brings a handover to its step.
    pub fn at(point: &Point) -> Result<Stopped> {
        let mut idle = Vec::new();
        let mut busy = Vec::new();
        let (stage, tenant) = (point.stage, point.tenant);
        let (old, _) = point.handover.owners();
        let of_old = || stage.database.connect_as(stage.role(old));
        let other = if old == "legacy" { OF_LEGACY } else { OF_REBUILT };
        match point.step {
            Step::BeginWave => idle.push(locking(stage, "wave", "EXCLUSIVE")?),
            Step::PickTenant => idle.push(locking(stage, "wave_tenant", "EXCLUSIVE")?),
            Step::NoteTenant => idle.push(locking(stage, "wave_tenant", "SHARE")?),
            Step::Look => idle.push(locking(stage, "ownership", "ACCESS EXCLUSIVE")?),
            Step::Owners => idle.push(retiring(stage)?),
            Step::TenantLock | Step::Reread => {
                let mut writer = of_old()?;
                writer.exec(&format!("BEGIN; {}", write(tenant)))?;
                idle.push(writer);
            }
            Step::AllLock => idle.push(escalated(point)?),
            Step::SecondTry => {
                let mut second = of_old()?;
                second.exec(&format!("BEGIN; {}", write(other)))?;
                let mut first = escalated(point)?.start(&write(other));
                first.wait_until_blocked()?;
                idle.push(second);
                busy.push(first);
            }
            Step::Change => idle.push(locking(stage, "ownership", "SHARE")?),
            Step::Row => {
                let mut session = stage.operator()?;
                session.exec(&format!("BEGIN; SELECT FROM holdfast.ownership WHERE tenant = '{tenant}' FOR UPDATE"))?;
                idle.push(session);
            }
            Step::Record => idle.push(locking(stage, "ownership_change", "SHARE")?),
            Step::Notify => {
                let mut session = stage.operator()?;
                session.exec("SET synchronous_commit = on")?;
                // Only what has written to the log waits for a standby.
                let notify = "SELECT pg_logical_emit_message(true, 'test', ''), pg_notify('in_the_way', '')";
                let pending = session.start(notify);
                wait_for(&mut observer(stage)?, pending.pid(), "SyncRep")?;
                busy.push(pending);
            }
            Step::BeforeCommit | Step::Standby => {}
        }

        let mut session = stage.operator()?;
        session.exec(&point.blow.settings())?;
        if point.step == Step::Standby {
            session.exec("SET synchronous_commit = on")?;
        }
        let sql = point.handover.sql(&tenant.to_string());
        let pid = session.pid();
        let handover = if point.step == Step::BeforeCommit {
            session.exec(&format!("BEGIN; {sql}"))?;
            Stood::Idle(session)
        } else {
            Stood::Waiting(session.start(&sql))
        };

        let mut observer = observer(stage)?;
        match point.step {
            Step::Reread => {
                wait_for(&mut observer, pid, Step::TenantLock.waits_for())?;
                let in_the_way = locking(stage, "ownership", "ACCESS EXCLUSIVE")?;
                for mut writer in std::mem::replace(&mut idle, vec![in_the_way]) {
                    writer.exec("COMMIT")?;
                }
            }
            Step::SecondTry => {
                wait_for(&mut observer, pid, Step::AllLock.waits_for())?;
                for second in &mut idle {
                    // It queues for the tenant and closes the cycle; so it has the tenant when the handover steps back.
                    second.exec(&new_row(tenant))?;
                }
            }
            _ => {}
        }
        wait_for(&mut observer, pid, point.step.waits_for())?;
        let held = if point.step.holds_writers(point.handover) {
            let mut writer = of_old()?;
            writer.exec("SET holdfast.hold_timeout = '1 min'")?;
            let mut writer = writer.start(&new_row(tenant));
            writer.wait_until_blocked()?;
            Some(writer)
        } else {
            None
        };
        Ok(Stopped { handover, held, idle, busy })
    }

    /// Ends the handover, then lets everybody go on; whether it was committed.
    pub fn strike(self, point: &Point, cluster: &mut Cluster) -> Result<bool> {
        let mut committed = match self.handover {
            Stood::Waiting(pending) => point.blow.end(pending, cluster)?,
            Stood::Idle(session) => point.blow.end_idle(session, cluster).map(|()| false)?,
        };
        // What is in the log can't be called back, whatever the client was told.
        committed |= point.step == Step::Standby;
        let all_ended = point.blow.ends_all();
        for mut session in self.idle {
            ensure!(session.exec("COMMIT").is_err() == all_ended, "who was in the way could commit: {}", !all_ended);
        }
        for pending in self.busy {
            if !all_ended {
                pending.cancel()?;
            }
            // Cancelled or ended: what becomes of it isn't the point.
            let _ = pending.finish()?;
        }
        if let Some(held) = self.held {
            let result = held.finish()?.1;
            match (all_ended, committed) {
                (true, _) => ensure!(result.is_err(), "the crash has left a session"),
                (false, false) => {
                    result?;
                }
                (false, true) => match result.as_ref().err().and_then(Refusal::of) {
                    Some(refusal) => is(&refusal, NOT_OWNER)?,
                    None => bail!("the old owner has written after the handover"),
                },
            }
        }
        Ok(committed)
    }
}

/// A new row of the tenant: only the tenant's lock can hold it.
fn new_row(tenant: i32) -> String {
    static NEXT: AtomicI32 = AtomicI32::new(1_001);
    format!("INSERT INTO orders VALUES ({}, {tenant})", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A session that has a table of ours locked.
pub fn locking(stage: &TwoBackends, table: &str, mode: &str) -> Result<Session> {
    let mut session = stage.operator()?;
    session.exec(&format!("BEGIN; LOCK TABLE holdfast.{table} IN {mode} MODE"))?;
    Ok(session)
}

/// A session that retires a backend of which nobody has heard.
fn retiring(stage: &TwoBackends) -> Result<Session> {
    let mut session = stage.operator()?;
    session.exec(
        "SELECT holdfast.add_backend('spare', 'retired')
         WHERE NOT EXISTS (SELECT FROM holdfast.backends WHERE backend = 'spare');
         BEGIN; SELECT holdfast.set_trust('spare', 'retired')",
    )?;
    Ok(session)
}

/// A legacy transaction that has written so many tenants, the point's not among them, that it shares the lock on all.
fn escalated(point: &Point) -> Result<Session> {
    let mut session = point.stage.legacy()?;
    session.exec("BEGIN; UPDATE orders SET note = session_user WHERE id BETWEEN 41 AND 80")?;
    Ok(session)
}

/// A session that looks on.
pub fn observer(stage: &TwoBackends) -> Result<Client> {
    stage.operator()?.endpoint().observe(&stage.database.name)
}

/// Waits until a session waits for something: a heavyweight lock, else what pg_stat_activity says.
pub fn wait_for(observer: &mut Client, pid: i32, what: &str) -> Result<()> {
    let sql = "
        SELECT coalesce((SELECT concat_ws(' ', locktype, coalesce(relation::regclass::text,
                    CASE locktype WHEN 'advisory' THEN objsubid::text END))
                FROM pg_catalog.pg_locks WHERE pid = $1 AND NOT granted), wait_event, '')
        FROM pg_catalog.pg_stat_activity WHERE pid = $1";
    let mut last = String::new();
    let outcome = within(PATIENCE, what, || {
        last = observer.query_opt(sql, &[&pid])?.map_or_else(|| Ok("(gone)".to_owned()), |row| row.try_get(0))?;
        Ok(last == what)
    });
    outcome.map_err(|error| error.context(format!("it waits for \"{last}\" instead")))
}
