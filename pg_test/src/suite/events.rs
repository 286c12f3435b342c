//! The record itself: partitions, floods, counts by the hour, and what is past keeping.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};
use crate::wait::eventually;

/// Of how events are stored.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_day_has_a_partition_of_its_own", a_day_has_a_partition),
        Test::shared("a_flood_is_counted_in_one_row", a_flood_is_counted),
        Test::shared("floods_of_many_sessions_are_counted_exactly", many_floods_are_counted),
        Test::shared("a_row_that_was_pruned_takes_no_more_counts", a_pruned_row_is_replaced),
        Test::shared("pruning_takes_events_and_counts_alike", pruning_takes_both),
        Test::shared("prune_events_says_what_is_wrong", prune_events_says_what_is_wrong),
        Test::shared("pruning_waits_for_readers_briefly", pruning_waits_briefly),
        Test::own("old_days_go_by_themselves", keeping("3d"), old_days_go),
        Test::own("events_are_kept_for_ever_on_request", keeping("0"), events_are_kept),
        Test::shared("an_event_trigger_stops_no_event", an_event_trigger_stops_no_event),
        Test::shared("settings_of_the_database_stop_no_event", settings_stop_no_event),
        Test::shared("publications_stop_no_event", publications_stop_no_event),
        Test::shared("partitions_are_part_of_the_guard", partitions_are_guarded),
        Test::shared("partitions_come_and_go_with_the_extension", partitions_go_with_the_extension),
        Test::shared("events_of_many_days_are_restored", many_days_are_restored),
    ]
}

/// A cluster that keeps events for so long.
fn keeping(retention: &str) -> ClusterOptions {
    ClusterOptions::new().set("holdfast.audit_retention", retention)
}

/// Two days in partitions, the tenth and the ninth before today, and the eighth without: at 5:30, 10:30 and 15:30 (UTC) a row
/// that counts ten.
pub(super) const HISTORY: &str = r#"
    SELECT holdfast.set_mode('off');
    DO $$
    DECLARE
        day timestamptz;
        name text;
        columns text := 'at, outcome, rule, sqlstate, backend, command, message, occurrences, last_at, usename, application_name, pid';
    BEGIN
        FOR ago IN 8..10 LOOP
            day := date_trunc('day', now(), 'UTC') - ago * interval '24 hours';
            name := CASE WHEN ago = 8 THEN 'holdfast.event_overflow'
                ELSE to_char(day AT TIME ZONE 'UTC', '"holdfast.event_"YYYYMMDD') END;
            IF ago > 8 THEN
                EXECUTE format('CREATE TABLE %s (LIKE holdfast.event INCLUDING CONSTRAINTS, PRIMARY KEY (at, id))', name);
                EXECUTE format('ALTER TABLE holdfast.event ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', name, day,
                    day + interval '24 hours');
            END IF;
            EXECUTE format($insert$
                INSERT INTO %s (id, %s) SELECT nextval('holdfast.event_id_seq'), at, 'refused', 'not_owner', 'WG001', 'rebuilt',
                    'UPDATE', '', 10, at, '', '', 1
                FROM (SELECT $1 + (5 * n + 0.5) * interval '1 hour' FROM generate_series(1, 3) n) event (at) $insert$, name, columns)
            USING day;
        END LOOP;
        INSERT INTO holdfast.event_hour (hour, key, backend, rule, outcome, occurrences, first_at, last_at)
            SELECT date_trunc('hour', at, 'UTC'), '', backend, rule, outcome, occurrences, at, last_at
            FROM (SELECT * FROM holdfast.event UNION ALL SELECT * FROM holdfast.event_overflow) event
            WHERE at < date_trunc('day', now(), 'UTC');
    END $$;
    SELECT holdfast.set_mode('enforce')"#;

/// What differs between events and their counts.
const DIFFERENCES: &str = "
    SELECT hour, backend, rule, relation, tenant, outcome, e.occurrences, s.occurrences FROM (
        SELECT date_trunc('hour', at, 'UTC') AS hour, coalesce(backend, '') AS backend, coalesce(rule, '') AS rule,
            coalesce(relation, '') AS relation, coalesce(tenant, '') AS tenant, outcome, sum(occurrences) AS occurrences,
            min(at) AS first_at, max(last_at) AS last_at
        FROM holdfast.blocked_writes GROUP BY 1, 2, 3, 4, 5, 6) e
    FULL JOIN (
        SELECT hour, coalesce(backend, '') AS backend, coalesce(rule, '') AS rule, coalesce(relation, '') AS relation,
            coalesce(tenant, '') AS tenant, outcome, sum(occurrences) AS occurrences, min(first_at) AS first_at,
            max(last_at) AS last_at
        FROM holdfast.blocked_summary GROUP BY 1, 2, 3, 4, 5, 6) s USING (hour, backend, rule, relation, tenant, outcome, first_at, last_at)
    WHERE e.occurrences IS DISTINCT FROM s.occurrences";

/// Where rows are, how many, and what they count.
const PLACES: &str = "
    SELECT place::text, count(*)::int8, sum(occurrences)::int8 FROM (
        SELECT tableoid::regclass AS place, occurrences FROM holdfast.event
        UNION ALL SELECT tableoid::regclass, occurrences FROM holdfast.event_overflow) e
    GROUP BY place ORDER BY place::text";

fn ensure_alike(dba: &mut Session) -> Result<()> {
    let differences = dba.rows(DIFFERENCES)?;
    ensure!(differences.is_empty(), "events and counts differ: {differences:?}");
    Ok(())
}

/// What is stored, as rows of text.
fn places(dba: &mut Session) -> Result<Vec<String>> {
    let place = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<Vec<_>>().join(" ");
    Ok(dba.rows(PLACES)?.into_iter().map(place).collect())
}

fn today(dba: &mut Session) -> Result<String> {
    dba.one("SELECT to_char(now() AT TIME ZONE 'UTC', '\"holdfast.event_\"YYYYMMDD')")
}

fn occurrences(dba: &mut Session) -> Result<i64> {
    dba.one("SELECT coalesce(sum(occurrences), 0)::int8 FROM holdfast.blocked_writes")
}

fn a_day_has_a_partition(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    let everyone = format!("GRANT ALL ON TABLES TO PUBLIC, {}", guarded.rebuilt);
    dba.exec(&format!("ALTER DEFAULT PRIVILEGES {everyone}; ALTER DEFAULT PRIVILEGES IN SCHEMA holdfast {everyone}"))?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    let today = today(&mut dba)?;
    ensure!(places(&mut dba)? == [format!("{today} 1 1")], "{:?}", places(&mut dba)?);
    let others: i64 = dba.one(&format!(
        "SELECT count(*) FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = '{today}'::regclass AND grantee <> relowner"
    ))?;
    ensure!(others == 0, "{others} privileges of others");
    let same: bool = dba.one(&format!(
        "SELECT (SELECT relowner FROM pg_class WHERE oid = '{today}'::regclass)
            = (SELECT relowner FROM pg_class WHERE oid = 'holdfast.event'::regclass)"
    ))?;
    ensure!(same, "it belongs to somebody else");
    Ok(())
}

fn a_flood_is_counted(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    let mut client = guarded.rebuilt()?;
    for _ in 0..300 {
        client.refused(FOREIGN_WRITE)?;
    }
    client.refused("DELETE FROM orders WHERE tenant = 1")?;
    let (counted, rows) = guarded.recorded()?;
    // Sixteen and one; as many again where a minute or a worker ended.
    ensure!(counted == 301 && (17..150).contains(&rows), "{counted} in {rows} rows");
    let sound: bool = dba.one(
        "SELECT bool_and(last_at >= at AND query LIKE 'UPDATE orders SET note = %') FROM holdfast.blocked_writes
         WHERE occurrences > 1",
    )?;
    ensure!(sound);
    let deletes: i64 = dba.one("SELECT count(*) FROM holdfast.blocked_writes WHERE command = 'DELETE'")?;
    ensure!(deletes == 1);
    ensure_alike(&mut dba)
}

fn many_floods_are_counted(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    dba.exec("SELECT holdfast.set_mode('observe')")?;
    let sessions: Result<Vec<_>> = (0..8)
        .map(|session| {
            let work = move |client: &mut Session| {
                client.exec(&format!(
                    "DO $$ BEGIN FOR n IN 1..2000 LOOP
                        INSERT INTO orders VALUES (3 + n % 7, {session} * 10000 + n); END LOOP; END $$"
                ))
            };
            Ok(guarded.rebuilt()?.start_with("a flood", work))
        })
        .collect();
    for session in sessions? {
        session.finish()?.1?;
    }
    dba.exec("SELECT holdfast.flush_events()")?;
    let tenants =
        dba.rows("SELECT tenant, sum(occurrences) FROM holdfast.blocked_writes GROUP BY tenant ORDER BY tenant")?;
    ensure!(occurrences(&mut dba)? == 16_000 && tenants.len() == 7, "{tenants:?}");
    ensure_alike(&mut dba)
}

fn a_pruned_row_is_replaced(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    let mut client = guarded.rebuilt()?;
    for _ in 0..3 {
        for _ in 0..20 {
            client.refused(FOREIGN_WRITE)?;
        }
        let removed: i64 = dba.one("SELECT holdfast.prune_events('0')")?;
        ensure!(removed == 20 && occurrences(&mut dba)? == 0, "{removed}");
    }
    client.refused(FOREIGN_WRITE)?;
    ensure!(guarded.recorded()? == (1, 1), "{:?}", guarded.recorded()?);
    ensure_alike(&mut dba)
}

fn pruning_takes_both(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    dba.exec(HISTORY)?;
    let history = dba.rows("SELECT * FROM holdfast.ownership_history")?;
    let now = format!("{} 1 1", today(&mut dba)?);
    ensure_alike(&mut dba)?;
    // Into the middle of a day and of an hour; a day that has ended; into the day without a partition; all of it.
    let steps = [
        ("10 days", "5:30:00.5", 10, [2, 3, 3]),
        ("10 days", "5:59", 0, [2, 3, 3]),
        ("9 days", "0:00", 20, [0, 3, 3]),
        ("8 days", "10:00", 40, [0, 0, 2]),
        ("8 days", "10:40", 10, [0, 0, 1]),
        ("2 days", "0:00", 10, [0, 0, 0]),
    ];
    for (days, time, expected, left) in steps {
        let cut = format!("date_trunc('day', now(), 'UTC') - interval '{days}' + interval '{time}'");
        let removed: i64 = dba.one(&format!("SELECT holdfast.prune_events(clock_timestamp() - ({cut}))"))?;
        let rows = left.into_iter().filter(|rows| *rows > 0).map(|rows| format!("{rows} {}", rows * 10));
        let expected_left: Vec<_> = rows.chain(["1 1".to_owned()]).collect();
        let mut found = places(&mut dba)?;
        // Days come in their order, then the overflow; today last.
        found.sort_by_key(|place| *place == now);
        let found: Vec<_> = found.iter().filter_map(|place| place.split_once(' ').map(|(_, counts)| counts)).collect();
        ensure!(removed == expected && found == expected_left, "{days}, {time}: {removed}, {found:?}");
        ensure_alike(&mut dba).with_context(|| format!("after {days}, {time}"))?;
    }
    let partitions: i64 = dba.one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'holdfast.event'::regclass")?;
    ensure!(partitions == 1, "{partitions} partitions");
    ensure!(dba.rows("SELECT * FROM holdfast.ownership_history")? == history);
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    ensure!(guarded.recorded()? == (2, 2), "{:?}", guarded.recorded()?);
    Ok(())
}

fn prune_events_says_what_is_wrong(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    for (argument, code, hint) in [("NULL", "22004", false), ("'-1 day'", "22023", true)] {
        let refusal = dba.refused(&format!("SELECT holdfast.prune_events({argument})"))?;
        ensure!(refusal.code == code && refusal.hint.is_some() == hint, "{argument}: {refusal:?}");
    }
    ensure!(guarded.rebuilt()?.refused("SELECT holdfast.prune_events('0')")?.code == "42501");
    ensure!(dba.one::<i64>("SELECT holdfast.prune_events('1 day')")? == 0);
    Ok(())
}

fn pruning_waits_briefly(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let (mut dba, mut reader) = (guarded.database.connect()?, guarded.database.connect()?);
    dba.exec(HISTORY)?;
    reader.exec("BEGIN; SELECT * FROM holdfast.blocked_writes")?;
    let before = Instant::now();
    let refusal = dba.refused("SELECT holdfast.prune_events('1 day')")?;
    let waited = before.elapsed();
    ensure!(refusal.code == "55P03" && refusal.hint.is_some(), "{refusal:?}");
    ensure!(waited < Duration::from_secs(20), "{waited:?}");
    ensure!(occurrences(&mut dba)? == 90);
    // Nobody need wait for whom it doesn't concern: rows go one by one, and events are stored.
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    reader.exec("COMMIT")?;
    ensure!(dba.one::<i64>("SELECT holdfast.prune_events('1 day')")? == 90);
    ensure_alike(&mut dba)
}

fn old_days_go(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let (mut dba, mut reader) = (guarded.database.connect()?, guarded.database.connect()?);
    dba.exec(HISTORY)?;
    reader.exec("BEGIN; SELECT * FROM holdfast.blocked_writes")?;
    let mut client = guarded.rebuilt()?;
    let mark = cluster.log_mark();
    // Whoever reads is in nobody's way.
    for _ in 0..5 {
        client.refused(FOREIGN_WRITE)?;
    }
    ensure!(occurrences(&mut dba)? == 95, "{}", occurrences(&mut dba)?);
    reader.exec("COMMIT")?;
    eventually("the worker to leave", || {
        Ok(dba.one::<i64>("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'holdfast worker'")? == 0)
    })?;
    client.refused(FOREIGN_WRITE)?;
    eventually("old events to go", || Ok(occurrences(&mut dba)? == 6))?;
    ensure!(places(&mut dba)?.len() == 1, "{:?}", places(&mut dba)?);
    ensure_alike(&mut dba)?;
    let log = cluster.log_since(mark)?;
    ensure!(!log.contains("could not be removed"), "{log}");
    Ok(())
}

fn events_are_kept(cluster: &mut Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    dba.exec(HISTORY)?;
    let mut client = guarded.rebuilt()?;
    client.refused(FOREIGN_WRITE)?;
    eventually("the worker to leave", || {
        Ok(dba.one::<i64>("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'holdfast worker'")? == 0)
    })?;
    ensure!(occurrences(&mut dba)? == 91);
    Ok(())
}

fn an_event_trigger_stops_no_event(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    dba.exec(
        "CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no DDL here''; END';
         CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION no_ddl()",
    )?;
    let mut client = guarded.rebuilt()?;
    for _ in 0..30 {
        client.refused(FOREIGN_WRITE)?;
    }
    ensure!(occurrences(&mut dba)? == 30);
    let stored = places(&mut dba)?;
    // From version 17 on, the worker doesn't ask event triggers.
    if stored.iter().any(|place| place.starts_with("holdfast.event_overflow")) {
        let told = cluster
            .log()?
            .matches("gets no partition, so its events go to holdfast.event_overflow: no DDL here")
            .count();
        ensure!(told >= 1 && stored.len() == 1, "{told} LOG lines; {stored:?}");
    }
    ensure_alike(&mut dba)?;
    dba.exec("DROP EVENT TRIGGER no_ddl")?;
    ensure!(dba.one::<i64>("SELECT holdfast.prune_events('0')")? == 30);
    Ok(())
}

fn settings_stop_no_event(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    dba.exec(
        "CREATE SCHEMA shadow; CREATE FUNCTION shadow.times(bigint, interval) RETURNS interval LANGUAGE sql AS 'SELECT $2';
         CREATE OPERATOR shadow.* (leftarg = bigint, rightarg = interval, function = shadow.times)",
    )?;
    let name = &guarded.database.name;
    for setting in [
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'serializable'",
        "search_path = shadow, public, pg_catalog",
        "statement_timeout = 1",
        "lock_timeout = 1",
        "session_replication_role = replica",
        "timezone = 'Asia/Kathmandu'",
        "datestyle = 'German'",
        "row_security = off",
        "plan_cache_mode = force_generic_plan",
        "default_table_access_method = nonsense",
        "enable_indexscan = off",
        "synchronous_commit = off",
        "bytea_output = escape",
        "client_encoding = 'LATIN1'",
    ] {
        // Some are only checked where they are used.
        let _ = dba.exec(&format!("ALTER DATABASE {name} SET {setting}"));
    }
    dba.exec(&format!("ALTER DATABASE {name} SET role = '{}'", guarded.legacy))?;
    let mut client = guarded
        .database
        .session()
        .role(&guarded.rebuilt)
        .option("search_path", "public")
        .option("default_transaction_read_only", "off")
        .option("statement_timeout", "0")
        .option("lock_timeout", "0")
        .connect()?;
    for n in 0..20 {
        let refusal = client.refused(FOREIGN_WRITE)?;
        ensure!(refusal.code == "WG001", "{n}: {refusal:?}");
    }
    let today = today(&mut dba)?;
    let stored = places(&mut dba)?;
    ensure!(occurrences(&mut dba)? == 20 && stored.iter().all(|place| place.starts_with(&today)), "{stored:?}");
    ensure_alike(&mut dba)
}

fn publications_stop_no_event(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    let mut client = guarded.rebuilt()?;
    dba.exec("CREATE PUBLICATION everything FOR ALL TABLES")?;
    for _ in 0..40 {
        client.refused(FOREIGN_WRITE)?;
    }
    // A subscriber has no table for a partition that is made tomorrow.
    let stored = places(&mut dba)?;
    ensure!(stored.len() == 1 && stored[0].starts_with("holdfast.event_overflow "), "{stored:?}");
    ensure!(dba.one::<i64>("SELECT holdfast.prune_events('0')")? == 40);
    dba.exec("ALTER PUBLICATION everything SET (publish_via_partition_root = true)")?;
    eventually("the worker to leave", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'holdfast worker' AND datname = current_database()";
        Ok(dba.one::<i64>(sql)? == 0)
    })?;
    for _ in 0..40 {
        client.refused(FOREIGN_WRITE)?;
    }
    let (stored, today) = (places(&mut dba)?, today(&mut dba)?);
    ensure!(occurrences(&mut dba)? == 40 && stored.iter().all(|place| place.starts_with(&today)), "{stored:?}");
    ensure!(dba.one::<i64>("SELECT holdfast.prune_events('0')")? == 40);
    Ok(())
}

fn partitions_are_guarded(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    let today = today(&mut dba)?;
    for table in [&today, "holdfast.event_overflow", "holdfast.event_hour"] {
        let commands = [
            format!("DELETE FROM {table}"),
            format!("UPDATE {table} SET occurrences = 0"),
            format!("INSERT INTO {table} SELECT * FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("DROP TABLE {table} CASCADE"),
            format!("ALTER TABLE {table} ADD COLUMN x int"),
            format!("ALTER TABLE {table} ADD PRIMARY KEY (at)"),
            format!("CREATE INDEX ON {table} (occurrences)"),
            format!(
                "CREATE TRIGGER t BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            ),
        ];
        for command in &commands {
            let refusal = dba.refused(command)?;
            ensure!(refusal.code == "WG023", "{command}: {refusal:?}");
        }
    }
    for command in [
        format!("ALTER TABLE holdfast.event DETACH PARTITION {today}"),
        format!("ALTER TABLE holdfast.event DETACH PARTITION {today} CONCURRENTLY"),
        "CREATE TABLE holdfast.event_20200101 PARTITION OF holdfast.event DEFAULT".to_owned(),
        "CREATE TABLE mine PARTITION OF holdfast.event DEFAULT".to_owned(),
        "INSERT INTO holdfast.event SELECT * FROM holdfast.event".to_owned(),
    ] {
        let refusal = dba.refused(&command)?;
        ensure!(refusal.code == "WG023", "{command}: {refusal:?}");
    }
    ensure!(dba.rows("SELECT * FROM holdfast.coverage WHERE finding LIKE '%event%'")?.is_empty());
    Ok(())
}

fn partitions_go_with_the_extension(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    dba.exec(HISTORY)?;
    let copy = format!("{}_copy", guarded.database.name);
    let elsewhere = cluster.database("elsewhere")?;
    let mut elsewhere = elsewhere.connect()?;
    drop(dba);
    eventually("the database to be free", || {
        Ok(elsewhere.exec(&format!("CREATE DATABASE {copy} TEMPLATE {}", guarded.database.name)).is_ok())
    })?;
    let copied = cluster.existing_database(&copy);
    let mut there = copied.connect()?;
    there.exec("SELECT holdfast.break_glass('moved out')")?;
    ensure!(occurrences(&mut there)? >= 91);
    there.exec("DROP EXTENSION holdfast CASCADE; CREATE EXTENSION holdfast")?;
    let relations = there.rows("SELECT relname FROM pg_class WHERE relname ~ '^event_\\d' AND relkind = 'r'")?;
    ensure!(relations.is_empty(), "{relations:?}");
    Ok(())
}

fn many_days_are_restored(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "events")?;
    let mut dba = guarded.database.connect()?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    dba.exec(HISTORY)?;
    let folder = cluster.postgres().folder(&guarded.database.name)?;
    let before = (places(&mut dba)?, dba.rows("SELECT * FROM holdfast.event_hour ORDER BY hour, key")?);
    // Several jobs would load one table each for itself, where only the first finds it empty.
    for (n, (how, jobs)) in [(&["--load-via-partition-root"][..], "--jobs=1"), (&[], "--jobs=2")].iter().enumerate() {
        let file = folder.join(format!("events{n}")).display().to_string();
        let name = guarded.database.name.as_str();
        let dumped = cluster.run("pg_dump", &[how, &["--format=custom", "--file", &file, name][..]].concat())?;
        ensure!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        let copy = cluster.database("events")?;
        let args = ["--exit-on-error", jobs, "--dbname", &copy.name, &file];
        let restored = cluster.run("pg_restore", &args)?;
        ensure!(restored.status.success(), "{how:?}: {}", String::from_utf8_lossy(&restored.stderr));
        let mut there = copy.connect()?;
        let after = (places(&mut there)?, there.rows("SELECT * FROM holdfast.event_hour ORDER BY hour, key")?);
        ensure!(after == before, "{how:?}: {after:?}, not {before:?}");
        copy.connect_as(&guarded.rebuilt)?.refused(FOREIGN_WRITE)?;
        ensure!(occurrences(&mut there)? == 92);
        ensure_alike(&mut there)?;
        ensure!(there.one::<i64>("SELECT holdfast.prune_events('1 day')")? == 90);
        ensure_alike(&mut there)?;
    }
    Ok(())
}
