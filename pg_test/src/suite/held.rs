//! Writers that meet a cutover in progress are held, and then go on or are told where to go.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Test;
use super::two_backends::{LOCK_NOT_AVAILABLE, NOT_OWNER, TwoBackends, cutover, is, write};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};
use crate::pending::Pending;

/// Tests of writers held by a cutover.
pub fn tests() -> Vec<Test> {
    // What Postgres itself would do about a queue that bites its tail comes too late to be mistaken for our doing.
    let late = || ClusterOptions::new().set("deadlock_timeout", "2min");
    vec![
        Test::shared("new_owner_goes_on_after_the_cutover", new_owner_goes_on),
        Test::shared("old_owner_is_refused_after_the_cutover", old_owner_is_refused),
        Test::shared("held_writer_goes_on_after_a_rollback", goes_on_after_a_rollback),
        Test::shared("held_writer_goes_on_when_the_cutover_gives_up", goes_on_when_the_cutover_gives_up),
        Test::shared("held_at_every_isolation_level", held_at_every_isolation_level),
        Test::shared("hold_timeout_is_retryable", hold_timeout_is_retryable),
        Test::shared("lock_timeout_of_the_user_passes_unchanged", lock_timeout_of_the_user),
        Test::shared("statement_timeout_of_the_user_passes_unchanged", statement_timeout_of_the_user),
        Test::shared("cancel_of_a_held_writer_passes_unchanged", cancel_of_a_held_writer),
        Test::shared("cancel_of_a_waiting_cutover_lets_writers_go_on", cancel_of_a_waiting_cutover),
        Test::shared("reads_are_never_held", reads_are_never_held),
        Test::own("row_wait_before_the_queue_resolves_without_error", late(), row_wait_before_the_queue),
        Test::own("row_wait_after_the_queue_resolves_without_error", late(), row_wait_after_the_queue),
    ]
}

/// A cutover whose transaction is still open.
fn cutover_in_progress(stage: &TwoBackends, tenant: i32, to: &str) -> Result<Session> {
    let mut operator = stage.operator()?;
    operator.exec(&format!("BEGIN; {}", cutover(tenant, to)))?;
    Ok(operator)
}

fn held(session: Session, sql: &str) -> Result<Pending> {
    let mut pending = session.start(sql);
    pending.wait_until_blocked()?;
    Ok(pending)
}

fn new_owner_goes_on(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
    let writer = held(stage.rebuilt()?, &write(1))?;
    operator.exec("COMMIT")?;
    writer.finish()?.1?;
    stage.ensure_sound(1, "rebuilt")
}

fn old_owner_is_refused(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut knows = stage.legacy()?;
    knows.exec(&write(1))?;
    let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
    let (knows, fresh) = (held(knows, &write(1))?, held(stage.legacy()?, &write(1))?);
    operator.exec("COMMIT")?;
    for writer in [knows, fresh] {
        let (mut session, refusal) = writer.finish_refused()?;
        is(&refusal, NOT_OWNER)?;
        session.exec(&write(2))?;
    }
    stage.ensure_sound(1, "rebuilt")
}

fn goes_on_after_a_rollback(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
    let (legacy, rebuilt) = (held(stage.legacy()?, &write(1))?, held(stage.rebuilt()?, &write(1))?);
    operator.exec("ROLLBACK")?;
    legacy.finish()?.1?;
    is(&rebuilt.finish_refused()?.1, NOT_OWNER)?;
    stage.ensure_sound(1, "legacy")
}

fn goes_on_when_the_cutover_gives_up(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut first = stage.legacy()?;
    first.exec(&format!("BEGIN; {}", write(1)))?;
    let cutover = stage.start_cutover(1, "rebuilt", "2 s")?;
    // A row of its own: only the tenant's lock can hold it.
    let second = held(stage.legacy()?, "INSERT INTO orders VALUES (1001, 1)")?;
    is(&cutover.finish_refused()?.1, LOCK_NOT_AVAILABLE)?;
    second.finish()?.1?;
    first.exec("COMMIT")?;
    stage.ensure_sound(1, "legacy")
}

/// A transaction whose snapshot is older than the cutover that holds it goes on all the same, or is told where to go.
fn held_at_every_isolation_level(cluster: &Cluster) -> Result<()> {
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let stage = TwoBackends::begin(cluster, "held")?;
        let (mut legacy, mut rebuilt) = (stage.legacy()?, stage.rebuilt()?);
        for session in [&mut legacy, &mut rebuilt] {
            session.exec(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM orders"))?;
        }
        let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
        let (legacy, rebuilt) = (held(legacy, &write(1))?, held(rebuilt, &write(1))?);
        operator.exec("COMMIT")?;
        is(&legacy.finish_refused()?.1, NOT_OWNER)?;
        let (mut rebuilt, outcome) = rebuilt.finish()?;
        outcome?;
        rebuilt.exec("COMMIT")?;
        stage.ensure_sound(1, "rebuilt")?;
    }
    Ok(())
}

fn hold_timeout_is_retryable(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
    let mut writer = stage.rebuilt()?;
    writer.exec("SET holdfast.hold_timeout = '50ms'; SET lock_timeout = '30min'")?;
    let refusal = writer.refused(&write(1))?;
    is(&refusal, LOCK_NOT_AVAILABLE)?;
    ensure!(refusal.message.contains("holdfast.hold_timeout"), "{refusal:?}");
    ensure!(refusal.detail.as_deref().is_some_and(|detail| detail.contains("for 50 ms")), "{refusal:?}");
    ensure!(refusal.hint.as_deref().is_some_and(|hint| hint.contains("Retry the transaction")), "{refusal:?}");
    ensure!(writer.one::<String>("SHOW lock_timeout")? == "30min");
    // In a block that catches it the transaction can go on, and the setting is the user's again.
    writer.exec(&format!(
        "DO $$ BEGIN {}; EXCEPTION WHEN lock_not_available THEN
             IF current_setting('lock_timeout') <> '30min' THEN RAISE 'lock_timeout is changed'; END IF; END $$",
        write(1)
    ))?;
    operator.exec("COMMIT")?;
    writer.exec(&write(1))?;
    stage.ensure_sound(1, "rebuilt")
}

fn lock_timeout_of_the_user(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
    let mut writer = stage.legacy()?;
    writer.exec("SET lock_timeout = '40ms'")?;
    let refusal = writer.refused(&write(1))?;
    is(&refusal, LOCK_NOT_AVAILABLE)?;
    ensure!(refusal.message == "canceling statement due to lock timeout" && refusal.hint.is_none(), "{refusal:?}");
    operator.exec("ROLLBACK")?;
    writer.exec(&write(1))
}

fn statement_timeout_of_the_user(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
    let mut writer = stage.legacy()?;
    writer.exec("SET statement_timeout = '40ms'")?;
    let refusal = writer.refused(&write(1))?;
    is(&refusal, "57014")?;
    ensure!(refusal.message == "canceling statement due to statement timeout", "{refusal:?}");
    writer.exec("SET statement_timeout = 0")?;
    operator.exec("ROLLBACK")?;
    writer.exec(&write(1))
}

fn cancel_of_a_held_writer(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
    let writer = held(stage.legacy()?, &write(1))?;
    writer.cancel()?;
    let (mut session, refusal) = writer.finish_refused()?;
    is(&refusal, "57014")?;
    ensure!(refusal.message == "canceling statement due to user request", "{refusal:?}");
    operator.exec("ROLLBACK")?;
    session.exec(&write(1))
}

fn cancel_of_a_waiting_cutover(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut first = stage.legacy()?;
    first.exec(&format!("BEGIN; {}", write(1)))?;
    let cutover = stage.start_cutover(1, "rebuilt", "1 min")?;
    let second = held(stage.legacy()?, "INSERT INTO orders VALUES (1001, 1)")?;
    cutover.cancel()?;
    let (mut operator, refusal) = cutover.finish_refused()?;
    is(&refusal, "57014")?;
    second.finish()?.1?;
    first.exec("COMMIT")?;
    operator.exec(&super::two_backends::cutover(1, "rebuilt"))?;
    stage.ensure_sound(1, "rebuilt")
}

fn reads_are_never_held(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "held")?;
    let mut operator = cutover_in_progress(&stage, 1, "rebuilt")?;
    for mut session in [stage.legacy()?, stage.rebuilt()?] {
        for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
            session.exec(&format!("BEGIN ISOLATION LEVEL {isolation}; SET LOCAL lock_timeout = '1s'"))?;
            ensure!(session.one::<i64>("SELECT count(*) FROM orders WHERE tenant = 1")? == 1);
            session
                .exec("COPY (SELECT * FROM orders) TO '/dev/null'")
                .or_else(|error| privileged(error, &mut session))?;
            ensure!(session.one::<String>("SELECT holdfast.owner_of('1')")? == "legacy");
            session.exec("COMMIT")?;
        }
    }
    operator.exec("COMMIT")
}

/// COPY to a file needs a privilege that backends lack, and is refused to an unproven one; that has nothing to do with reading.
fn privileged(error: anyhow::Error, session: &mut Session) -> Result<()> {
    let refusal = crate::client::Refusal::of(&error).ok_or(error)?;
    ensure!(matches!(refusal.code.as_str(), "42501" | "WG016"), "{refusal:?}");
    session.exec("ROLLBACK; BEGIN")
}

/// W1 holds the tenant and waits for a row that W2 has locked; then W2 queues for the tenant behind the cutover, which
/// waits for W1.
fn row_wait_before_the_queue(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cycle")?;
    let (mut w1, mut w2) = (stage.legacy()?, stage.legacy()?);
    w1.exec(&format!("BEGIN; {}", write(1)))?;
    w2.exec(&format!("BEGIN; {}", write(2)))?;
    let w1 = held(w1, &format!("{}; COMMIT", write(2)))?;
    let cutover = stage.start_cutover(1, "rebuilt", "30 s")?;
    let start = Instant::now();
    w2.exec("INSERT INTO orders VALUES (1002, 1); COMMIT")?;
    resolved(start, w1, cutover)?;
    stage.ensure_sound(1, "rebuilt")
}

/// The same, but the wait for the row comes last.
fn row_wait_after_the_queue(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cycle")?;
    let (mut w1, mut w2) = (stage.legacy()?, stage.legacy()?);
    w1.exec(&format!("BEGIN; {}", write(1)))?;
    w2.exec(&format!("BEGIN; {}", write(2)))?;
    let cutover = stage.start_cutover(1, "rebuilt", "30 s")?;
    let w2 = held(w2, "INSERT INTO orders VALUES (1002, 1); COMMIT")?;
    let start = Instant::now();
    w1.exec(&format!("{}; COMMIT", write(2)))?;
    resolved(start, w2, cutover)?;
    stage.ensure_sound(1, "rebuilt")
}

fn resolved(start: Instant, writer: Pending, cutover: Pending) -> Result<()> {
    writer.finish()?.1?;
    cutover.finish()?.1?;
    let took = start.elapsed();
    println!("    a row wait crossed with a cutover's queue was resolved within {took:?}");
    // Far from both deadlock_timeout and max_pause, far above what a loaded machine adds.
    ensure!(took < Duration::from_secs(5), "only something else than the cutover's own check resolved it: {took:?}");
    Ok(())
}
