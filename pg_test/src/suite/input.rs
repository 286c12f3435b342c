//! Bad input: each a clear error with its SQLSTATE and, where there is one, the next step, and nothing has changed.

use anyhow::{Context, Result, ensure};

use super::Test;
use super::scene::Scene;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("tables_that_cant_be_guarded", tables_that_cant_be_guarded),
        Test::shared("foreign_tables_cant_be_guarded", foreign_tables).needs_module("file_fdw"),
        Test::shared("columns_that_cant_name_a_tenant", columns_that_cant_name_a_tenant),
        Test::shared("names_that_mean_nothing", names_that_mean_nothing),
        Test::shared("null_is_an_error_everywhere", null_is_an_error_everywhere),
        Test::shared("states_that_dont_allow_it", states_that_dont_allow_it),
        Test::shared("a_migration_is_begun_once_and_well", a_migration_is_begun_once_and_well),
        Test::shared("arguments_stay_within_their_bounds", arguments_stay_within_their_bounds),
        Test::shared("tenant_keys_of_the_wrong_type", tenant_keys_of_the_wrong_type),
        Test::shared("before_a_migration_nobody_owns_anything", before_a_migration),
    ]
}

/// Call, SQLSTATE, part of the message, part of the hint ("" = none wanted).
type Case = (&'static str, &'static str, &'static str, &'static str);

fn check(scene: &Scene, cases: &[Case]) -> Result<()> {
    let before = scene.policy()?;
    let mut operator = scene.operator()?;
    let mut wrong = Vec::new();
    for (call, code, message, hint) in cases {
        let refusal = match operator.refused(&format!("SELECT * FROM holdfast.{call}")) {
            Ok(refusal) => refusal,
            Err(_) => {
                wrong.push(format!("{call}: no error"));
                continue;
            }
        };
        let hinted = refusal.hint.clone().unwrap_or_default();
        let good = refusal.code == *code && refusal.message.contains(message) && hinted.contains(hint);
        if !good || (hint.is_empty() && !hinted.is_empty() && !code.starts_with("22") && !code.starts_with("42")) {
            wrong.push(format!("{call}: {refusal:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n- {}", wrong.len(), cases.len(), wrong.join("\n- "));
    ensure!(scene.policy()? == before, "something has changed");
    Ok(())
}

fn tables_that_cant_be_guarded(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    scene.operator()?.exec(
        "CREATE VIEW v AS SELECT * FROM orders; CREATE MATERIALIZED VIEW m AS SELECT * FROM orders;
         CREATE SEQUENCE s; CREATE TYPE composite AS (id int);
         CREATE TABLE p (id int, tenant_id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
    )?;
    let before = scene.policy()?;
    let tables = [
        ("v", "42809", "It is a view"),
        ("m", "42809", "It is a"),
        ("s", "42809", "It is not a table"),
        ("composite", "42809", "It is not a table"),
        ("orders_pkey", "42809", "It is not a table"),
        ("pg_class", "42809", "It is a system table"),
        ("pg_toast.pg_toast_2619", "42809", "It is"),
        ("information_schema.sql_features", "42809", "It is a system table"),
        ("holdfast.backend", "42809", "It belongs to the extension itself"),
        ("holdfast.tenants", "42809", "It"),
        ("p1", "42809", "It is a partition"),
        ("t", "42809", "It is temporary"),
    ];
    let mut operator = scene.operator()?;
    operator.exec("CREATE TEMP TABLE t (id int, tenant_id int)")?;
    let mut wrong = Vec::new();
    for (table, code, detail) in tables {
        for call in [
            format!("guard_table('{table}', 'id')"),
            format!("guard_global('{table}')"),
            format!("exempt_table('{table}')"),
        ] {
            let refusal = operator.refused(&format!("SELECT holdfast.{call}"))?;
            let detailed = refusal.detail.as_deref().is_some_and(|d| d.starts_with(detail));
            if refusal.code != code
                || !detailed
                || refusal.hint.is_none()
                || !refusal.message.ends_with("cannot be guarded")
            {
                wrong.push(format!("{call}: {refusal:?}"));
            }
        }
    }
    for call in [
        "guard_global('nowhere')",
        "exempt_table('nowhere')",
        "guard_table('nowhere', 'id')",
        "unguard_table('nowhere')",
        "allow_writes('rebuilt', 'nowhere')",
    ] {
        let refusal = operator.refused(&format!("SELECT holdfast.{call}"))?;
        if refusal.code != "42P01" || refusal.message != "relation \"nowhere\" does not exist" {
            wrong.push(format!("{call}: {refusal:?}"));
        }
    }
    for call in ["guard_global(4294967295)", "guard_global('-')", "unguard_table('loose')", "unguard_table('-')"] {
        let refusal = operator.refused(&format!("SELECT holdfast.{call}"))?;
        if !matches!(refusal.code.as_str(), "42P01" | "55000") {
            wrong.push(format!("{call}: {refusal:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(scene.policy()? == before, "something has changed");
    Ok(())
}

fn foreign_tables(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    scene.operator()?.exec(
        "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE FOREIGN TABLE f (id int, tenant_id int) SERVER files OPTIONS (filename '/dev/null');
         CREATE TABLE p (id int, tenant_id int) PARTITION BY LIST (id);
         CREATE FOREIGN TABLE p1 PARTITION OF p FOR VALUES IN (1) SERVER files OPTIONS (filename '/dev/null')",
    )?;
    check(
        &scene,
        &[(
            "guard_table('f', 'tenant_id')",
            "42809",
            "\"public.f\" cannot be guarded",
            "Install holdfast where the rows are",
        )],
    )?;
    // One partition elsewhere must not leave the others unguarded in silence.
    let mut operator = scene.operator()?;
    if operator.exec("SELECT holdfast.guard_table('p', 'tenant_id')").is_ok() {
        let guards: String =
            operator.one("SELECT string_agg(guard, ',') FROM holdfast.coverage WHERE relation::text LIKE 'p%'")?;
        ensure!(!guards.contains("missing"), "{guards}");
    }
    Ok(())
}

fn columns_that_cant_name_a_tenant(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    scene.operator()?.exec(
        "CREATE TABLE odd (id int, twice int GENERATED ALWAYS AS (id * 2) STORED, n numeric, f float8, d date, b bool, j jsonb,
             c char(8), name name, a int[], gone int, \"Tenant Id\" int);
         ALTER TABLE odd DROP COLUMN gone",
    )?;
    let wrong_type = ("42804", "cannot be a tenant column", "Name a column");
    check(
        &scene,
        &[
            (
                "guard_table('odd', 'nothing')",
                "42703",
                "column \"nothing\" of table \"public.odd\" does not exist",
                "without folding",
            ),
            ("guard_table('odd', 'ID')", "42703", "column \"ID\"", "without folding"),
            ("guard_table('odd', 'tenant id')", "42703", "column \"tenant id\"", "without folding"),
            ("guard_table('odd', 'gone')", "42703", "does not exist", ""),
            ("guard_table('odd', '........pg.dropped.13........')", "42703", "does not exist", ""),
            ("guard_table('odd', 'ctid')", "42703", "does not exist", ""),
            ("guard_table('odd', 'tableoid')", "42703", "does not exist", ""),
            ("guard_table('odd', '')", "42703", "does not exist", ""),
            ("guard_table('odd', repeat('x', 100))", "42703", "does not exist", ""),
            ("guard_table('odd', 'twice')", "42P10", "is generated", "Name the column that it is generated from"),
            ("guard_table('odd', 'n')", wrong_type.0, wrong_type.1, wrong_type.2),
            ("guard_table('odd', 'f')", wrong_type.0, wrong_type.1, wrong_type.2),
            ("guard_table('odd', 'd')", wrong_type.0, wrong_type.1, wrong_type.2),
            ("guard_table('odd', 'b')", wrong_type.0, wrong_type.1, wrong_type.2),
            ("guard_table('odd', 'j')", wrong_type.0, wrong_type.1, wrong_type.2),
            ("guard_table('odd', 'c')", wrong_type.0, wrong_type.1, wrong_type.2),
            ("guard_table('odd', 'name')", wrong_type.0, wrong_type.1, wrong_type.2),
            ("guard_table('odd', 'a')", wrong_type.0, wrong_type.1, wrong_type.2),
            (
                "allow_writes('rebuilt', 'orders', '{update}', '{nothing}')",
                "42703",
                "column \"nothing\"",
                "without folding",
            ),
            ("allow_writes('rebuilt', 'orders', '{update}', '{note,NOTE}')", "42703", "column \"NOTE\"", ""),
            ("allow_writes('rebuilt', 'orders', '{update}', '{xmin}')", "42703", "column \"xmin\"", ""),
            ("allow_writes('rebuilt', 'orders', '{update}', '{}')", "22023", "columns", ""),
        ],
    )?;
    scene.operator()?.exec("SELECT holdfast.guard_table('odd', 'Tenant Id')")
}

fn names_that_mean_nothing(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    let backends = "Registered are: legacy, rebuilt.";
    check(
        &scene,
        &[
            ("set_mode('on')", "22023", "unknown mode \"on\"", "Known are: off, observe, enforce."),
            ("set_mode('Enforce')", "22023", "unknown mode", "Known are"),
            ("set_mode('off', 'nobody')", "42704", "backend \"nobody\" does not exist", backends),
            ("set_mode('off', rule := 'crossed_tenant')", "22023", "unknown rule", "not_owner"),
            ("set_mode('off', rule := '')", "22023", "unknown rule", "not_owner"),
            (
                "set_trust('rebuilt', 'trusted')",
                "22023",
                "unknown trust \"trusted\"",
                "Known are: proven, unproven, retired.",
            ),
            ("set_trust('nobody', 'proven')", "42704", "backend \"nobody\" does not exist", backends),
            ("add_backend('third', 'x')", "22023", "unknown trust", "Known are"),
            ("add_backend('', 'proven')", "22023", "must not be empty", ""),
            ("add_backend('  ', 'proven')", "22023", "must not be empty", ""),
            ("add_backend('legacy', 'proven')", "42710", "backend \"legacy\" already exists", "set_trust"),
            ("set_default_backend('nobody')", "42704", "does not exist", backends),
            ("add_identity('nobody', role := 'postgres')", "42704", "does not exist", backends),
            ("add_identity('legacy')", "22023", "needs a condition", "set_default_backend"),
            (
                "add_identity('legacy', role := 'no such role')",
                "42704",
                "role \"no such role\" does not exist",
                "create the role",
            ),
            ("add_identity('legacy', database := 'no such database')", "42704", "database", "create the database"),
            ("add_identity('legacy', client_network := '10.0.0.0/33')", "22P02", "inet", ""),
            ("drop_identity(99)", "42704", "identity rule 99 does not exist", "holdfast.identities"),
            ("drop_identity(-1)", "42704", "identity rule -1 does not exist", "holdfast.identities"),
            ("exempt_table('loose', 'nobody')", "42704", "does not exist", backends),
            ("allow_writes('nobody', 'orders')", "42704", "does not exist", backends),
            ("allow_writes('rebuilt', 'loose')", "55000", "is unclassified", "Classify it first"),
            ("allow_writes('rebuilt', 'sessions')", "55000", "is exempt", "Classify it first"),
            (
                "allow_writes('rebuilt', 'orders', '{select}')",
                "22023",
                "unknown command \"select\"",
                "insert, update, delete",
            ),
            (
                "allow_writes('rebuilt', 'orders', '{insert,truncate}')",
                "22023",
                "unknown command",
                "insert, update, delete",
            ),
            ("allow_writes('rebuilt', 'orders', '{}')", "22023", "must not be empty", "insert, update, delete"),
            ("disallow_writes('rebuilt', 'orders', '{drop}')", "22023", "unknown command", "insert, update, delete"),
            ("disallow_writes('nobody', 'orders')", "42704", "does not exist", backends),
            ("grant_operator('no such role')", "42704", "role \"no such role\" does not exist", "folding"),
            ("grant_auditor('no such role')", "42704", "does not exist", "folding"),
            ("grant_operator('x; DROP ROLE y')", "42704", "does not exist", ""),
            ("cutover('10', 'nobody')", "42704", "backend \"nobody\" does not exist", backends),
        ],
    )
}

fn null_is_an_error_everywhere(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    let calls = [
        "begin_migration(NULL, 'b', current_date + 1)",
        "begin_migration('a', NULL, current_date + 1)",
        "begin_migration('a', 'b', NULL)",
        "add_backend(NULL, 'proven')",
        "add_backend('x', NULL)",
        "set_trust(NULL, 'proven')",
        "set_trust('legacy', NULL)",
        "set_mode(NULL)",
        "add_identity(NULL, role := 'postgres')",
        "add_identity('legacy', role := 'postgres', priority := NULL)",
        "drop_identity(NULL)",
        "guard_table(NULL, 'id')",
        "guard_global(NULL)",
        "exempt_table(NULL)",
        "unguard_table(NULL)",
        "allow_writes(NULL, 'orders')",
        "allow_writes('rebuilt', NULL)",
        "allow_writes('rebuilt', 'orders', NULL)",
        "allow_writes('rebuilt', 'orders', '{NULL}')",
        "allow_writes('rebuilt', 'orders', '{update}', '{NULL}')",
        "disallow_writes(NULL, 'orders')",
        "disallow_writes('rebuilt', NULL)",
        "disallow_writes('rebuilt', 'orders', NULL)",
        "owner_of(NULL)",
        "cutover(NULL, 'rebuilt')",
        "cutover('10', NULL)",
        "cutover('10', 'rebuilt', NULL)",
        "cutover('10', 'rebuilt', '1 s', NULL)",
        "rollback_cutover(NULL)",
        "readiness(NULL, 'rebuilt')",
        "readiness('10', NULL)",
        "set_check(NULL, true)",
        "freeze(NULL, 'x')",
        "freeze('10', NULL)",
        "unfreeze(NULL)",
        "grant_operator(NULL)",
        "grant_auditor(NULL)",
    ];
    let cases: Vec<Case> = calls.iter().map(|call| (*call, "22004", "must not be null", "")).collect();
    check(&scene, &cases)
}

fn states_that_dont_allow_it(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    scene.operator()?.exec("SELECT holdfast.add_backend('old', 'retired')")?;
    check(
        &scene,
        &[
            ("cutover('10', 'legacy')", "55000", "backend \"legacy\" already owns tenant \"10\"", "holdfast.tenants"),
            ("cutover('10', 'old')", "55000", "backend \"old\" is retired", "set_trust"),
            ("cutover('10', 'rebuilt', '0')", "22023", "max_pause", ""),
            ("cutover('10', 'rebuilt', '-1 s')", "22023", "max_pause", ""),
            ("cutover('10', 'rebuilt', '999 us')", "22023", "max_pause", ""),
            ("cutover('10', 'rebuilt', '1 day 1 ms')", "22023", "max_pause", ""),
            ("cutover('10', 'rebuilt', '1 month')", "22023", "max_pause", ""),
            ("cutover('10', 'rebuilt', '178000000 years')", "22023", "max_pause", ""),
            ("cutover('10', 'rebuilt', '-178000000 years')", "22023", "max_pause", ""),
            ("set_check('receiver', false)", "22023", "can't be set", "receiver_identity"),
            ("readiness('10', 'nobody')", "42704", "does not exist", "add_backend"),
            ("rollback_cutover('10')", "55000", "was never handed over", "ownership_history"),
            ("rollback_cutover('40')", "55000", "was never handed over", "ownership_history"),
            ("unfreeze('10')", "55000", "is not frozen", "holdfast.tenants"),
            ("unfreeze('20')", "55000", "is not frozen", "holdfast.tenants"),
            ("freeze('10', '')", "22023", "reason", ""),
            ("freeze('10', '   ')", "22023", "reason", ""),
            ("freeze('10', 'x', now())", "22023", "must end in the future", ""),
            ("freeze('10', 'x', '-infinity')", "22023", "must end in the future", ""),
            ("freeze('40', 'again')", "55000", "tenant \"40\" is frozen already", "unfreeze"),
            ("set_trust('rebuilt', 'retired')", "55006", "still owns tenants", "cutover"),
            ("set_trust('legacy', 'retired')", "55006", "still owns tenants", "cutover"),
        ],
    )?;
    // In an aborted state of its own the transaction goes on with its old owner.
    let mut operator = scene.operator()?;
    operator.exec("BEGIN; SELECT holdfast.cutover('10', 'rebuilt')")?;
    let refusal = operator.refused("SELECT holdfast.cutover('11', 'rebuilt')")?;
    ensure!(refusal.code == "25001" && refusal.hint.is_some_and(|h| h.contains("\\gexec")));
    operator.exec("ROLLBACK")?;
    ensure!(operator.one::<String>("SELECT holdfast.owner_of('10')")? == "legacy");
    Ok(())
}

fn arguments_stay_within_their_bounds(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    check(
        &scene,
        &[
            ("set_limits('rebuilt', statement_timeout => '178000000 years')", "22023", "out of range", "2147483647 ms"),
            ("set_limits('rebuilt', statement_timeout => '2147483648 ms')", "22023", "out of range", "2147483647 ms"),
            ("set_limits('rebuilt', lock_timeout => '2147483647 ms 1 us')", "22023", "\"lock_timeout\"", "1 ms"),
            ("set_limits('rebuilt', idle_in_transaction_timeout => '999 us')", "22023", "out of range", "1 ms"),
            ("set_limits('rebuilt', statement_timeout => '0')", "22023", "out of range", "1 ms"),
            ("set_limits('rebuilt', rows_per_statement => -2)", "22023", "out of range", "-1 for no limit"),
            ("set_end_date('5874897-12-31')", "22023", "within 10 years", "current_date + 90"),
            ("set_end_date((current_date + interval '10 years 1 day')::date)", "22023", "within 10 years", ""),
            ("set_end_date('infinity')", "22023", "within 10 years", ""),
            ("set_end_date(current_date)", "22023", "in the future", ""),
            ("freeze('10', repeat('x', 10000000))", "22023", "\"reason\" is too long", "sentence"),
            ("freeze('10', repeat('x', 1001))", "22023", "\"reason\" is too long", "sentence"),
            ("break_glass(repeat('x', 10000000))", "22023", "\"reason\" is too long", "sentence"),
            ("prune_events('178000000 years')", "22023", "between 0 and 1000 years", "how old"),
            ("prune_events('1000 years 1 us')", "22023", "between 0 and 1000 years", "how old"),
            ("prune_events('-1 us')", "22023", "between 0 and 1000 years", "how old"),
            ("add_wave(repeat('w', 10000000), '{10}')", "22023", "\"wave\" is too long", "shorter"),
            ("add_wave(repeat('w', 201), '{10}')", "22023", "\"wave\" is too long", "shorter"),
            ("add_backend(repeat('b', 201), 'proven')", "22023", "\"backend\" is too long", "shorter"),
            ("add_key('rebuilt', 'x', repeat('k', 201))", "22023", "\"label\" is too long", "shorter"),
            (
                "add_identity('rebuilt', application_name => repeat('%', 201))",
                "22023",
                "\"application_name\" is too long",
                "shorter",
            ),
        ],
    )?;
    // What is just within them, and everything that shows it.
    let mut operator = scene.operator()?;
    for call in [
        "set_limits('rebuilt', statement_timeout => '2147483647 ms', lock_timeout => '1 ms')",
        "set_limits('rebuilt', idle_in_transaction_timeout => '1001 us')",
        "limits",
        "set_end_date((current_date + interval '10 years')::date)",
        "report_html()",
        "status",
        "freeze('10', repeat('x', 1000))",
        "prune_events('1000 years')",
        "prune_events('0')",
        "add_wave(repeat('w', 200), '{10}')",
        "add_backend(repeat('b', 200), 'proven')",
        "add_identity('rebuilt', application_name => repeat('%', 200))",
        "break_glass(repeat('x', 1000))",
        "policy_log",
    ] {
        operator.exec(&format!("SELECT * FROM holdfast.{call}")).with_context(|| call)?;
    }
    let times: String = operator.one(
        "SELECT string_agg(value, ' ' ORDER BY parameter) FROM holdfast.limits
         WHERE backend = 'rebuilt' AND parameter LIKE '%timeout'",
    )?;
    ensure!(times == "00:00:00.002 00:00:00.001 596:31:23.647", "{times}");
    Ok(())
}

fn a_migration_is_begun_once_and_well(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    check(
        &scene,
        &[(
            "begin_migration('legacy', 'rebuilt', current_date + 90)",
            "55000",
            "a migration has already begun",
            "holdfast.status",
        )],
    )?;
    let database = cluster.guarded_database("input")?;
    let mut operator = database.connect()?;
    let state = "SELECT (SELECT count(*) FROM holdfast.backend) + (SELECT count(*) FROM holdfast.migration)";
    let calls = [
        ("'a', 'a', current_date + 1", "22023", "must differ"),
        ("'', 'b', current_date + 1", "22023", "must not be empty"),
        ("'a', ' ', current_date + 1", "22023", "must not be empty"),
        ("'a', 'b', current_date", "22023", "must end in the future"),
        ("'a', 'b', current_date - 1", "22023", "must end in the future"),
        ("'a', 'b', '-infinity'", "22023", "must end in the future"),
        ("'a', 'b', 'infinity'", "22023", "must end"),
    ];
    for (arguments, code, message) in calls {
        let refusal = operator.refused(&format!("SELECT holdfast.begin_migration({arguments})"))?;
        ensure!(refusal.code == code && refusal.message.contains(message), "{arguments}: {refusal:?}");
        ensure!(operator.one::<i64>(state)? == 0, "{arguments} changed something");
    }
    Ok(())
}

fn tenant_keys_of_the_wrong_type(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "input")?;
    let hint = "Give the key as the tenant column holds it.";
    let not_a_key = "is not a tenant key";
    check(
        &scene,
        &[
            ("cutover('acme', 'rebuilt')", "22P02", "\"acme\" is not a tenant key", hint),
            ("cutover('', 'rebuilt')", "22P02", not_a_key, hint),
            ("cutover('1.0', 'rebuilt')", "22P02", not_a_key, hint),
            ("cutover('9223372036854775808', 'rebuilt')", "22P02", not_a_key, hint),
            ("rollback_cutover('acme')", "22P02", not_a_key, hint),
            ("freeze('acme', 'x')", "22P02", not_a_key, hint),
            ("unfreeze('acme')", "22P02", not_a_key, hint),
            ("owner_of('acme')", "22P02", not_a_key, hint),
        ],
    )
}

fn before_a_migration(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("input")?;
    let mut operator = database.connect()?;
    ensure!(operator.one::<Option<String>>("SELECT holdfast.owner_of('10')")?.is_none());
    operator.exec("SELECT holdfast.add_backend('rebuilt', 'unproven')")?;
    for call in
        ["cutover('10', 'rebuilt')", "rollback_cutover('10')", "readiness('10', 'rebuilt')", "freeze('10', 'x')"]
    {
        let refusal = operator.refused(&format!("SELECT holdfast.{call}"))?;
        ensure!(refusal.code == "55000" && refusal.message.contains("no migration has begun"), "{refusal:?}");
        ensure!(refusal.hint.is_some_and(|h| h.contains("begin_migration")));
    }
    Ok(())
}
