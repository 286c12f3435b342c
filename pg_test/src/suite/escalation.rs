//! Transactions that write more tenants than the lock table should hold.

use anyhow::{Result, ensure};

use super::Test;
use super::two_backends::{LOCK_NOT_AVAILABLE, NOT_OWNER, TwoBackends, cutover, detail_names, is, write};
use crate::client::{Refusal, Session};
use crate::cluster::{Cluster, ClusterOptions};
use crate::wait::eventually;

/// Tests of the lock on all tenants.
pub fn tests() -> Vec<Test> {
    let early = || ClusterOptions::new().set("deadlock_timeout", "100ms");
    let late = || ClusterOptions::new().set("deadlock_timeout", "2min");
    vec![
        Test::own("one_transaction_writes_a_hundred_thousand_tenants", ClusterOptions::new(), hundred_thousand),
        Test::shared("prepared_transaction_with_many_tenants_is_named", prepared_with_many),
        Test::shared("escalated_writer_is_checked_tenant_by_tenant", checked_one_by_one),
        Test::shared("escalation_in_a_rolled_back_savepoint_is_undone", undone_with_its_savepoint),
        Test::shared("escalation_in_a_released_savepoint_is_kept", kept_by_a_released_savepoint),
        Test::shared("a_handover_in_a_rolled_back_savepoint_is_forgotten", handover_undone),
        Test::shared("failed_wait_for_all_tenants_leaves_nothing_locked", failed_wait),
        Test::shared("escalating_writer_waits_for_the_cutover_and_goes_on", waits_for_a_cutover),
        Test::shared("timeout_doesnt_blame_another_cutover", other_cutovers_are_not_blamed),
        Test::shared("cutovers_among_escalated_writers_never_deadlock", among_escalated_writers),
        Test::own("row_wait_of_an_escalated_writer_fails_no_writer", early(), row_wait_of_an_escalated_writer),
        Test::own("row_wait_of_an_escalating_writer_resolves_soon", late(), row_wait_of_an_escalating_writer),
    ]
}

/// Writes so many tenants that the transaction has passed the threshold.
fn write_many(tenants: std::ops::RangeInclusive<i32>) -> String {
    let (first, last) = (tenants.start(), tenants.end());
    format!("UPDATE orders SET note = session_user WHERE id BETWEEN {first} AND {last}")
}

/// A legacy transaction that has written the tenants 1 to 60.
fn escalated(stage: &TwoBackends) -> Result<Session> {
    let mut session = stage.legacy()?;
    session.exec(&format!("BEGIN; {}", write_many(1..=60)))?;
    ensure!(stage.tenant_locks()? < 60, "60 tenants are locked one by one");
    Ok(session)
}

/// No lock goes with the savepoint, but what was known of the tenant has to.
fn handover_undone(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let mut operator = stage.operator()?;
    let role: String = operator.one("SELECT session_user::text")?;
    operator.exec(&format!("SELECT holdfast.add_identity('legacy', role => '{role}')"))?;
    for many in ["", &write_many(20..=80)] {
        operator.exec(&cutover(7, "rebuilt"))?;
        operator.exec(&format!("BEGIN; {many}; SAVEPOINT undone; {}; {}", cutover(7, "legacy"), write(7)))?;
        operator.exec("ROLLBACK TO undone")?;
        is(&operator.refused(&write(7))?, NOT_OWNER)?;
        operator.exec("ROLLBACK")?;
        stage.ensure_sound(7, "rebuilt")?;
        operator.exec(&cutover(7, "legacy"))?;
    }
    Ok(())
}

fn hundred_thousand(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let mut operator = stage.operator()?;
    ensure!(operator.one::<String>("SHOW max_locks_per_transaction")? == "64");
    let role = stage.role("legacy");
    let mut writer = stage.database.session().role(role).application_name("recalculation").connect()?;
    writer.exec("BEGIN; INSERT INTO orders SELECT 1000 + n, 1000 + n FROM generate_series(1, 100000) AS n")?;
    let locks = stage.tenant_locks()?;
    ensure!(locks < 64, "{locks} locks");
    // A tenant it wrote, and one that it didn't.
    for tenant in [1_001, 90_000, 7] {
        let refusal = operator.refused(&format!("SELECT holdfast.cutover('{tenant}', 'rebuilt', '100 ms')"))?;
        is(&refusal, LOCK_NOT_AVAILABLE)?;
        let pid = format!("pid {}", writer.pid());
        detail_names(&refusal, &[&pid, "recalculation", "transaction open for 00:00:"])?;
        ensure!(stage.tenant_locks()? == locks, "the failed cutover of {tenant} left a lock");
    }
    // Writers of other tenants, and of the same, aren't held.
    stage
        .legacy()?
        .exec(&format!("SET holdfast.hold_timeout = '1s'; {}; INSERT INTO orders VALUES (999, 1001)", write(7)))?;
    let waiting = stage.start_cutover(90_000, "rebuilt", "1 min")?;
    writer.exec("UPDATE orders SET note = 'again' WHERE id > 1000; COMMIT")?;
    waiting.finish()?.1?;
    ensure!(stage.tenant_locks()? == 0);
    ensure!(operator.one::<i64>("SELECT count(*) FROM orders WHERE note = 'again'")? == 100_000);
    is(&writer.refused("INSERT INTO orders VALUES (998, 90000)")?, NOT_OWNER)?;
    // All of them but one: refused as a whole.
    is(&writer.refused("UPDATE orders SET note = 'no' WHERE id > 1000")?, NOT_OWNER)?;
    ensure!(stage.tenant_locks()? == 0);
    ensure!(operator.one::<i64>("SELECT count(*) FROM orders WHERE note = 'no'")? == 0);
    stage.cut_over(7, "rebuilt")?;
    stage.ensure_sound(7, "rebuilt")
}

fn prepared_with_many(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let gid = format!("many of {}", stage.database.name);
    let mut writer = escalated(&stage)?;
    writer.exec(&format!("PREPARE TRANSACTION '{gid}'"))?;
    for tenant in [1, 60, 90] {
        let sql = format!("SELECT holdfast.cutover('{tenant}', 'rebuilt', '100 ms')");
        let refusal = stage.operator()?.refused(&sql)?;
        is(&refusal, LOCK_NOT_AVAILABLE)?;
        detail_names(&refusal, &["prepared transaction", &gid])?;
    }
    writer.exec(&write(90))?;
    writer.exec(&format!("COMMIT PREPARED '{gid}'"))?;
    stage.cut_over(60, "rebuilt")?;
    stage.ensure_sound(60, "rebuilt")
}

fn checked_one_by_one(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    stage.cut_over(80, "rebuilt")?;
    let mut writer = escalated(&stage)?;
    writer.exec(&format!("{}; SAVEPOINT s", write(70)))?;
    is(&writer.refused(&write_many(61..=100))?, NOT_OWNER)?;
    writer.exec(&format!("ROLLBACK TO s; {}; COMMIT", write_many(61..=79)))?;
    stage.ensure_sound(80, "rebuilt")?;
    stage.ensure_sound(79, "legacy")
}

fn undone_with_its_savepoint(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s", write(1), write_many(2..=60)))?;
    ensure!(stage.tenant_locks()? == 1, "{} locks", stage.tenant_locks()?);
    // Written under the lock on all tenants, hence never locked by itself: must be checked again.
    stage.cut_over(60, "rebuilt")?;
    writer.exec("SAVEPOINT t")?;
    is(&writer.refused(&write(60))?, NOT_OWNER)?;
    writer.exec(&format!("ROLLBACK TO t; {}; {}; COMMIT", write(1), write_many(2..=59)))?;
    stage.ensure_sound(60, "rebuilt")?;
    stage.ensure_sound(1, "legacy")
}

fn kept_by_a_released_savepoint(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; SAVEPOINT a; SAVEPOINT b; {}; RELEASE b", write_many(1..=60)))?;
    writer.exec("SAVEPOINT c; UPDATE orders SET note = 'c' WHERE id = 61; ROLLBACK TO c")?;
    let attempt = "SELECT holdfast.cutover('99', 'rebuilt', '50 ms')";
    is(&stage.operator()?.refused(attempt)?, LOCK_NOT_AVAILABLE)?;
    writer.exec("ROLLBACK TO a")?;
    ensure!(stage.tenant_locks()? == 0);
    stage.cut_over(60, "rebuilt")?;
    is(&writer.refused(&write(60))?, NOT_OWNER)
}

/// The tenant's own lock, which the cutover gets at once, is given back with the one it can't have.
fn failed_wait(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let mut writer = escalated(&stage)?;
    let before = stage.tenant_locks()?;
    let mut operator = stage.operator()?;
    operator.exec(
        "BEGIN;
         DO $$ BEGIN PERFORM holdfast.cutover('99', 'rebuilt', '100 ms'); RAISE 'should have failed';
         EXCEPTION WHEN lock_not_available THEN NULL; END $$",
    )?;
    ensure!(stage.tenant_locks()? == before);
    stage.legacy()?.exec(&format!("SET holdfast.hold_timeout = '1s'; {}", write(99)))?;
    writer.exec("COMMIT")?;
    operator.exec(&format!("{}; COMMIT", cutover(98, "rebuilt")))?;
    stage.ensure_sound(98, "rebuilt")?;
    stage.ensure_sound(99, "legacy")
}

fn waits_for_a_cutover(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let mut operator = stage.operator()?;
    operator.exec(&format!("BEGIN; {}", cutover(99, "rebuilt")))?;
    let mut writer = stage.legacy()?.start(&write_many(1..=60));
    writer.wait_until_blocked()?;
    operator.exec("COMMIT")?;
    writer.finish()?.1?;
    // Of a tenant among those it writes.
    operator.exec(&format!("BEGIN; {}", cutover(50, "rebuilt")))?;
    let mut writer = stage.legacy()?.start(&write_many(1..=60));
    writer.wait_until_blocked()?;
    operator.exec("COMMIT")?;
    is(&writer.finish_refused()?.1, NOT_OWNER)?;
    stage.ensure_sound(50, "rebuilt")
}

/// Two cutovers share the lock on all tenants, so neither is in the other's way.
fn other_cutovers_are_not_blamed(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let mut writer = escalated(&stage)?;
    let other = stage.start_cutover(98, "rebuilt", "1 min")?;
    let refusal = stage.operator()?.refused("SELECT holdfast.cutover('97', 'rebuilt', '100 ms')")?;
    is(&refusal, LOCK_NOT_AVAILABLE)?;
    let detail = refusal.detail.unwrap_or_default();
    ensure!(detail.contains(&format!("pid {}", writer.pid())), "{detail}");
    ensure!(!detail.contains(&format!("pid {}", other.pid())), "{detail}");
    writer.exec("COMMIT")?;
    other.finish()?.1?;
    Ok(())
}

/// Three writers of many tenants, four of one, and three operators, each with tenants of his own.
fn among_escalated_writers(cluster: &Cluster) -> Result<()> {
    const ROUNDS: i32 = 40;
    let stage = TwoBackends::begin(cluster, "escalation")?;
    let mut working = Vec::new();
    for number in 0..3 {
        working.push(stage.legacy()?.start_with("an escalated writer", move |session| {
            for round in 0..ROUNDS {
                // Rows of its own, so that only tenants' locks are waited for.
                let first = 1_000_000 * (number + 1) + round * 60;
                session.exec(&format!("INSERT INTO orders SELECT {first} + n, n FROM generate_series(1, 60) AS n"))?;
            }
            Ok(())
        }));
    }
    for (number, session) in
        [stage.legacy()?, stage.legacy()?, stage.rebuilt()?, stage.rebuilt()?].into_iter().enumerate()
    {
        let first = 10_000_000 * (i32::try_from(number)? + 1);
        working.push(session.start_with("a writer of one tenant", move |session| {
            for round in 0..ROUNDS {
                let sql = format!("INSERT INTO orders VALUES ({first} + {round}, 61 + {round} % 15)");
                if let Err(error) = session.exec(&sql) {
                    is(&Refusal::of(&error).ok_or(error)?, NOT_OWNER)?;
                }
            }
            Ok(())
        }));
    }
    for number in 0..3 {
        working.push(stage.operator()?.start_with("an operator", move |session| {
            for round in 0..ROUNDS {
                let (tenant, to) =
                    (61 + number * 5 + round % 5, ["rebuilt", "legacy"][usize::from(round / 5 % 2 == 1)]);
                session.exec(&format!("SELECT holdfast.cutover('{tenant}', '{to}', '20 s')"))?;
            }
            Ok(())
        }));
    }
    for work in working {
        work.finish()?.1?;
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    ensure!(stage.operator()?.one::<i64>(deadlocks)? == 0);
    stage.ensure_sound(61, "legacy")
}

/// The cutover has its tenant and waits for "all", which W1 shares; W1 waits for a row of W2; W2 waits for the tenant.
/// Only the cutover can step back without an error.
fn row_wait_of_an_escalated_writer(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cycle")?;
    let w1 = escalated(&stage)?;
    let mut w2 = stage.legacy()?;
    w2.exec(&format!("BEGIN; {}", write(70)))?;
    let cutover = stage.start_cutover(90, "rebuilt", "3 s")?;
    // Past its own look for a deadlock; from now on it is a writer that would find one, and be the victim.
    let mut observer = stage.operator()?;
    let sql = format!(
        "SELECT clock_timestamp() - query_start > '300 ms' FROM pg_stat_activity WHERE pid = {}",
        cutover.pid()
    );
    eventually("the cutover to have waited for a while", || observer.one(&sql))?;
    let mut w2 = w2.start(&format!("{}; COMMIT", write(90)));
    let mut w1 = w1.start(&format!("{}; COMMIT", write(70)));
    // Either may be through before it is seen to wait.
    let _ = (w1.wait_until_blocked(), w2.wait_until_blocked());
    let (w1, w2, cutover) = (w1.finish()?.1, w2.finish()?.1, cutover.finish()?.1);
    w1?;
    w2?;
    if cutover.is_err() {
        stage.cut_over(90, "rebuilt")?;
    }
    stage.ensure_sound(90, "rebuilt")
}

/// W2 holds a row and queues for "all" behind a cutover, which waits for W1, which waits for that row. The detector can
/// let W2 pass the cutover; nobody should wait for deadlock_timeout.
fn row_wait_of_an_escalating_writer(cluster: &mut Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cycle")?;
    let w1 = escalated(&stage)?;
    let mut w2 = stage.legacy()?;
    w2.exec(&format!("BEGIN; {}", write(70)))?;
    let cutover = stage.start_cutover(100, "rebuilt", "20 s")?;
    let mut w2 = w2.start("INSERT INTO orders SELECT 1000 + n, n FROM generate_series(1, 60) AS n; COMMIT");
    w2.wait_until_blocked()?;
    let start = std::time::Instant::now();
    let w1 = w1.start(&format!("{}; COMMIT", write(70)));
    w2.finish()?.1?;
    let took = start.elapsed();
    w1.finish()?.1?;
    cutover.finish()?.1?;
    println!("    a row wait crossed with the queue for all tenants was resolved within {took:?}");
    ensure!(took.as_secs() < 3, "resolved only after {took:?}");
    stage.ensure_sound(100, "rebuilt")
}
