//! No room left for what a handover writes.

use anyhow::{Context, Result, ensure};

use super::super::Test;
use super::super::scene::in_break_glass;
use super::super::two_backends::{NOT_OWNER, TwoBackends, is};
use super::Handover;
use super::aftermath::{Before, Wave};
use super::step::{Step, locking, observer, wait_for};
use crate::client::Refusal;
use crate::cluster::{Cluster, ClusterOptions, Holds, Shutdown};
use crate::wait::eventually;

/// SQLSTATE of a full disk.
const DISK_FULL: &str = "53100";

/// Tests of full disks.
pub fn tests() -> Vec<Test> {
    let options = |holds| {
        let options = ClusterOptions::new().small_disk(96, holds).set("autovacuum", "off");
        options.set("min_wal_size", "32MB").set("max_wal_size", "32MB")
    };
    vec![
        Test::own("full_disk_at_each_step", options(Holds::Data), full_disk),
        Test::own("no_room_for_the_log_at_each_step", options(Holds::Log), no_room_for_the_log).expects_crashes(),
    ]
}

/// Where the disk fills up, while the handover waits there.
const STEPS: [Step; 5] = [Step::Look, Step::TenantLock, Step::Change, Step::Record, Step::BeforeCommit];

/// Tenants with keys so long that each row of theirs wants a page.
struct LongKeys {
    stage: TwoBackends,
    last: i32,
}

impl LongKeys {
    fn begin(cluster: &Cluster) -> Result<LongKeys> {
        let stage = TwoBackends::begin(cluster, "full")?;
        let mut operator = stage.operator()?;
        operator.exec(
            "CREATE TABLE notes (id int PRIMARY KEY, tenant text NOT NULL, note text);
             GRANT ALL ON notes TO PUBLIC;
             SELECT holdfast.guard_table('notes', 'tenant');
             SELECT holdfast.allow_writes('rebuilt', 'notes')",
        )?;
        for table in ["ownership", "ownership_change"] {
            operator.exec(&in_break_glass(&format!("ALTER TABLE holdfast.{table} SET (fillfactor = 10)")))?;
        }
        Ok(LongKeys { stage, last: 0 })
    }

    /// A tenant that its handover's old owner owns, and the number of its row.
    fn tenant(&mut self, handover: Handover) -> Result<(i32, String)> {
        self.last += 1;
        // Too short to be kept out of line, and nothing that can be compressed.
        let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(1_700).collect();
        let key = format!("{:04}{random}", self.last);
        let mut operator = self.stage.operator()?;
        operator.execute("INSERT INTO notes VALUES ($1, $2)", &[&self.last, &key])?;
        if handover == Handover::Rollback {
            operator.exec(&Handover::Cutover.sql(&key))?;
        }
        Ok((self.last, key))
    }

    /// The owner writes the tenant, the other backend is refused, and no lock is left.
    fn ensure_sound(&self, row: i32, owner: &str) -> Result<()> {
        eventually("the locks of ended transactions to go", || Ok(self.stage.tenant_locks()? == 0))?;
        let write = format!("UPDATE notes SET note = session_user WHERE id = {row}");
        for backend in ["legacy", "rebuilt"] {
            let mut session = self.stage.database.connect_as(self.stage.role(backend))?;
            if backend == owner {
                session.exec(&write)?;
            } else {
                is(&session.refused(&write)?, NOT_OWNER)?;
            }
        }
        Ok(())
    }

    /// Once more, with room.
    fn succeeds(&self, handover: Handover, row: i32, key: &str, before: &Before) -> Result<()> {
        let (_, new) = handover.owners();
        self.stage.operator()?.exec(&handover.sql(key)).context("once more, with room")?;
        before.check(new, 1)?;
        self.ensure_sound(row, new)
    }
}

fn full_disk(cluster: &mut Cluster) -> Result<()> {
    let mut tenants = LongKeys::begin(cluster)?;
    let mut points = 0;
    for handover in [Handover::Cutover, Handover::Rollback, Handover::Wave] {
        for step in Step::of(handover).filter(|step| STEPS.contains(step)) {
            points += 1;
            let mut fails = || fills_up(cluster, &mut tenants, handover, step);
            let failed = fails().and_then(|failed| if failed { Ok(true) } else { fails() });
            let failed = failed.with_context(|| format!("{handover:?}, {step:?}"))?;
            ensure!(failed, "{handover:?}, {step:?}: found room twice");
        }
    }
    println!("    {points} points");
    Ok(())
}

/// Whether the disk was as full as it should be: the server may give up a page meanwhile.
fn fills_up(cluster: &Cluster, tenants: &mut LongKeys, handover: Handover, step: Step) -> Result<bool> {
    let (old, new) = handover.owners();
    let (row, key) = tenants.tenant(handover)?;
    let stage = &tenants.stage;
    let before = Before::look(stage, &key)?;
    let wave = match handover {
        Handover::Wave => Some(Wave::add(stage, &key, &format!("beside {row}"))?),
        _ => None,
    };
    let in_the_way = match step {
        Step::TenantLock => {
            let mut writer = stage.database.connect_as(stage.role(old))?;
            writer.exec(&format!("BEGIN; UPDATE notes SET note = session_user WHERE id = {row}"))?;
            Some(writer)
        }
        Step::Look => Some(locking(stage, "ownership", "ACCESS EXCLUSIVE")?),
        Step::Change => Some(locking(stage, "ownership", "SHARE")?),
        Step::Record => Some(locking(stage, "ownership_change", "SHARE")?),
        _ => None,
    };
    let mut session = stage.operator()?;
    let Some(mut in_the_way) = in_the_way else {
        // All that is left to write is the commit, which goes to the log.
        session.exec(&format!("BEGIN; {}", handover.sql(&key)))?;
        let ballast = cluster.small_disk()?.fill()?;
        session.exec("COMMIT")?;
        drop(ballast);
        before.check(new, 1)?;
        tenants.ensure_sound(row, new)?;
        return Ok(true);
    };
    let handing_over = session.start(&handover.sql(&key));
    wait_for(&mut observer(stage)?, handing_over.pid(), step.waits_for())?;
    let ballast = cluster.small_disk()?.fill()?;
    in_the_way.exec("COMMIT")?;
    let Err(error) = handing_over.finish()?.1 else {
        drop(ballast);
        before.check(new, 1)?;
        wave.map_or(Ok(()), |wave| wave.has_moved())?;
        tenants.ensure_sound(row, new)?;
        return Ok(false);
    };
    is(&Refusal::of(&error).context(error)?, DISK_FULL)?;
    before.check(old, 0)?;
    ensure!(stage.tenant_locks()? == 0, "something is left locked");
    drop(ballast);
    before.check(old, 0)?;
    tenants.ensure_sound(row, old)?;
    tenants.succeeds(handover, row, &key, &before)?;
    wave.map_or(Ok(()), |wave| wave.has_moved())?;
    Ok(true)
}

/// Without a log a server stops at once; the handover goes down with it.
fn no_room_for_the_log(cluster: &mut Cluster) -> Result<()> {
    let mut tenants = LongKeys::begin(cluster)?;
    let mut points = 0;
    for handover in [Handover::Cutover, Handover::Rollback] {
        for step in [Step::Record, Step::BeforeCommit] {
            points += 1;
            log_fills_up(cluster, &mut tenants, handover, step).with_context(|| format!("{handover:?}, {step:?}"))?;
        }
    }
    println!("    {points} points");
    Ok(())
}

fn log_fills_up(cluster: &mut Cluster, tenants: &mut LongKeys, handover: Handover, step: Step) -> Result<()> {
    let (old, _) = handover.owners();
    let (row, key) = tenants.tenant(handover)?;
    let stage = &tenants.stage;
    let before = Before::look(stage, &key)?;
    let mut writer = stage.operator()?;
    let mut session = stage.operator()?;
    let handing_over = if step == Step::Record {
        let in_the_way = locking(stage, "ownership_change", "SHARE")?;
        let pending = session.start(&handover.sql(&key));
        wait_for(&mut observer(stage)?, pending.pid(), step.waits_for())?;
        (Some((in_the_way, pending)), None)
    } else {
        session.exec(&format!("BEGIN; {}", handover.sql(&key)))?;
        (None, Some(session))
    };
    let ballast = cluster.small_disk()?.fill()?;
    let fill =
        "SELECT count(pg_logical_emit_message(false, 'test', repeat('x', 100000))) FROM generate_series(1, 1000)";
    let ended = (0..10).map(|_| writer.exec(fill)).any(|result| result.is_err());
    ensure!(ended, "the log has found room");
    drop(ballast);
    match handing_over {
        (Some((_, pending)), _) => {
            let error = pending.finish()?.1.err().context("the handover has succeeded")?;
            let code = Refusal::of(&error).map(|refusal| refusal.code);
            ensure!(matches!(code.as_deref(), None | Some("57P02")), "{error:#}");
        }
        (_, Some(mut session)) => ensure!(session.exec("COMMIT").is_err(), "the handover was committed"),
        _ => {}
    }
    // The server may have come up again by itself, or have given up.
    cluster.restart(Shutdown::Kill9)?;
    before.check(old, 0)?;
    tenants.ensure_sound(row, old)?;
    tenants.succeeds(handover, row, &key, &before)
}
