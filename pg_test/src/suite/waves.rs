//! Waves: what is planned stands where it can be read, run_wave commits after each tenant and goes on where it stopped.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Test;
use super::two_backends::{TwoBackends, is, write};
use crate::client::{Refusal, Session};
use crate::cluster::Cluster;
use crate::wait::within;

/// A hundred tenants on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of the plan and the run; `wave_soak` has the rest.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_plan_is_seen_before_anything_happens", a_plan_is_seen),
        Test::shared("what_can_not_be_planned_is_named", what_cant_be_planned),
        Test::shared("a_query_runs_with_the_callers_rights", a_query_has_the_callers_rights),
        Test::shared("each_tenant_is_committed_and_one_that_is_busy_stops_nobody", each_tenant_is_committed),
        Test::shared("run_wave_refuses_a_transaction_block", refuses_a_transaction_block),
        Test::shared("a_wave_goes_on_where_it_stopped", goes_on_where_it_stopped),
        Test::shared("nobody_moves_in_a_wave_that_was_aborted", nobody_moves_after_abort),
        Test::shared("so_many_calls_as_concurrency_says", so_many_calls),
        Test::shared("a_wave_waits_for_those_before_it", waits_for_those_before),
        Test::shared("nothing_that_a_role_names_runs_in_its_place", nothing_runs_in_its_place),
        Test::shared("rows_of_waves_can_not_be_written", rows_cant_be_written),
        Test::shared("a_dump_carries_a_wave_under_way", a_dump_carries_a_wave),
    ]
}

/// A wave of tenants `first` to `last` with more arguments.
pub fn plan(wave: &str, first: i32, last: i32, more: &str) -> String {
    let query = format!("SELECT tenant FROM orders WHERE tenant BETWEEN {first} AND {last} ORDER BY tenant");
    format!("SELECT holdfast.add_wave('{wave}', query => '{query}'{more})")
}

/// `CALL run_wave`.
pub fn run(wave: &str) -> String {
    format!("CALL holdfast.run_wave('{wave}')")
}

/// Where a wave stands.
pub fn state(session: &mut Session, wave: &str) -> Result<String> {
    session.one(&format!("SELECT state FROM holdfast.waves WHERE wave = '{wave}'"))
}

/// How many tenants are in a state.
pub fn tenants(session: &mut Session, wave: &str, state: &str) -> Result<i64> {
    session.one(&format!("SELECT count(*) FROM holdfast.wave_tenants WHERE wave = '{wave}' AND state = '{state}'"))
}

fn a_plan_is_seen(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    let count: i32 = dba.one(&plan("a", 1, 10, ", canaries => '{007}', canary_count => 2"))?;
    ensure!(count == 10, "{count}");
    let count: i32 = dba.one("SELECT holdfast.add_wave('b', '{20, 021, 22}')")?;
    ensure!(count == 3, "{count}");
    let order: String = dba.one(
        "SELECT string_agg(tenant || CASE WHEN canary THEN '*' ELSE '' END, ' ') FROM holdfast.wave_tenants
         WHERE state = 'waiting'",
    )?;
    ensure!(order == "7* 1* 2* 3 4 5 6 8 9 10 20 21 22", "{order}");
    let history: i64 = dba.one("SELECT count(*) FROM holdfast.ownership_history")?;
    ensure!(history == 0, "{history} tenants were changed by a plan");
    let logged: i64 = dba.one("SELECT count(*) FROM holdfast.policy_log WHERE what = 'wave added'")?;
    ensure!(logged == 2, "{logged} plans in the policy log");
    dba.exec("SELECT holdfast.drop_wave('b')")?;
    let left: i64 = dba.one("SELECT count(*) FROM holdfast.wave_tenant WHERE tenant = '21'")?;
    ensure!(left == 0, "a dropped wave has left tenants");
    Ok(())
}

fn what_cant_be_planned(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    scene.cut_over(3, "rebuilt")?;
    dba.exec(&plan("first", 50, 60, ""))?;
    dba.exec(
        "CREATE TABLE trace (n int);
         CREATE FUNCTION leave_trace() RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO trace VALUES (1); RETURN '1'; END $$",
    )?;
    let cases = [
        ("NULL, '{1}'", "22004", "\"wave\""),
        ("'  ', '{1}'", "22023", "must not be empty"),
        ("'w'", "22023", "from a list or from a query"),
        ("'w', '{1}', 'SELECT 1'", "22023", "from a list or from a query"),
        ("'w', '{}'", "22023", "must have tenants"),
        ("'w', query => 'SELECT 1 WHERE false'", "22023", "must have tenants"),
        ("'w', '{1, NULL}'", "22004", "contain NULL"),
        ("'w', '{1, 2, 01, 2}'", "22023", "duplicates: \"1\", \"2\""),
        ("'w', '{1, acme}'", "22P02", "\"acme\" is not a tenant key"),
        ("'w', query => 'SELECT 1, 2'", "22023", "one column"),
        ("'w', query => 'SELECT leave_trace()'", "25006", "read-only"),
        ("'w', query => 'DELETE FROM orders RETURNING tenant'", "0A000", "DELETE"),
        ("'w', query => 'nonsense'", "42601", "nonsense"),
        ("'w', '{2, 3}'", "55000", "already owns \"3\""),
        ("'w', '{2, 50, 51}'", "55000", "other waves: 50 (first), 51 (first)"),
        ("'w', '{1}', canaries => '{2}'", "22023", "not among the wave's tenants: \"2\""),
        ("'w', '{1}', canary_count => 2", "22023", "canary_count"),
        ("'w', '{1}', to_backend => 'acme'", "42704", "\"acme\" does not exist"),
        ("'w', '{1}', to_backend => 'legacy'", "55000", "already owns \"1\""),
        ("'w', '{1}', soak => '-1 s'", "22023", "soak"),
        ("'w', '{1}', soak => '11 years'", "22023", "soak"),
        ("'w', '{1}', max_refusals => -1", "22023", "max_refusals"),
        ("'w', '{1}', max_pause => '0'", "22023", "max_pause"),
        ("'w', '{1}', concurrency => 0", "22023", "concurrency"),
        ("'w', '{1}', on_violation => 'pray'", "22023", "\"pray\""),
        ("'first', '{1}'", "42710", "exists already"),
    ];
    for (arguments, code, message) in cases {
        let refusal = dba.refused(&format!("SELECT holdfast.add_wave({arguments})"))?;
        let told = refusal.code == code && refusal.message.contains(message);
        ensure!(told, "add_wave({arguments}): {refusal:?}, expected {code} and \"{message}\"");
    }
    for function in ["drop_wave('no')", "resume_wave('no')", "abort_wave('no')", "skip_tenant('no', '1')"] {
        is(&dba.refused(&format!("SELECT holdfast.{function}"))?, "42704")?;
    }
    is(&dba.refused(&run("no"))?, "42704")?;
    is(&dba.refused("SELECT holdfast.resume_wave('first')")?, "55000")?;
    is(&dba.refused("SELECT holdfast.skip_tenant('first', '1')")?, "55000")?;
    is(&dba.refused("SELECT holdfast.wave_step()")?, "55000")?;
    let waves: i64 = dba.one("SELECT count(*) FROM holdfast.waves")?;
    ensure!(waves == 1, "{waves} waves");
    Ok(())
}

fn a_query_has_the_callers_rights(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let role = scene.database.role("operator")?;
    scene.operator()?.exec(&format!(
        "CREATE TABLE secret (tenant int); INSERT INTO secret VALUES (1);
         CREATE SCHEMA {role} AUTHORIZATION {role};
         CREATE TABLE {role}.mine (tenant int); INSERT INTO {role}.mine VALUES (5);
         ALTER TABLE {role}.mine OWNER TO {role};
         SELECT holdfast.grant_operator('{role}')"
    ))?;
    let mut operator = scene.database.connect_as(&role)?;
    for query in
        ["SELECT tenant FROM secret", "SELECT oid::text FROM pg_authid", "SELECT tenant FROM holdfast.ownership"]
    {
        is(&operator.refused(&format!("SELECT holdfast.add_wave('w', query => '{query}')"))?, "42501")?;
    }
    // By the caller's own names, too.
    operator.exec("SELECT holdfast.add_wave('w', query => 'SELECT tenant FROM mine', soak => '0')")?;
    operator.exec(&run("w"))?;
    ensure!(scene.owner(5)? == "rebuilt");

    let mut client = scene.rebuilt()?;
    is(&client.refused("SELECT holdfast.add_wave('x', '{1}')")?, "42501")?;
    is(&client.refused(&run("w"))?, "42501")?;
    Ok(())
}

fn each_tenant_is_committed(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let (mut dba, mut observer) = (scene.operator()?, scene.operator()?);
    let mut busy = scene.legacy()?;
    busy.exec("BEGIN")?;
    busy.exec(&write(3))?;
    observer.exec(&plan("w", 1, 10, ", max_pause => '50 ms', soak => '1 hour'"))?;
    dba.notices();
    let mut running = dba.start(&run("w"));
    // Whoever looks sees those that have moved while the third is tried again and again.
    within(PATIENCE, "the others to move", || Ok(tenants(&mut observer, "w", "moved")? == 9))?;
    ensure!(scene.owner(2)? == "rebuilt" && scene.owner(3)? == "legacy" && scene.owner(10)? == "rebuilt");
    ensure!(!running.is_finished() || tenants(&mut observer, "w", "waiting")? == 1);
    let (mut dba, result) = running.finish()?;
    result?;
    let told: Vec<Refusal> = dba.notices();
    let warning = told.iter().find(|n| n.severity == "WARNING").with_context(|| format!("{told:?}"))?;
    ensure!(warning.message.contains("1 tenant could not be moved"), "{warning:?}");
    ensure!(warning.hint.as_deref().is_some_and(|hint| hint.contains("skip_tenant")), "{warning:?}");
    let detail = warning.detail.clone().unwrap_or_default();
    ensure!(detail.contains("3: tenant \"3\" could not be had") && detail.contains("pid"), "{warning:?}");
    let tries: i32 = observer.one("SELECT tries FROM holdfast.wave_tenants WHERE tenant = '3'")?;
    ensure!(tries == 3 && state(&mut observer, "w")? == "moving", "{tries} tries");

    busy.exec("COMMIT")?;
    dba.exec(&run("w"))?;
    ensure!(state(&mut dba, "w")? == "soaking" && scene.owner(3)? == "rebuilt");
    let changes: i64 = dba.one("SELECT count(*) FROM holdfast.ownership_history WHERE action = 'cutover'")?;
    ensure!(changes == 10, "{changes} cutovers of ten tenants");
    let told = dba.notices();
    ensure!(told.iter().any(|n| n.message.contains("are watched until")), "{told:?}");
    for tenant in 1..=10 {
        scene.ensure_sound(tenant, "rebuilt")?;
    }
    Ok(())
}

fn refuses_a_transaction_block(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 3, ""))?;
    dba.exec("CREATE PROCEDURE wrapped() LANGUAGE plpgsql AS $$ BEGIN CALL holdfast.run_wave('w'); END $$")?;
    dba.exec("CREATE FUNCTION inside() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL holdfast.run_wave('w'); END $$")?;
    let refusal = dba.refused("BEGIN; CALL holdfast.run_wave('w')")?;
    ensure!(refusal.code == "25001" && refusal.message.contains("transaction block"), "{refusal:?}");
    ensure!(refusal.hint.is_some(), "{refusal:?}");
    dba.exec("ROLLBACK")?;
    is(&dba.refused("SELECT 1; CALL holdfast.run_wave('w')")?, "25001")?;
    is(&dba.refused("SELECT inside()")?, "2D000")?;
    ensure!(state(&mut dba, "w")? == "planned" && tenants(&mut dba, "w", "moved")? == 0);
    // Whatever may commit may run it.
    dba.exec("SET default_transaction_isolation = 'serializable'")?;
    dba.exec("CALL wrapped()")?;
    ensure!(state(&mut dba, "w")? == "soaking");
    Ok(())
}

fn goes_on_where_it_stopped(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 20, ", max_pause => '1 min'"))?;
    for (tenant, terminated) in [(5, false), (11, true)] {
        let mut busy = scene.legacy()?;
        busy.exec("BEGIN")?;
        busy.exec(&write(tenant))?;
        let mut running = scene.operator()?.start(&run("w"));
        running.wait_until_blocked()?;
        if terminated {
            running.terminate()?
        } else {
            running.cancel()?
        }
        let (_, result) = running.finish()?;
        let ended = result.err().context("ended without an error")?;
        let code = Refusal::of(&ended).map(|refusal| refusal.code);
        ensure!(terminated || code.as_deref() == Some("57014"), "{ended:#}");
        let moved = tenants(&mut dba, "w", "moved")?;
        ensure!(moved == i64::from(tenant) - 1, "{moved} have moved before tenant {tenant}");
        busy.exec("COMMIT")?;
        scene.ensure_sound(tenant, "legacy")?;
        scene.ensure_sound(tenant - 1, "rebuilt")?;
    }
    dba.exec(&run("w"))?;
    ensure!(tenants(&mut dba, "w", "moved")? == 20);
    let epochs: i64 = dba.one("SELECT sum(epoch)::int8 FROM holdfast.tenants")?;
    ensure!(epochs == 20, "{epochs} cutovers of twenty tenants");
    Ok(())
}

fn nobody_moves_after_abort(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 5, ", max_pause => '1 min'"))?;
    let mut busy = scene.legacy()?;
    busy.exec("BEGIN")?;
    busy.exec(&write(3))?;
    let mut running = scene.operator()?.start(&run("w"));
    within(PATIENCE, "two to move", || Ok(tenants(&mut dba, "w", "moved")? == 2))?;
    running.wait_until_blocked()?;
    dba.exec("SELECT holdfast.abort_wave('w')")?;
    busy.exec("COMMIT")?;
    let (_, refusal) = running.finish_refused()?;
    ensure!(refusal.code == "55000" && refusal.message.contains("aborted"), "{refusal:?}");
    ensure!(tenants(&mut dba, "w", "moved")? == 2);
    let told: String = dba.one("SELECT value FROM holdfast.status WHERE item = 'waves'")?;
    ensure!(told.contains("1 aborted"), "{told}");
    scene.ensure_sound(3, "legacy")
}

fn so_many_calls(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 100, ", max_pause => '1 min', concurrency => 2"))?;
    let mut busy = scene.legacy()?;
    busy.exec("BEGIN")?;
    busy.exec(&write(1))?;
    busy.exec(&write(2))?;
    let (first, second) = (scene.operator()?.start(&run("w")), scene.operator()?.start(&run("w")));
    // Each for a tenant; on their way there they may wait for the worker, which looks at the wave.
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND objsubid = 18502
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    within(PATIENCE, "both to wait for a tenant", || Ok(dba.one::<i64>(waiting)? == 2))?;
    let refusal = dba.refused(&run("w"))?;
    ensure!(refusal.code == "55006" && refusal.message.contains("is being run already"), "{refusal:?}");
    busy.exec("COMMIT")?;
    for call in [first, second] {
        call.finish()?.1?;
    }
    let epochs: String = dba.one("SELECT count(*) || ' ' || max(epoch) || ' ' || min(owner) FROM holdfast.tenants")?;
    ensure!(epochs == "100 1 rebuilt" && state(&mut dba, "w")? == "soaking", "{epochs}");
    Ok(())
}

fn waits_for_those_before(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    for (wave, tenant) in [("a", 1), ("b", 2), ("c", 3)] {
        dba.exec(&plan(wave, tenant, tenant, ", soak => '1 hour'"))?;
    }
    let refusal = dba.refused(&run("b"))?;
    ensure!(refusal.code == "55000" && refusal.detail.as_deref().unwrap_or_default().contains("\"a\""), "{refusal:?}");
    dba.exec(&run("a"))?;
    is(&dba.refused(&run("a"))?, "55000")?;
    is(&dba.refused(&run("b"))?, "55000")?;
    is(&dba.refused("SELECT holdfast.drop_wave('a')")?, "55000")?;
    dba.exec("SELECT holdfast.abort_wave('a')")?;
    // Somebody has moved it meanwhile; and one is left out.
    scene.cut_over(2, "rebuilt")?;
    dba.exec(&run("b"))?;
    ensure!(tenants(&mut dba, "b", "skipped")? == 1 && state(&mut dba, "b")? == "soaking");
    let epoch: i64 = dba.one("SELECT epoch FROM holdfast.tenants WHERE tenant = '2'")?;
    ensure!(epoch == 1, "what had moved was moved again");
    dba.exec("SELECT holdfast.abort_wave('b'); SELECT holdfast.skip_tenant('c', '3')")?;
    dba.exec(&run("c"))?;
    ensure!(scene.owner(3)? == "legacy" && state(&mut dba, "c")? == "soaking");
    for function in ["resume_wave", "abort_wave"] {
        is(&dba.refused(&format!("SELECT holdfast.{function}('a')"))?, "55000")?;
    }
    dba.exec("SELECT holdfast.drop_wave('a')")
}

/// The procedure can't pin its search_path, or it couldn't commit.
fn nothing_runs_in_its_place(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    dba.exec(
        "CREATE SCHEMA trap;
         CREATE FUNCTION trap.spring() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'sprung'; END $$;
         CREATE FUNCTION trap.wave_begin(text) RETURNS void LANGUAGE sql AS 'SELECT trap.spring()';
         CREATE FUNCTION trap.wave_step() RETURNS bool LANGUAGE sql AS 'SELECT trap.spring()';
         CREATE FUNCTION trap.compare(a text, b text) RETURNS bool LANGUAGE sql AS 'SELECT trap.spring()';
         CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
         CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.compare);
         CREATE DOMAIN trap.text AS pg_catalog.text CHECK (trap.spring());
         SET search_path = trap, pg_catalog, public",
    )?;
    dba.exec(&plan("w", 1, 3, ""))?;
    dba.exec(&run("w"))?;
    dba.exec("SELECT holdfast.abort_wave('w')")?;
    ensure!(scene.owner(3)? == "rebuilt");
    Ok(())
}

fn rows_cant_be_written(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    dba.exec(&plan("w", 1, 3, ""))?;
    for sql in [
        "UPDATE holdfast.wave SET state = 'passed'",
        "DELETE FROM holdfast.wave_tenant",
        "INSERT INTO holdfast.wave_tenant VALUES (1, 4, '4', false)",
        "TRUNCATE holdfast.wave",
        "DROP TABLE holdfast.wave_tenant",
        "DROP PROCEDURE holdfast.run_wave",
        "CREATE OR REPLACE PROCEDURE holdfast.run_wave(wave text) LANGUAGE plpgsql AS 'BEGIN END'",
    ] {
        is(&dba.refused(sql).with_context(|| sql.to_owned())?, "WG023")?;
    }
    Ok(())
}

fn a_dump_carries_a_wave(cluster: &Cluster) -> Result<()> {
    let scene = TwoBackends::begin(cluster, "wave")?;
    let mut dba = scene.operator()?;
    let mut busy = scene.legacy()?;
    busy.exec("BEGIN")?;
    busy.exec(&write(2))?;
    dba.exec(&plan("w", 1, 4, ", max_pause => '100 ms', canary_count => 1, soak => '0'"))?;
    dba.exec(&run("w"))?;
    within(PATIENCE, "the canary to have soaked", || Ok(state(&mut dba, "w")? == "moving"))?;
    dba.exec(&run("w"))?;
    let dump = cluster.run("pg_dump", &["-U", "postgres", "-d", &scene.database.name])?;
    ensure!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let copy = cluster.database("wave")?;
    let script = String::from_utf8(dump.stdout)?;
    let mut psql = cluster.command("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", &copy.name]);
    let restored = cluster.output(psql, &script)?;
    ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let rows = "SELECT w::text FROM holdfast.wave w UNION ALL SELECT t::text FROM holdfast.wave_tenant t ORDER BY 1";
    let mut there = copy.connect()?;
    let (original, restored) = (dba.rows(rows)?, there.rows(rows)?);
    ensure!(original == restored && original.len() == 5, "{original:?}\n{restored:?}");
    there.exec(&run("w"))?;
    within(PATIENCE, "the copy's wave to pass", || Ok(state(&mut there, "w")? == "passed"))?;
    there.exec("SELECT holdfast.add_wave('next', '{9}')")?;
    ensure!(state(&mut dba, "w")? == "moving", "the original has changed");
    Ok(())
}
