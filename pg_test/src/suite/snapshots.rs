//! Transactions whose snapshot is older than a cutover.

use anyhow::{Result, ensure};

use super::Test;
use super::two_backends::{FROZEN, NOT_OWNER, TwoBackends, is, write};
use crate::cluster::Cluster;

/// Tests of REPEATABLE READ and SERIALIZABLE.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("old_snapshot_doesnt_let_the_old_owner_write", old_snapshot_old_owner),
        Test::shared("old_snapshot_lets_the_new_owner_write", old_snapshot_new_owner),
        Test::shared("old_snapshot_doesnt_hide_a_freeze", old_snapshot_freeze),
        Test::shared("written_before_the_cutover_stays_writable", written_before),
        Test::shared("serializable_writers_get_no_predicate_locks_on_owners", no_predicate_locks),
        Test::shared("serializable_cutovers_fail_no_serializable_writer", no_serialization_failures),
    ]
}

const STRICT: [&str; 2] = ["REPEATABLE READ", "SERIALIZABLE"];
const READ: &str = "SELECT count(*) FROM orders WHERE tenant = 1";

fn old_snapshot_old_owner(cluster: &Cluster) -> Result<()> {
    for isolation in STRICT {
        let stage = TwoBackends::begin(cluster, "snapshots")?;
        let mut session = stage.legacy()?;
        // The session knows the tenant from before; the second, with the same snapshot, doesn't.
        session.exec(&write(1))?;
        let mut fresh = stage.legacy()?;
        for session in [&mut session, &mut fresh] {
            session.exec(&format!("BEGIN ISOLATION LEVEL {isolation}"))?;
            ensure!(session.one::<i64>(READ)? == 1);
        }
        stage.cut_over(1, "rebuilt")?;
        for session in [&mut session, &mut fresh] {
            ensure!(session.one::<i64>(READ)? == 1, "a plain read is never refused");
            session.exec("SAVEPOINT s")?;
            is(&session.refused("INSERT INTO orders VALUES (1001, 1)")?, NOT_OWNER)?;
            session.exec("ROLLBACK TO s")?;
            ensure!(session.one::<i64>(READ)? == 1, "a plain read is never refused");
            session.exec("SAVEPOINT s")?;
            is(&session.refused("DELETE FROM orders WHERE tenant = 1")?, NOT_OWNER)?;
            session.exec("ROLLBACK TO s")?;
            is(&session.refused(&write(1))?, NOT_OWNER)?;
            session.exec("ROLLBACK")?;
        }
        stage.ensure_sound(1, "rebuilt")?;
    }
    Ok(())
}

fn old_snapshot_new_owner(cluster: &Cluster) -> Result<()> {
    for isolation in STRICT {
        let stage = TwoBackends::begin(cluster, "snapshots")?;
        let mut session = stage.rebuilt()?;
        session.exec(&format!("BEGIN ISOLATION LEVEL {isolation}"))?;
        ensure!(session.one::<i64>(READ)? == 1);
        stage.cut_over(1, "rebuilt")?;
        session.exec(&format!("{}; COMMIT", write(1)))?;
        stage.ensure_sound(1, "rebuilt")?;
    }
    Ok(())
}

fn old_snapshot_freeze(cluster: &Cluster) -> Result<()> {
    for isolation in STRICT {
        let stage = TwoBackends::begin(cluster, "snapshots")?;
        let mut session = stage.legacy()?;
        session.exec(&format!("BEGIN ISOLATION LEVEL {isolation}"))?;
        ensure!(session.one::<i64>(READ)? == 1);
        stage.operator()?.exec("SELECT holdfast.freeze('1', 'audit')")?;
        is(&session.refused(&write(1))?, FROZEN)?;
    }
    Ok(())
}

fn written_before(cluster: &Cluster) -> Result<()> {
    for isolation in STRICT {
        let stage = TwoBackends::begin(cluster, "snapshots")?;
        let mut session = stage.legacy()?;
        session.exec(&format!("BEGIN ISOLATION LEVEL {isolation}; {}", write(1)))?;
        let cutover = stage.start_cutover(1, "rebuilt", "1 min")?;
        session.exec("INSERT INTO orders VALUES (1001, 1); DELETE FROM orders WHERE id = 1001; COMMIT")?;
        cutover.finish()?.1?;
        stage.ensure_sound(1, "rebuilt")?;
    }
    Ok(())
}

/// A predicate lock on a table of ours is how the guard could fail a transaction that Postgres alone would let commit.
fn no_predicate_locks(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "snapshots")?;
    stage.cut_over(2, "rebuilt")?;
    for (mut session, tenant) in [(stage.legacy()?, 1), (stage.rebuilt()?, 2)] {
        // Everything is read for the first time inside the serializable transaction. Policy tables are read by a snapshot and
        // do get such locks, which a policy change that is itself serializable could meet; owners change all the time.
        session.exec(&format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {}; {READ}", write(tenant)))?;
        let locked = session.rows(
            "SELECT DISTINCT relation::regclass::text FROM pg_locks WHERE mode = 'SIReadLock'
             AND relation IN ('holdfast.ownership'::regclass, 'holdfast.ownership_pkey'::regclass)
             AND pid = pg_backend_pid()",
        )?;
        ensure!(locked.is_empty(), "predicate locks on {locked:?}");
        session.exec("COMMIT")?;
    }
    Ok(())
}

/// All in one database whose default isolation is SERIALIZABLE, the operator's too. The writers read nothing of each
/// other's, so that without the guard none could fail.
fn no_serialization_failures(cluster: &Cluster) -> Result<()> {
    const CUTOVERS: i32 = 30;
    let stage = TwoBackends::begin(cluster, "snapshots")?;
    let mut operator = stage.operator()?;
    operator.exec("SET default_transaction_isolation = serializable")?;
    let mut writers = Vec::new();
    for number in 0..3 {
        let mut session = stage.legacy()?;
        session.exec("SET default_transaction_isolation = serializable")?;
        writers.push(session.start_with("serializable writers", move |session| {
            for n in 0..CUTOVERS * 3 {
                let id = 1_000 + number * 1_000 + n;
                session.exec(&format!("BEGIN; INSERT INTO orders VALUES ({id}, {}); COMMIT", 10 + number))?;
            }
            Ok(())
        }));
    }
    for n in 0..CUTOVERS {
        // Of a tenant that nobody writes: its invalidations reach every writer.
        operator.exec(&super::two_backends::cutover(50, if n % 2 == 0 { "rebuilt" } else { "legacy" }))?;
        operator.exec("SELECT holdfast.set_mode('enforce')")?;
    }
    for writer in writers {
        writer.finish()?.1?;
    }
    Ok(())
}
