//! `max_pause` is all the time that a handover may hold writers; `holdfast.cancel_after` ends those who keep it waiting.

use anyhow::{Context, Result, ensure};

use super::Test;
use super::two_backends::{LOCK_NOT_AVAILABLE, NOT_OWNER, TwoBackends, detail_names, is, write};
use crate::client::Refusal;
use crate::cluster::Cluster;

/// SQLSTATE of a cancelled statement.
const CANCELLED: &str = "57014";

/// Tests of how long a handover may take.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("session_that_idles_is_ended", session_that_idles),
        Test::shared("statements_that_follow_are_ended", statements_that_follow),
        Test::shared("rest_of_the_statement_is_ended", rest_of_the_statement),
        Test::shared("procedure_that_commits_goes_on", procedure_that_commits),
        Test::shared("handover_taken_back_binds_nothing_any_more", taken_back),
        Test::shared("timeouts_of_the_user_stay_if_lower", timeouts_of_the_user),
        Test::shared("stragglers_are_cancelled_and_named", stragglers),
        Test::shared("stragglers_alone_are_cancelled", stragglers_alone),
        Test::shared("prepared_straggler_is_named", prepared_straggler),
        Test::shared("rollback_cancels_too", rollback_cancels),
        Test::shared("who_waits_for_who_may_own_cancels_no_writer", waits_for_owners),
    ]
}

/// A cutover that is forgotten in an open transaction holds the tenant's writers no longer than it said.
fn session_that_idles(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    stage.cut_over(2, "rebuilt")?;
    for (call, writer, tenant) in
        [("cutover('1', 'rebuilt', '500 ms')", stage.legacy()?, 1), ("rollback_cutover('2')", stage.rebuilt()?, 2)]
    {
        let mut operator = stage.operator()?;
        operator.exec(&format!("BEGIN; SELECT holdfast.{call}"))?;
        let mut held = writer.start(&write(tenant));
        held.wait_until_blocked()?;
        held.finish()?.1?;
        operator.exec("COMMIT").err().context("the session should be gone")?;
        ensure!(operator.is_closed());
    }
    stage.ensure_sound(1, "legacy")?;
    stage.ensure_sound(2, "rebuilt")
}

fn statements_that_follow(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let mut operator = stage.operator()?;
    operator.exec("BEGIN; SELECT holdfast.cutover('1', 'rebuilt', '2 s')")?;
    is(&operator.refused("SELECT pg_sleep(60)")?, CANCELLED)?;
    operator.exec("ROLLBACK")?;
    ensure!(operator.one::<String>("SHOW statement_timeout")? == "0");
    ensure!(operator.one::<String>("SHOW idle_in_transaction_session_timeout")? == "0");
    stage.ensure_sound(1, "legacy")
}

fn rest_of_the_statement(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let mut operator = stage.operator()?;
    for before in ["", "SET statement_timeout = '5 min'"] {
        operator.exec(before)?;
        for rest in [
            "SELECT holdfast.cutover('1', 'rebuilt', '300 ms'), pg_sleep(60)",
            "SELECT holdfast.cutover('1', 'rebuilt', '300 ms'); SELECT pg_sleep(60)",
        ] {
            is(&operator.refused(rest)?, CANCELLED)?;
            // Nothing of it is left.
            operator.exec("SELECT pg_sleep(0.4)")?;
        }
    }
    stage.ensure_sound(1, "legacy")
}

fn procedure_that_commits(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let mut operator = stage.operator()?;
    let wave = |rest: &str| {
        format!(
            "DO $$ BEGIN FOR tenant IN 1..3 LOOP
                 PERFORM holdfast.cutover(tenant::text, CASE holdfast.owner_of(tenant::text) WHEN 'legacy' THEN 'rebuilt' ELSE 'legacy' END, '300 ms');
                 COMMIT;
             END LOOP; {rest} END $$"
        )
    };
    operator.exec(&wave("PERFORM pg_sleep(0.6);"))?;
    stage.ensure_sound(3, "rebuilt")?;
    // What the client had for the whole statement is back, too.
    operator.exec("SET statement_timeout = '1 s'")?;
    is(&operator.refused(&wave("PERFORM pg_sleep(60);"))?, CANCELLED)?;
    operator.exec("RESET statement_timeout")?;
    stage.ensure_sound(3, "legacy")
}

fn taken_back(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let mut operator = stage.operator()?;
    operator.exec(
        "DO $$ BEGIN
             BEGIN PERFORM holdfast.cutover('1', 'rebuilt', '300 ms'); RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END;
             PERFORM pg_sleep(0.6);
         END $$",
    )?;
    operator.exec("BEGIN; SAVEPOINT s; SELECT holdfast.cutover('1', 'rebuilt', '300 ms'); ROLLBACK TO s")?;
    operator.exec("SELECT pg_sleep(0.6); COMMIT")?;
    stage.ensure_sound(1, "legacy")
}

fn timeouts_of_the_user(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let mut operator = stage.operator()?;
    operator.exec("SET statement_timeout = '20 s'; SET idle_in_transaction_session_timeout = '5 min'")?;
    operator.exec("BEGIN; SELECT holdfast.cutover('1', 'rebuilt', '1 min')")?;
    ensure!(operator.one::<String>("SHOW statement_timeout")? == "20s");
    let idle: String =
        operator.one("SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'")?;
    ensure!((50_000..=60_000).contains(&idle.parse::<i32>()?), "{idle}");
    operator.exec("COMMIT")?;
    ensure!(operator.one::<String>("SHOW statement_timeout")? == "20s");
    ensure!(operator.one::<String>("SHOW idle_in_transaction_session_timeout")? == "5min");
    stage.ensure_sound(1, "rebuilt")
}

fn stragglers(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let role = stage.role("legacy");
    let (mut idle, mut busy) =
        (stage.database.session().role(role).application_name("nightly import").connect()?, stage.legacy()?);
    // One has it alone, the other with many.
    idle.exec(&format!("BEGIN; {}", write(1)))?;
    busy.exec("BEGIN; UPDATE orders SET note = 'many' WHERE id > 1")?;
    let (idle_pid, busy_pid) = (format!("pid {}", idle.pid()), format!("pid {}", busy.pid()));
    let busy = busy.start("SELECT pg_sleep(60)");
    let mut operator = stage.operator()?;
    let mark = cluster.log_mark();
    operator.exec("SET holdfast.cancel_after = '300 ms'; SELECT holdfast.cutover('1', 'rebuilt', '10 s')")?;
    let (mut busy, refusal) = busy.finish_refused()?;
    is(&refusal, CANCELLED)?;
    busy.exec("ROLLBACK; SELECT 1")?;
    idle.exec("COMMIT").err().context("a session that idles is terminated")?;

    let cancelled: Vec<String> = operator.one("SELECT cancelled FROM holdfast.ownership_history")?;
    let of = |pid: &str| cancelled.iter().find(|one| one.starts_with(pid)).cloned().unwrap_or_default();
    ensure!(cancelled.len() == 2, "{cancelled:?}");
    ensure!(of(&idle_pid).contains("nightly import") && of(&idle_pid).ends_with(": terminated"), "{cancelled:?}");
    ensure!(of(&busy_pid).ends_with(": cancelled"), "{cancelled:?}");
    let notices = operator.notices();
    let told = |n: &Refusal| n.detail.as_deref().is_some_and(|d| d.contains(&idle_pid) && d.contains(&busy_pid));
    ensure!(notices.iter().any(told), "{notices:?}");
    ensure!(cluster.log_since(mark)?.contains(&format!("handover of tenant \"1\", {idle_pid}")));
    let log: String = operator.one("SELECT new ->> 'cancelled' FROM holdfast.policy_log WHERE what = 'cutover'")?;
    ensure!(log.contains(&idle_pid), "{log}");
    stage.ensure_sound(1, "rebuilt")
}

/// Not other tenants' writers, not who only reads the tenant, not who came later and was held.
fn stragglers_alone(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let (mut straggler, mut other, mut reader) = (stage.legacy()?, stage.legacy()?, stage.legacy()?);
    straggler.exec(&format!("BEGIN; {}", write(1)))?;
    other.exec(&format!("BEGIN; {}", write(2)))?;
    reader.exec("BEGIN; SELECT * FROM orders WHERE tenant = 1")?;
    let mut operator = stage.operator()?;
    operator.exec("SET holdfast.cancel_after = '700 ms'")?;
    let mut cutover = operator.start("SELECT holdfast.cutover('1', 'rebuilt', '10 s')");
    cutover.wait_until_blocked()?;
    let mut late = stage.legacy()?.start("BEGIN; INSERT INTO orders VALUES (1001, 1); COMMIT");
    late.wait_until_blocked()?;
    let (mut operator, outcome) = cutover.finish()?;
    outcome?;
    // When the straggler goes, one of the two is first.
    if let Err(error) = late.finish()?.1 {
        is(&Refusal::of(&error).ok_or(error)?, NOT_OWNER)?;
    }
    straggler.exec("COMMIT").err().context("the straggler is gone")?;
    other.exec("COMMIT")?;
    reader.exec("COMMIT")?;
    let cancelled: i32 = operator.one("SELECT cardinality(cancelled) FROM holdfast.ownership_history")?;
    ensure!(cancelled == 1, "{cancelled} were cancelled");
    stage.ensure_sound(1, "rebuilt")
}

fn prepared_straggler(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let gid = format!("transfer of {}", stage.database.name);
    stage.legacy()?.exec(&format!("BEGIN; {}; PREPARE TRANSACTION '{gid}'", write(1)))?;
    let mut idle = stage.legacy()?;
    idle.exec("BEGIN; INSERT INTO orders VALUES (1001, 1)")?;
    let mut operator = stage.operator()?;
    operator.exec("SET holdfast.cancel_after = '100 ms'")?;
    let refusal = operator.refused("SELECT holdfast.cutover('1', 'rebuilt', '600 ms')")?;
    is(&refusal, LOCK_NOT_AVAILABLE)?;
    // The one is still in the way; the other is gone for nothing, which must be told.
    detail_names(&refusal, &["Waited for prepared transaction", &gid, &format!("Meanwhile: pid {}", idle.pid())])?;
    ensure!(operator.one::<i64>("SELECT count(*) FROM holdfast.ownership_history")? == 0);
    operator.exec(&format!("COMMIT PREPARED '{gid}'"))?;
    stage.ensure_sound(1, "legacy")
}

fn rollback_cancels(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    stage.cut_over(1, "rebuilt")?;
    let mut straggler = stage.rebuilt()?;
    straggler.exec(&format!("BEGIN; {}", write(1)))?;
    let mut operator = stage.operator()?;
    // A grace beyond max_pause never ends; and who doesn't want to wait at all needn't.
    operator.exec("SET holdfast.cancel_after = '1 min'")?;
    is(&operator.refused("SELECT holdfast.cutover('1', 'legacy', '100 ms')")?, LOCK_NOT_AVAILABLE)?;
    operator.exec("SET holdfast.cancel_after = 0; SELECT holdfast.rollback_cutover('1')")?;
    straggler.exec("COMMIT").err().context("the straggler is gone")?;
    stage.ensure_sound(1, "legacy")
}

fn waits_for_owners(cluster: &Cluster) -> Result<()> {
    let stage = TwoBackends::begin(cluster, "bounded")?;
    let (mut operator, mut other) = (stage.operator()?, stage.operator()?);
    operator.exec("SELECT holdfast.add_backend('third', 'unproven')")?;
    let mut writer = stage.legacy()?;
    writer.exec(&format!("BEGIN; {}", write(1)))?;
    other.exec("BEGIN; SELECT holdfast.set_trust('third', 'retired')")?;
    operator.exec("SET holdfast.cancel_after = '100 ms'")?;
    let refusal = operator.refused("SELECT holdfast.cutover('1', 'rebuilt', '600 ms')")?;
    is(&refusal, LOCK_NOT_AVAILABLE)?;
    detail_names(&refusal, &[&format!("pid {}", other.pid())])?;
    writer.exec("COMMIT")?;
    other.exec("COMMIT")?;
    stage.ensure_sound(1, "legacy")
}
