//! Who may call and read what; what a dump carries; coming and going of the extension.

use anyhow::{Result, bail, ensure};

use super::Test;
use super::scene::{Scene, refused_by};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};

pub fn tests() -> Vec<Test> {
    let unloaded = ClusterOptions::new().preload("");
    vec![
        Test::shared("the_public_reads_its_own_identity_and_changes_nothing", the_public),
        Test::shared("an_operator_runs_the_migration_without_being_superuser", an_operator),
        Test::shared("an_operator_bound_as_rebuilt_still_operates", an_operator_bound_as_rebuilt),
        Test::shared("an_auditor_reads_and_changes_nothing", an_auditor),
        Test::shared("every_function_and_view_has_a_comment", every_object_has_a_comment),
        Test::shared("functions_that_run_as_owner_pin_their_search_path", search_paths_are_pinned),
        Test::shared("objects_of_the_user_dont_shadow_those_of_postgres", shadowed_objects),
        Test::shared("trigger_functions_cant_be_misused", trigger_functions),
        Test::shared("a_dump_carries_policy_guards_ownership_and_rows", a_dump_carries_everything),
        Test::shared("the_extension_leaves_nothing_behind_and_comes_again", leaves_nothing_behind),
        Test::shared("installing_is_noticed_by_open_sessions", installing_is_noticed),
        Test::own("without_preload_the_extension_cant_be_created", unloaded, without_preload),
    ]
}

const FOR_ALL: [&str; 4] = ["current_backend", "identify", "owner_of", "whoami"];

/// Every function of the schema with a call that has the right number of arguments.
fn calls(session: &mut Session) -> Result<Vec<(String, String)>> {
    let rows = session.rows(
        "SELECT p.proname, format('%I.%I(%s)', n.nspname, p.proname,
             (SELECT string_agg('NULL::' || t::regtype::text, ', ' ORDER BY o) FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, o)))
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'holdfast' AND p.prorettype <> 'trigger'::regtype AND p.prokind = 'f' ORDER BY 1",
    )?;
    ensure!(rows.len() > 20, "{} functions found", rows.len());
    Ok(rows
        .into_iter()
        .map(|row| {
            let mut row = row.into_iter().flatten();
            (row.next().unwrap_or_default(), row.next().unwrap_or_default())
        })
        .collect())
}

fn relations(session: &mut Session, kind: &str) -> Result<Vec<String>> {
    let rows = session.rows(&format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'holdfast' AND c.relkind = '{kind}' ORDER BY 1"
    ))?;
    ensure!(!rows.is_empty());
    Ok(rows.into_iter().flatten().flatten().collect())
}

fn denied(session: &mut Session, sql: &str) -> Result<()> {
    let refusal = session.refused(sql)?;
    ensure!(refusal.code == "42501", "{sql}: {refusal:?}");
    Ok(())
}

fn the_public(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "access")?;
    let mut operator = scene.operator()?;
    // Legacy, because the guard stops a TRUNCATE by rebuilt before Postgres looks at privileges.
    let mut client = scene.legacy()?;
    for (name, call) in calls(&mut operator)? {
        if !FOR_ALL.contains(&name.as_str()) {
            denied(&mut client, &format!("SELECT {call}"))?;
        }
    }
    client.exec("SELECT holdfast.current_backend(), holdfast.owner_of('10'), w FROM holdfast.whoami() AS w")?;
    for view in relations(&mut operator, "v")? {
        denied(&mut client, &format!("SELECT * FROM {view}"))?;
    }
    for table in relations(&mut operator, "r")? {
        for command in ["SELECT * FROM", "DELETE FROM", "TRUNCATE"] {
            denied(&mut client, &format!("{command} {table}"))?;
        }
    }
    for sql in [
        "CREATE TABLE holdfast.mine (id int)",
        "ALTER TABLE orders DISABLE TRIGGER ALL",
        "DROP EXTENSION holdfast CASCADE",
        "ALTER FUNCTION holdfast.guard_row() COST 5",
    ] {
        denied(&mut client, sql)?;
    }
    for setting in ["holdfast.enabled = off", "holdfast.audit_timeout = 1", "holdfast.audit_query = none"] {
        ensure!(client.refused(&format!("SET {setting}"))?.code == "55P02");
    }
    Ok(())
}

fn an_operator(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "access")?;
    let role = scene.database.role("operator")?;
    scene.operator()?.exec(&format!("SELECT holdfast.grant_operator('{role}')"))?;
    let mut operator = scene.database.connect_as(&role)?;
    let work = [
        "SELECT holdfast.add_backend('third', 'unproven')",
        "SELECT holdfast.set_trust('third', 'retired')",
        "SELECT holdfast.add_identity('third', application_name := 'third')",
        "SELECT holdfast.drop_identity(3)",
        "SELECT holdfast.guard_table('loose', 'id')",
        "SELECT holdfast.unguard_table('loose')",
        "SELECT holdfast.guard_global('loose')",
        "SELECT holdfast.allow_writes('rebuilt', 'loose')",
        "SELECT holdfast.disallow_writes('rebuilt', 'loose')",
        "SELECT holdfast.readiness('10', 'rebuilt')",
        "SELECT holdfast.cutover('10', 'rebuilt')",
        "SELECT holdfast.rollback_cutover('10')",
        "SELECT holdfast.freeze('10', 'x')",
        "SELECT holdfast.unfreeze('10')",
        "SELECT holdfast.set_mode('observe', 'legacy')",
        "SELECT holdfast.flush_events()",
        "SELECT holdfast.prune_events('0')",
        "SELECT holdfast.set_default_backend('legacy')",
        "SELECT holdfast.break_glass('a test', '1 s')",
        "SELECT holdfast.end_break_glass()",
    ];
    for sql in work {
        operator.exec(sql)?;
    }
    for view in relations(&mut scene.operator()?, "v")? {
        operator.exec(&format!("SELECT * FROM {view}"))?;
    }
    let by: String =
        operator.one("SELECT string_agg(DISTINCT changed_by, ',') FROM holdfast.policy_log WHERE object = '10'")?;
    ensure!(by == *role, "history says {by}");
    for table in relations(&mut scene.operator()?, "r")? {
        denied(&mut operator, &format!("DELETE FROM {table}"))?;
    }
    denied(&mut operator, "INSERT INTO holdfast.tenants (tenant) VALUES ('x')")?;
    denied(&mut operator, "DELETE FROM holdfast.identities")?;
    let refusal = operator.refused("DELETE FROM holdfast.blocked_writes")?;
    ensure!(refusal.code == "55000", "a view of two tables: {refusal:?}");
    Ok(())
}

fn an_operator_bound_as_rebuilt(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "access")?;
    scene.operator()?.exec(&format!("SELECT holdfast.grant_operator('{}')", scene.rebuilt))?;
    let mut operator = scene.rebuilt()?;
    operator.exec("SELECT holdfast.cutover('10', 'rebuilt')")?;
    operator.exec("SELECT holdfast.freeze('11', 'x')")?;
    operator.exec(
        "SELECT holdfast.allow_writes('rebuilt', 'plans'); SELECT holdfast.disallow_writes('rebuilt', 'plans')",
    )?;
    operator.exec("SELECT holdfast.guard_table('loose', 'id'); SELECT holdfast.unguard_table('loose')")?;
    operator.exec("SELECT holdfast.set_mode('observe')")?;
    ensure!(scene.recorded(&operator)?.is_empty(), "the policy's own writes are recorded");
    Ok(())
}

fn an_auditor(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "access")?;
    let role = scene.database.role("auditor")?;
    let mut superuser = scene.operator()?;
    superuser.exec(&format!("SELECT holdfast.grant_auditor('{role}')"))?;
    let mut auditor = scene.database.connect_as(&role)?;
    for view in relations(&mut superuser, "v")? {
        auditor.exec(&format!("SELECT * FROM {view}"))?;
        let refusal = auditor.refused(&format!("DELETE FROM {view}"))?;
        ensure!(matches!(refusal.code.as_str(), "42501" | "55000"), "{view}: {refusal:?}");
    }
    auditor.exec("SELECT holdfast.flush_events(), holdfast.metrics(); SELECT * FROM holdfast.check_setup()")?;
    auditor.exec("SELECT * FROM holdfast.readiness('10', 'rebuilt')")?;
    for (name, call) in calls(&mut superuser)? {
        // The last four are what the views coverage, stats and status call.
        let read = ["flush_events", "metrics", "check_setup", "report_html", "readiness"];
        let shown = ["guard_state", "rule_counts", "audit_health", "table_counts"];
        if ![&FOR_ALL[..], &read, &shown].concat().contains(&name.as_str()) {
            denied(&mut auditor, &format!("SELECT {call}"))?;
        }
    }
    for table in relations(&mut superuser, "r")? {
        denied(&mut auditor, &format!("SELECT * FROM {table}"))?;
    }
    Ok(())
}

fn every_object_has_a_comment(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("access")?;
    let rows = database.connect()?.rows(
        "SELECT pg_catalog.pg_describe_object(classid, objid, objsubid) FROM pg_catalog.pg_depend d
         WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
           AND refobjid = (SELECT oid FROM pg_catalog.pg_extension WHERE extname = 'holdfast')
           AND (classid = 'pg_proc'::regclass OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = objid AND relkind IN ('r', 'v')))
           AND pg_catalog.obj_description(objid, classid::regclass::name) IS NULL",
    )?;
    ensure!(rows.is_empty(), "{rows:?}");
    Ok(())
}

fn search_paths_are_pinned(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("access")?;
    let rows = database.connect()?.rows(
        "SELECT oid::regprocedure, proconfig FROM pg_catalog.pg_proc WHERE pronamespace = 'holdfast'::regnamespace AND prosecdef
         AND proconfig::text[] IS DISTINCT FROM '{\"search_path=pg_catalog, pg_temp\"}'",
    )?;
    ensure!(rows.is_empty(), "{rows:?}");
    Ok(())
}

/// Operators, functions and tables of a user, put in front of those that our SQL means.
fn shadowed_objects(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "access")?;
    let role = scene.database.role("operator")?;
    scene.operator()?.exec(&format!(
        "SELECT holdfast.grant_operator('{role}'); ALTER ROLE {role} SET search_path = public, pg_catalog"
    ))?;
    let views = relations(&mut scene.operator()?, "v")?;
    scene.operator()?.exec(
        "CREATE FUNCTION public.grab(text, text) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'shadowed'; END$$;
         CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.grab);
         CREATE FUNCTION public.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'shadowed'; END$$;
         CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'shadowed'; END$$;
         CREATE FUNCTION public.count(text) RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'shadowed'; END$$",
    )?;
    let mut operator = scene.database.connect_as(&role)?;
    operator.exec("CREATE TEMP TABLE backend (backend text); CREATE TEMP TABLE ownership (tenant text)")?;
    operator.exec("SELECT holdfast.cutover('10', 'rebuilt')")?;
    operator.exec("SELECT holdfast.freeze('10', 'x')")?;
    operator.exec(
        "SELECT holdfast.add_identity('legacy', application_name := 'x'); SELECT holdfast.guard_table('loose', 'id')",
    )?;
    for view in views {
        operator.exec(&format!("SELECT * FROM {view}"))?;
    }
    Ok(())
}

fn trigger_functions(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "access")?;
    let mut superuser = scene.operator()?;
    // The SQLSTATE that Postgres's own trigger functions in C raise.
    for function in ["guard_row", "policy_changed"] {
        let refusal = superuser.refused(&format!("SELECT holdfast.{function}()"))?;
        ensure!(refusal.code == "39P01", "{refusal:?}");
    }
    for when in
        ["AFTER INSERT ON loose FOR EACH ROW", "BEFORE INSERT ON loose FOR EACH STATEMENT", "AFTER TRUNCATE ON loose"]
    {
        superuser.exec(&format!("CREATE TRIGGER misused {when} EXECUTE FUNCTION holdfast.guard_row()"))?;
        let sql = if when.contains("TRUNCATE") { "TRUNCATE loose" } else { "INSERT INTO loose VALUES (1)" };
        let refusal = superuser.refused(sql)?;
        ensure!(refusal.message.contains("guard_row"), "{refusal:?}");
        superuser.exec("DROP TRIGGER misused ON loose")?;
    }
    superuser.exec("CREATE TRIGGER odd BEFORE INSERT ON loose FOR EACH ROW EXECUTE FUNCTION holdfast.guard_row(); INSERT INTO loose VALUES (1)")
}

fn a_dump_carries_everything(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "access")?;
    scene.operator()?.exec(
        "CREATE TABLE log (id int, tenant_id int) PARTITION BY LIST (id); CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1);
         INSERT INTO log VALUES (1, 10); SELECT holdfast.guard_table('log', 'tenant_id');
         SELECT holdfast.set_mode('observe', 'rebuilt', 'unfiltered_write')",
    )?;
    scene.rebuilt()?.exec("INSERT INTO orders VALUES (77, 20, 'rebuilt')")?;
    scene.rebuilt()?.refused("DELETE FROM plans WHERE id = 1")?;
    let (policy, contents) = (scene.policy()?, scene.contents()?);
    for program in ["pg_dump --format=plain", "pg_dump --format=plain --inserts"] {
        let copy = cluster.database("access_copy")?;
        let mut words = program.split(' ').chain([scene.database.name.as_str()]);
        let Some(dump) = words.next() else { bail!("no program") };
        let dump = cluster.run(dump, &words.collect::<Vec<_>>())?;
        ensure!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let restored = cluster.psql(&copy.name, &String::from_utf8_lossy(&dump.stdout))?;
        let errors = String::from_utf8_lossy(&restored.stderr).into_owned();
        let errors: Vec<_> = errors
            .lines()
            .filter(|line| line.contains("ERROR") && !line.contains("schema \"public\" already exists"))
            .collect();
        ensure!(errors.is_empty(), "{program}: {errors:?}");
        let mut there = copy.connect()?;
        ensure!(there.rows(super::scene::POLICY_STATE)? == policy, "{program}: the policy differs");
        ensure!(there.rows(super::scene::CONTENTS)? == contents, "{program}: the rows differ");
        let sql = "UPDATE orders SET note = 'x' WHERE id = 2";
        refused_by("not_owner", &there.refused(sql)?, sql)?;
        refused_by("not_owner", &there.refused("INSERT INTO log VALUES (1, 20)")?, program)?;
        there.exec(
            "SELECT holdfast.cutover('12', 'rebuilt'); SELECT holdfast.add_identity('legacy', application_name := 'x')",
        )?;
        ensure!(there.one::<i64>("SELECT count(*) FROM holdfast.blocked_writes WHERE rule = 'global_write'")? == 1);
    }
    Ok(())
}

fn leaves_nothing_behind(cluster: &Cluster) -> Result<()> {
    let scene = Scene::set(cluster, "access")?;
    let mut superuser = scene.operator()?;
    let (mut legacy, mut rebuilt) = (scene.legacy()?, scene.rebuilt()?);
    legacy.exec("UPDATE orders SET note = 'x' WHERE id = 1")?;
    rebuilt.exec("UPDATE orders SET note = 'x' WHERE id = 2")?;
    refused_by("guard_tampering", &superuser.refused("DROP EXTENSION holdfast CASCADE")?, "DROP EXTENSION")?;
    superuser.exec("SELECT holdfast.break_glass('the migration is over')")?;
    ensure!(superuser.refused("DROP EXTENSION holdfast")?.code == "2BP01");
    superuser.exec("DROP EXTENSION holdfast CASCADE")?;
    superuser.exec("DISCARD ALL")?;
    let triggers: i64 = superuser.one("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal")?;
    ensure!(triggers == 0, "{triggers} triggers left");
    let left: i64 = superuser.one(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'holdfast'",
    )?;
    ensure!(left == 0, "{left} relations left");
    // Open sessions write freely now, and are guarded again when it is back.
    for session in [&mut legacy, &mut rebuilt, &mut superuser] {
        session
            .exec("UPDATE orders SET note = 'free'; INSERT INTO loose VALUES (1); DELETE FROM plans WHERE id = 7")?;
    }
    superuser
        .exec("CREATE EXTENSION holdfast; SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 1)")?;
    superuser.exec(&format!("SELECT holdfast.add_identity('rebuilt', role := '{}')", scene.rebuilt))?;
    superuser.exec("SELECT holdfast.guard_table('orders', 'tenant_id'); SELECT holdfast.set_mode('enforce')")?;
    superuser.exec("SELECT holdfast.cutover('20', 'rebuilt')")?;
    for session in [&mut legacy, &mut superuser] {
        let sql = "UPDATE orders SET note = 'x' WHERE id = 2";
        refused_by("not_owner", &session.refused(sql)?, sql)?;
    }
    refused_by("outside_surface", &rebuilt.refused("INSERT INTO loose VALUES (1)")?, "loose")
}

fn installing_is_noticed(cluster: &Cluster) -> Result<()> {
    for before in ["SELECT 1", "CREATE SCHEMA holdfast"] {
        let database = cluster.database("access")?;
        let mut superuser = database.connect()?;
        superuser.exec(before)?;
        superuser.exec("CREATE TABLE t (id int, tenant_id int)")?;
        let mut open = database.connect()?;
        open.exec("INSERT INTO t VALUES (1, 20); PREPARE p AS UPDATE t SET id = 2 WHERE id = 1; EXECUTE p")?;
        superuser.exec(
            "CREATE EXTENSION holdfast; SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 1)",
        )?;
        superuser.exec("SELECT holdfast.guard_table('t', 'tenant_id'); SELECT holdfast.set_mode('enforce')")?;
        superuser.exec("SELECT holdfast.cutover('20', 'rebuilt')")?;
        let sql = "UPDATE t SET id = 3 WHERE id = 1";
        refused_by("not_owner", &open.refused(&sql.replace("id = 1", "tenant_id = 20"))?, sql)?;
    }
    Ok(())
}

fn without_preload(cluster: &mut Cluster) -> Result<()> {
    let database = cluster.database("access")?;
    let mut session = database.connect()?;
    for sql in ["CREATE EXTENSION holdfast", "LOAD 'holdfast'"] {
        let refusal = session.refused(sql)?;
        ensure!(refusal.code == "55000", "{refusal:?}");
        ensure!(refusal.message == "holdfast must be loaded through shared_preload_libraries", "{refusal:?}");
        let hint = refusal.hint.unwrap_or_default();
        ensure!(
            hint == "Add to postgresql.conf: shared_preload_libraries = 'holdfast', then restart the server.",
            "{hint}"
        );
    }
    ensure!(session.one::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'holdfast'")? == 0);
    Ok(())
}
