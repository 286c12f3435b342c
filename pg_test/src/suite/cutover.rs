//! The cutover itself: what it leaves behind when it succeeds, fails or is taken back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postgres::fallible_iterator::FallibleIterator;

use super::Test;
use super::two_backends::{FROZEN, LOCK_NOT_AVAILABLE, NOT_OWNER, TwoBackends, cutover, detail_names, is, write};
use crate::client::Session;
use crate::cluster::Cluster;

/// Tests of cutover, rollback and freeze.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("one_tenant_a_transaction", one_tenant_a_transaction),
        Test::shared("rolled_back_savepoint_frees_the_transaction_for_another_tenant", another_after_a_savepoint),
        Test::shared("aborted_cutovers_leave_the_old_owner_and_no_residue", aborted_cutovers),
        Test::shared("aborted_cutover_is_forgotten_by_its_own_session", aborted_cutover_in_its_own_session),
        Test::shared("own_cutover_binds_the_rest_of_the_transaction", own_cutover_binds),
        Test::shared("notifications_come_after_commit_only", notifications_after_commit),
        Test::shared("history_tells_every_committed_change", history),
        Test::shared("timeout_names_the_transaction_in_the_way", timeout_names_a_transaction),
        Test::shared("timeout_names_the_prepared_transaction_in_the_way", timeout_names_a_prepared_transaction),
        Test::shared("timeout_names_who_came_after_a_look_at_the_sessions", timeout_names_newcomers),
        Test::shared("failed_cutover_in_an_exception_block_lets_its_transaction_go_on", failure_in_a_block),
        Test::shared("second_cutover_of_a_tenant_waits_and_checks_again", second_cutover),
        Test::shared("asking_again_changes_nothing", asking_again),
        Test::shared("operator_with_an_old_snapshot_changes_nothing", old_operator_snapshot),
        Test::shared("transaction_that_wrote_in_mode_off_is_unknown", mode_off),
        Test::shared("other_changes_before_a_cutover_hide_it_from_nobody", other_changes_first),
        Test::shared("cutovers_of_different_tenants_dont_meet", different_tenants),
        Test::shared("freeze_ends_at_its_time_under_traffic", freeze_ends),
        Test::shared("refused_writer_keeps_nobody_from_a_cutover", refused_writer_keeps_nobody),
        Test::shared("owners_known_before_the_migration_are_forgotten", known_before_the_migration),
        Test::shared("advisory_unlock_lets_no_cutover_pass", advisory_unlock),
    ]
}

fn one_tenant_a_transaction(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    operator.exec(&format!("BEGIN; {}; SAVEPOINT s", cutover(1, "rebuilt")))?;
    is(&operator.refused(&cutover(2, "rebuilt"))?, "25001")?;
    operator.exec("ROLLBACK TO s; COMMIT")?;
    stage.ensure_sound(1, "rebuilt")?;
    stage.ensure_sound(2, "legacy")
}

fn another_after_a_savepoint(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    operator.exec(&format!("BEGIN; SAVEPOINT s; {}; ROLLBACK TO s", cutover(1, "rebuilt")))?;
    // Nothing of the first is held any more.
    stage.legacy()?.exec(&write(1))?;
    operator.exec(&format!("{}; COMMIT", cutover(2, "rebuilt")))?;
    stage.ensure_sound(1, "legacy")?;
    stage.ensure_sound(2, "rebuilt")
}

fn aborted_cutovers(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    operator.exec(&format!("BEGIN; {}; ROLLBACK", cutover(1, "rebuilt")))?;
    stage.ensure_sound(1, "legacy")?;
    ensure!(operator.one::<i64>("SELECT count(*) FROM holdfast.tenants")? == 0);

    stage.cut_over(1, "rebuilt")?;
    operator.exec("BEGIN; SELECT holdfast.rollback_cutover('1'); ROLLBACK")?;
    stage.ensure_sound(1, "rebuilt")?;
    // An error after the cutover, in the same implicit transaction.
    is(&operator.refused(&format!("{}; SELECT 1/0", cutover(1, "legacy")))?, "22012")?;
    stage.ensure_sound(1, "rebuilt")?;
    ensure!(operator.one::<i64>("SELECT epoch FROM holdfast.tenants WHERE tenant = '1'")? == 1);
    ensure!(operator.one::<i64>("SELECT count(*) FROM holdfast.ownership_history")? == 1);
    operator.exec("SELECT holdfast.rollback_cutover('1')")?;
    stage.ensure_sound(1, "legacy")
}

fn aborted_cutover_in_its_own_session(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    // An operator is a session of the default backend, legacy, like any other.
    let mut operator = stage.operator()?;
    for (open, back) in [("BEGIN", "ROLLBACK; BEGIN"), ("BEGIN; SAVEPOINT s", "ROLLBACK TO s")] {
        operator.exec(&format!("{open}; {}; SAVEPOINT w", cutover(1, "rebuilt")))?;
        is(&operator.refused(&write(1))?, NOT_OWNER)?;
        operator.exec(&format!("ROLLBACK TO w; {back}; {}; COMMIT", write(1)))?;
    }
    stage.ensure_sound(1, "legacy")
}

/// The rows a transaction wrote before it handed the tenant over are the old owner's; what comes after isn't his any more.
fn own_cutover_binds(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    operator.exec(&format!("BEGIN; {}; {}", write(1), cutover(1, "rebuilt")))?;
    is(&operator.refused(&write(1))?, NOT_OWNER)?;
    operator.exec("ROLLBACK")?;
    operator.exec(&format!("BEGIN; {}; SELECT holdfast.freeze('1', 'audit')", write(1)))?;
    is(&operator.refused(&write(1))?, FROZEN)
}

fn notifications_after_commit(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let (mut listener, mut operator) = (stage.operator()?, stage.operator()?);
    listener.exec("LISTEN holdfast")?;
    operator.exec(&format!("BEGIN; {}; ROLLBACK; BEGIN; {}", cutover(1, "rebuilt"), cutover(2, "rebuilt")))?;
    ensure!(heard(&mut listener)?.is_empty(), "a cutover that isn't committed was told");
    operator.exec("COMMIT; SELECT holdfast.rollback_cutover('2')")?;
    operator.exec("SELECT holdfast.freeze('2', 'audit'); SELECT holdfast.unfreeze('2')")?;
    let heard = heard(&mut listener)?;
    let expected = [
        serde_json::json!({"event": "cutover", "tenant": "2", "from": "legacy", "to": "rebuilt", "epoch": 1}),
        serde_json::json!({"event": "rollback", "tenant": "2", "from": "rebuilt", "to": "legacy", "epoch": 2}),
        serde_json::json!({"event": "freeze", "tenant": "2", "from": "legacy", "to": "legacy", "epoch": 2}),
        serde_json::json!({"event": "unfreeze", "tenant": "2", "from": "legacy", "to": "legacy", "epoch": 2}),
    ];
    ensure!(heard == expected, "{heard:?}");
    Ok(())
}

/// What came until now. Postgres delivers what was committed before a statement not later than with its answer.
fn heard(listener: &mut Session) -> Result<Vec<serde_json::Value>> {
    listener.exec("SELECT 1")?;
    let mut notifications = listener.notifications();
    let mut iterator = notifications.timeout_iter(Duration::from_millis(100));
    let mut payloads = Vec::new();
    while let Some(notification) = iterator.next()? {
        payloads.push(serde_json::from_str(notification.payload()).context("a payload that isn't JSON")?);
    }
    Ok(payloads)
}

fn history(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    for sql in [
        cutover(1, "rebuilt").as_str(),
        "SELECT holdfast.rollback_cutover('1')",
        "SELECT holdfast.freeze('1', 'audit')",
        "SELECT holdfast.unfreeze('1')",
    ] {
        operator.exec(sql)?;
    }
    let rows = operator.rows(
        "SELECT action, from_backend, to_backend, epoch, reason, paused IS NOT NULL, lsn IS NOT NULL, changed_by
         FROM holdfast.ownership_change ORDER BY id",
    )?;
    let told: Vec<String> =
        rows.iter().map(|row| row.iter().map(|v| v.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "cutover legacy rebuilt 1 - t t postgres",
        "rollback rebuilt legacy 2 - t t postgres",
        "freeze legacy legacy 2 audit f t postgres",
        "unfreeze legacy legacy 2 - f t postgres",
    ];
    ensure!(told == expected, "{told:?}");
    Ok(())
}

fn timeout_names_a_transaction(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let role = stage.role("legacy");
    let mut writer = stage.database.session().role(role).application_name("nightly import").connect()?;
    writer.exec(&format!("BEGIN; {}", write(1)))?;
    let pid = format!("pid {}", writer.pid());
    let mut operator = stage.operator()?;
    for sql in ["SELECT holdfast.cutover('1', 'rebuilt', '200 ms')", "SELECT holdfast.freeze('1', 'audit')"] {
        let refusal = operator.refused(sql)?;
        is(&refusal, LOCK_NOT_AVAILABLE)?;
        detail_names(&refusal, &[&pid, "nightly import", "idle in transaction", "transaction open for 00:00:0"])?;
        ensure!(refusal.hint.is_some(), "{refusal:?}");
        ensure!(stage.tenant_locks()? == 1, "something is left locked besides the writer's share");
    }
    writer.exec(&format!("{}; COMMIT", write(1)))?;
    stage.cut_over(1, "rebuilt")?;
    stage.ensure_sound(1, "rebuilt")
}

fn timeout_names_a_prepared_transaction(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let gid = format!("transfer of {}", stage.database.name);
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}; PREPARE TRANSACTION '{gid}'", write(1)))?;
    // The session that prepared it is free, and so are other writers of the tenant.
    writer.exec("INSERT INTO orders VALUES (1001, 1)")?;
    let mut operator = stage.operator()?;
    let refusal = operator.refused("SELECT holdfast.cutover('1', 'rebuilt', '200 ms')")?;
    is(&refusal, LOCK_NOT_AVAILABLE)?;
    detail_names(&refusal, &["prepared transaction", &gid, stage.role("legacy"), "prepared 00:00:0"])?;
    writer.exec(&format!("COMMIT PREPARED '{gid}'"))?;
    stage.cut_over(1, "rebuilt")?;
    stage.ensure_sound(1, "rebuilt")
}

/// Postgres keeps what a transaction once saw of pg_stat_activity.
fn timeout_names_newcomers(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    operator.exec("BEGIN; SELECT count(*) FROM pg_stat_activity")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}", write(1)))?;
    let refusal = operator.refused("SELECT holdfast.cutover('1', 'rebuilt', '100 ms')")?;
    is(&refusal, LOCK_NOT_AVAILABLE)?;
    detail_names(&refusal, &[&format!("pid {}", writer.pid())])
}

fn failure_in_a_block(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}", write(1)))?;
    let mut operator = stage.operator()?;
    operator.exec(
        "BEGIN; SET LOCAL lock_timeout = '1h';
         DO $$ BEGIN PERFORM holdfast.cutover('1', 'rebuilt', '100 ms'); RAISE 'should have failed';
         EXCEPTION WHEN lock_not_available THEN NULL; END $$",
    )?;
    ensure!(stage.tenant_locks()? == 1, "something is left locked besides the writer's share");
    ensure!(operator.one::<String>("SHOW lock_timeout")? == "1h", "lock_timeout is changed");
    // Another tenant, and the same one again when it is free.
    operator
        .exec("SAVEPOINT s; SELECT holdfast.cutover('1', 'rebuilt', '100 ms'); ROLLBACK TO s")
        .err()
        .context("the writer's transaction is still open")?;
    writer.exec("COMMIT")?;
    operator.exec(&format!("ROLLBACK TO s; {}; COMMIT", cutover(1, "rebuilt")))?;
    stage.ensure_sound(1, "rebuilt")
}

/// Whose connection was lost asks again; it may well be that the first time is still under way.
fn second_cutover(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut first = stage.operator()?;
    first.exec(&format!("BEGIN; {}", cutover(1, "rebuilt")))?;
    let same = stage.start_cutover(1, "rebuilt", "1 min")?;
    first.exec("COMMIT")?;
    let (mut second, outcome) = same.finish()?;
    outcome?;
    ensure!(told_already(&mut second), "nobody said that it was done already");
    ensure!(second.one::<i64>("SELECT epoch FROM holdfast.tenants WHERE tenant = '1'")? == 1);
    stage.ensure_sound(1, "rebuilt")?;

    first.exec("BEGIN; SELECT holdfast.cutover('1', 'legacy', '1 min')")?;
    let same = stage.start_cutover(1, "legacy", "1 min")?;
    first.exec("ROLLBACK")?;
    same.finish()?.1?;
    stage.ensure_sound(1, "legacy")
}

fn told_already(session: &mut Session) -> bool {
    session.notices().iter().any(|notice| notice.severity == "NOTICE" && notice.message.contains("already"))
}

/// Asking again gives the same row, and changes nothing: not the owner, not the history, and nobody is held.
fn asking_again(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    for call in
        ["cutover('1', 'rebuilt')", "rollback_cutover('1')", "cutover('1', 'rebuilt')", "cutover('1', 'legacy')"]
    {
        let sql = format!("SELECT * FROM holdfast.{call}");
        let done = operator.rows(&sql)?;
        ensure!(!told_already(&mut operator), "{call} did nothing");
        let before = operator.rows("TABLE holdfast.ownership_history")?;
        // Whatever became of the tenant since, but for its owner.
        operator
            .exec("SELECT holdfast.freeze('1', 'audit'); SELECT holdfast.unfreeze('1'); SET lock_timeout = '1 s'")?;
        // With this open, whoever asked for the tenant's lock would have to wait.
        let mut writer = if stage.owner(1)? == "legacy" { stage.legacy()? } else { stage.rebuilt()? };
        writer.exec(&format!("BEGIN; {}", write(1)))?;
        for again in [sql.clone(), format!("BEGIN; {sql}"), format!("{sql}; COMMIT")] {
            ensure!(operator.rows(&again)? == done, "{again} gave another row");
            ensure!(told_already(&mut operator), "{again} said nothing");
        }
        let mut after = operator.rows("TABLE holdfast.ownership_history")?;
        ensure!(after.split_off(2) == before, "{call} changed the history");
        writer.exec("ROLLBACK")?;
    }
    // A cutover is undone once, by whichever function; a rollback doesn't lead forward again.
    for back in ["cutover('1', 'legacy')", "rollback_cutover('1')"] {
        stage.cut_over(1, "rebuilt")?;
        let undone = operator.rows(&format!("SELECT * FROM holdfast.{back}"))?;
        ensure!(!told_already(&mut operator), "{back} did nothing");
        for _ in 0..3 {
            ensure!(operator.rows("SELECT * FROM holdfast.rollback_cutover('1')")? == undone);
            ensure!(told_already(&mut operator), "a rollback after {back} said nothing");
            stage.ensure_sound(1, "legacy")?;
        }
    }
    ensure!(operator.one::<i64>("SELECT epoch FROM holdfast.tenants WHERE tenant = '1'")? == 8);
    // Two at the same time: one goes back, the other is told.
    stage.cut_over(1, "rebuilt")?;
    let mut first = stage.operator()?;
    first.exec("BEGIN; SELECT holdfast.rollback_cutover('1')")?;
    let mut second = stage.operator()?.start("SELECT holdfast.rollback_cutover('1')");
    second.wait_until_blocked()?;
    first.exec("COMMIT")?;
    let (mut second, outcome) = second.finish()?;
    outcome?;
    ensure!(told_already(&mut second), "the second rollback led on");
    stage.ensure_sound(1, "legacy")
}

/// A transaction whose snapshot is older than the last cutover may not undo it unseen.
fn old_operator_snapshot(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    for sql in [cutover(1, "legacy").as_str(), "SELECT holdfast.rollback_cutover('1')"] {
        stage.cut_over(1, "rebuilt")?;
        stage.cut_over(1, "legacy")?;
        let mut operator = stage.operator()?;
        operator.exec("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
        stage.cut_over(1, "rebuilt")?;
        // A serialization failure, or that the tenant is where the snapshot says it should go.
        let refusal = operator.refused(sql)?;
        ensure!(["40001", "55000"].contains(&refusal.code.as_str()), "{refusal:?}");
        operator.exec("ROLLBACK")?;
        stage.ensure_sound(1, "rebuilt")?;
        stage.cut_over(1, "legacy")?;
    }
    Ok(())
}

/// Its rows were written by the old owner, whatever was on when it wrote them.
fn mode_off(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    operator.exec("SELECT holdfast.set_mode('off')")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}", write(1)))?;
    operator.exec("SELECT holdfast.set_mode('enforce')")?;
    // As README says under Limits: off is off, so nobody knows of that write, and the cutover does not wait for it.
    operator.exec("SELECT holdfast.cutover('1', 'rebuilt', '300 ms')")?;
    // What it writes from now on is seen.
    let refusal = writer.refused(&write(1))?;
    ensure!(refusal.code == "WG001", "{refusal:?}");
    writer.exec("ROLLBACK")
}

/// A session that slept through several changes hears of all of them at once.
fn other_changes_first(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut operator = stage.operator()?;
    let before = [
        "SELECT holdfast.set_mode('enforce')",
        "SELECT holdfast.allow_writes('rebuilt', 'orders')",
        "VACUUM holdfast.ownership",
        "REINDEX TABLE CONCURRENTLY holdfast.ownership",
        "ANALYZE holdfast.ownership",
        "SELECT 1",
    ];
    let mut tenant = 0;
    for change in before {
        for prepared in [false, true] {
            tenant += 1;
            let mut writer = stage.legacy()?;
            if prepared {
                writer
                    .exec(&format!("SET plan_cache_mode = force_generic_plan; PREPARE again AS {}", write(tenant)))?;
            }
            writer.exec(&write(tenant))?;
            operator.exec(change)?;
            operator.exec(&cutover(tenant, "rebuilt"))?;
            let again = if prepared { "EXECUTE again".to_owned() } else { write(tenant) };
            let refusal = writer.refused(&again)?;
            ensure!(refusal.code == "WG001", "after {change}: {refusal:?}");
        }
    }
    Ok(())
}

fn different_tenants(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut open = Vec::new();
    for tenant in 1..=5 {
        let mut operator = stage.operator()?;
        operator.exec(&format!("BEGIN; SET LOCAL lock_timeout = '5s'; {}", cutover(tenant, "rebuilt")))?;
        open.push(operator);
    }
    for operator in open.iter_mut().rev() {
        operator.exec("COMMIT")?;
    }
    for tenant in 1..=5 {
        stage.ensure_sound(tenant, "rebuilt")?;
    }
    Ok(())
}

fn freeze_ends(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let (mut operator, mut writer) = (stage.operator()?, stage.legacy()?);
    writer.exec(&write(1))?;
    is(&operator.refused("SELECT holdfast.freeze('1', 'audit', now() - interval '1 s')")?, "22023")?;
    writer.exec(&write(1))?;
    operator.exec("SELECT holdfast.freeze('1', 'audit', clock_timestamp() + interval '700 ms')")?;
    is(&writer.refused(&write(1))?, FROZEN)?;
    // By itself, and in a session that has it cached.
    crate::wait::eventually("the freeze to end", || match writer.exec(&write(1)) {
        Ok(()) => Ok(true),
        Err(error) => {
            let refusal = crate::client::Refusal::of(&error).ok_or(error)?;
            is(&refusal, FROZEN).map(|()| false)
        }
    })?;
    ensure!(operator.one::<String>("SELECT state FROM holdfast.tenants WHERE tenant = '1'")? == "active");
    operator.exec("SELECT holdfast.freeze('1', 'audit')")?;
    is(&writer.refused(&write(1))?, FROZEN)?;
    operator.exec("SELECT holdfast.unfreeze('1')")?;
    stage.ensure_sound(1, "legacy")
}

/// A refusal waits until its event is committed. It must not keep the tenant's lock meanwhile.
fn refused_writer_keeps_nobody(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    stage.cut_over(1, "rebuilt")?;
    let mut in_the_way = stage.operator()?;
    in_the_way.exec("BEGIN; LOCK TABLE holdfast.event")?;
    let refused = stage.legacy()?.start("INSERT INTO orders VALUES (1001, 1)");
    let mut observer = stage.operator()?;
    let waits = format!(
        "SELECT coalesce(wait_event_type, '') = 'Extension' FROM pg_stat_activity WHERE pid = {}",
        refused.pid()
    );
    crate::wait::eventually("the refused writer to wait for its event", || observer.one::<bool>(&waits))?;
    let outcome = stage.operator()?.exec("SELECT holdfast.cutover('1', 'legacy', '1 s')");
    in_the_way.exec("COMMIT")?;
    is(&refused.finish_refused()?.1, NOT_OWNER)?;
    outcome
}

/// Before a migration begins nobody owns a tenant, and a session may have seen that.
fn known_before_the_migration(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("cutover")?;
    let rebuilt = database.role("rebuilt")?;
    let mut operator = database.connect()?;
    operator.exec(&format!(
        "CREATE TABLE orders (id int, tenant int);
         GRANT ALL ON orders TO {rebuilt};
         SELECT holdfast.add_backend('rebuilt', 'unproven');
         SELECT holdfast.add_identity('rebuilt', role => '{rebuilt}');
         SELECT holdfast.guard_table('orders', 'tenant');
         SELECT holdfast.allow_writes('rebuilt', 'orders');
         SELECT holdfast.set_mode('enforce')"
    ))?;
    let mut session = database.connect_as(&rebuilt)?;
    session.exec("INSERT INTO orders VALUES (1, 1)")?;
    operator.exec("SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30)")?;
    operator.exec("SELECT holdfast.set_mode('enforce')")?;
    is(&session.refused("INSERT INTO orders VALUES (2, 2)")?, NOT_OWNER)?;
    is(&session.refused("INSERT INTO orders VALUES (3, 1)")?, NOT_OWNER)
}

fn advisory_unlock(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "cutover")?;
    let mut writer = stage.legacy()?;
    writer
        .exec(&format!("BEGIN; SELECT pg_advisory_xact_lock(1, 1); {}; SELECT pg_advisory_unlock_all()", write(1)))?;
    is(&stage.operator()?.refused("SELECT holdfast.cutover('1', 'rebuilt', '100 ms')")?, LOCK_NOT_AVAILABLE)?;
    writer.exec("COMMIT")?;
    stage.ensure_sound(1, "legacy")
}
