//! The view `status`, and the reminders of the end date.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use super::scene::in_break_glass;
use crate::client::Session;
use crate::cluster::{Cluster, ClusterOptions};

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("it_reads_like_sentences_within_a_hundred_columns", it_reads_like_sentences),
        Test::shared("before_a_migration_it_says_so", before_a_migration),
        Test::shared("the_end_date_is_told_from_afar_near_and_past", the_end_date),
        Test::shared("tenants_are_counted_by_owner_and_state", tenants_are_counted),
        Test::shared("the_last_hour_is_part_of_the_last_day", the_last_hour),
        Test::shared("tables_are_counted_as_coverage_shows_them", tables_are_counted),
        Test::own("the_log_reminds_once_a_day_and_clients_hear_nothing", ClusterOptions::new(), the_log_reminds),
    ]
}

fn status(session: &mut Session) -> Result<BTreeMap<String, String>> {
    let rows = session.query("SELECT item, value FROM holdfast.status", &[])?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn line(session: &mut Session, item: &str) -> Result<String> {
    status(session)?.remove(item).with_context(|| format!("no line {item}"))
}

fn end_in(session: &mut Session, days: i32) -> Result<()> {
    session.exec(&in_break_glass(&format!("UPDATE holdfast.migration SET ends_on = current_date + {days}")))
}

fn it_reads_like_sentences(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "status")?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    let mut dba = guarded.database.connect()?;
    dba.exec("SELECT holdfast.set_mode('observe', 'legacy')")?;
    let lines = status(&mut dba)?;
    let today: String = dba.one("SELECT current_date::text")?;
    let expected = [
        ("phase", format!("shared, since {today}")),
        ("mode", "enforce, with one exception".to_owned()),
        ("default backend", "legacy".to_owned()),
        ("default owner", "legacy, of all tenants that are not listed".to_owned()),
        ("tenants of rebuilt", "1 listed, 0 frozen".to_owned()),
        ("tables", "2 in all, 0 unclassified, 0 with a broken guard".to_owned()),
        ("last hour", "1 refused, 0 observed".to_owned()),
        ("queue", "no event waits; 0 of 1024 slots in use".to_owned()),
    ];
    for (item, expected) in expected {
        // Other tests' events may be on their way through the same queue.
        let found = lines.get(item).map(|value| value.split(';').next().unwrap_or_default());
        ensure!(found == expected.split(';').next(), "{item}: {found:?}");
    }
    ensure!(lines.get("audit").is_some_and(|value| value.starts_with("launcher runs")), "{lines:?}");
    let widest = |part: fn((&String, &String)) -> usize| lines.iter().map(part).max().unwrap_or(0);
    let columns = widest(|(item, _)| item.len()) + widest(|(_, value)| value.len()) + 5;
    ensure!(columns <= 100, "{columns} columns: {lines:?}");
    Ok(())
}

fn before_a_migration(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("status")?;
    let lines = status(&mut database.connect()?)?;
    for (item, expected) in [("phase", "preparing"), ("mode", "off"), ("default backend", "none")] {
        ensure!(lines.get(item).map(String::as_str) == Some(expected), "{lines:?}");
    }
    ensure!(!lines.contains_key("ends on") && !lines.contains_key("default owner"), "{lines:?}");
    Ok(())
}

fn the_end_date(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "status")?;
    let mut dba = guarded.database.connect()?;
    let cases = [
        (90, "90 days left"),
        (31, "31 days left"),
        (30, "ONLY 30 days left"),
        (1, "ONLY 1 day left"),
        (0, "today"),
        (-1, "1 day ago: IT SHOULD BE OVER"),
        (-5, "5 days ago: IT SHOULD BE OVER"),
    ];
    for (days, expected) in cases {
        end_in(&mut dba, days)?;
        let found = line(&mut dba, "ends on")?;
        ensure!(found.ends_with(&format!(", {expected}")), "{found}");
    }
    // Nothing else happens: what is allowed passes, what isn't doesn't.
    guarded.rebuilt()?.exec("INSERT INTO orders VALUES (2, 60)")?;
    ensure!(guarded.rebuilt()?.refused(FOREIGN_WRITE)?.code == "WG001");
    Ok(())
}

fn tenants_are_counted(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "status")?;
    let mut dba = guarded.database.connect()?;
    for tenant in 3..=6 {
        dba.exec(&format!("SELECT holdfast.cutover('{tenant}', 'rebuilt')"))?;
    }
    dba.exec("SELECT holdfast.rollback_cutover('6')")?;
    dba.exec("SELECT holdfast.freeze('3', 'audit')")?;
    let over =
        "UPDATE holdfast.ownership SET freeze_reason = 'x', frozen_until = now() - interval '1 s' WHERE tenant = '4'";
    dba.exec(&in_break_glass(over))?;
    ensure!(line(&mut dba, "tenants of rebuilt")? == "4 listed, 1 frozen", "{:?}", status(&mut dba)?);
    ensure!(line(&mut dba, "tenants of legacy")? == "1 listed, 0 frozen", "{:?}", status(&mut dba)?);
    Ok(())
}

fn the_last_hour(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "status")?;
    let mut dba = guarded.database.connect()?;
    for _ in 0..3 {
        guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    }
    dba.exec("SELECT holdfast.set_mode('observe')")?;
    guarded.rebuilt()?.exec(FOREIGN_WRITE)?;
    dba.exec("SELECT holdfast.flush_events()")?;
    for item in ["last hour", "last 24 hours"] {
        ensure!(line(&mut dba, item)? == "3 refused, 1 observed", "{:?}", status(&mut dba)?);
    }
    Ok(())
}

fn tables_are_counted(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "status")?;
    let mut dba = guarded.database.connect()?;
    dba.exec(
        "CREATE TABLE loose (id int); CREATE TEMP TABLE temporary (id int);
         CREATE TABLE log (tenant int, id int) PARTITION BY LIST (id);
         CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1);
         CREATE TABLE log_2 PARTITION OF log FOR VALUES IN (2);
         SELECT holdfast.guard_table('log', 'tenant')",
    )?;
    dba.exec(&in_break_glass("ALTER TABLE log_1 DISABLE TRIGGER ALL"))?;
    let coverage = "SELECT format('%s in all, %s unclassified, %s with a broken guard', count(*),
        count(*) FILTER (WHERE class = 'unclassified'), count(*) FILTER (WHERE guard <> 'enabled')) FROM holdfast.coverage";
    let expected: String = dba.one(coverage)?;
    let found = line(&mut dba, "tables")?;
    ensure!(found == expected && found.starts_with("6 in all, 1 unclassified"), "{found}, coverage: {expected}");
    Ok(())
}

fn the_log_reminds(cluster: &mut Cluster) -> Result<()> {
    let mark = cluster.log_mark();
    let reminders = |cluster: &Cluster| -> Result<Vec<String>> {
        let log = cluster.log_since(mark)?;
        Ok(log.lines().filter(|line| line.contains("holdfast: the migration")).map(str::to_owned).collect())
    };
    let (near, far) = (Guarded::enforcing(cluster, "near")?, Guarded::enforcing(cluster, "far")?);
    end_in(&mut far.database.connect()?, 90)?;
    for _ in 0..3 {
        for guarded in [&near, &far] {
            let mut session = guarded.rebuilt()?;
            session.exec("SET client_min_messages = debug1")?;
            session.exec("INSERT INTO orders SELECT 2, max(id) + 1 FROM orders")?;
            let told: Vec<_> = session.notices().into_iter().filter(|n| n.message.contains("the migration")).collect();
            ensure!(told.is_empty(), "{told:?}");
        }
    }
    let found = reminders(cluster)?;
    let with_statement = cluster
        .log_since(mark)?
        .lines()
        .skip_while(|line| !line.contains("holdfast: the migration"))
        .nth(2)
        .map(str::to_owned);
    ensure!(!with_statement.is_some_and(|line| line.contains("STATEMENT")), "the log tells a statement");
    let database = format!("(database \"{}\")", near.database.name);
    ensure!(found.len() == 2, "one for each database while its end was near: {found:?}");
    let of_near: Vec<_> = found.iter().filter(|line| line.contains(&database)).collect();
    ensure!(of_near.len() == 1 && of_near[0].contains("LOG:  holdfast: the migration ends in 30 days"), "{found:?}");
    // A restart forgets whom it has reminded.
    end_in(&mut near.database.connect()?, -5)?;
    cluster.restart(crate::cluster::Shutdown::Fast)?;
    near.rebuilt()?.exec("INSERT INTO orders SELECT 2, max(id) + 1 FROM orders")?;
    near.rebuilt()?.exec("INSERT INTO orders SELECT 2, max(id) + 1 FROM orders")?;
    let passed: Vec<_> =
        reminders(cluster)?.into_iter().filter(|line| line.contains("should have ended 5 days ago")).collect();
    ensure!(passed.len() == 1, "{passed:?}");
    Ok(())
}
