//! `metrics()`: OpenMetrics text that a real parser reads, whatever backends are called.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{MetricNumber, OpenMetricsType, OpenMetricsValue};

use super::Test;
use super::guarded::{FOREIGN_WRITE, Guarded};
use crate::client::Session;
use crate::cluster::Cluster;

pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_parser_reads_it_and_the_figures_are_right", a_parser_reads_it),
        Test::shared("names_of_any_kind_come_through", names_of_any_kind),
        Test::shared("before_a_migration_there_is_little_to_tell", before_a_migration),
        Test::shared("lines_dont_grow_with_tenants", lines_dont_grow_with_tenants),
    ]
}

/// Names and values, sorted.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// Families by name: type, and value by labels.
type Families = BTreeMap<String, (String, BTreeMap<Vec<(String, String)>, f64>)>;

fn scrape(session: &mut Session) -> Result<Families> {
    let text: String = session.one("SELECT holdfast.metrics()")?;
    ensure!(text.ends_with("\n# EOF\n"), "{text}");
    let exposition = match parse_openmetrics(&text) {
        Ok(exposition) => exposition,
        Err(error) => bail!("{error}\n{text}"),
    };
    let mut families = Families::new();
    for (name, family) in exposition.families {
        ensure!(name.starts_with("holdfast_"), "{name}");
        ensure!(!family.help.is_empty(), "{name} has no HELP");
        ensure!(family.unit.is_empty() || name.ends_with(&format!("_{}", family.unit)), "{name} in {}", family.unit);
        let mut samples = BTreeMap::new();
        for sample in family.iter_samples() {
            let value = match &sample.value {
                OpenMetricsValue::Gauge(number) | OpenMetricsValue::Unknown(number) => number_of(number),
                OpenMetricsValue::Counter(counter) => number_of(&counter.value),
                OpenMetricsValue::Info => 1.0,
                other => bail!("{name}: {other:?}"),
            };
            let labels = match sample.get_labelset() {
                Ok(labels) => labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                Err(error) => bail!("{name}: {error}"),
            };
            let mut labels: Vec<_> = labels;
            labels.sort();
            samples.insert(labels, value);
        }
        ensure!(family.family_type != OpenMetricsType::Unknown, "{name} has no TYPE");
        families.insert(name, (format!("{:?}", family.family_type), samples));
    }
    Ok(families)
}

fn number_of(number: &MetricNumber) -> f64 {
    match number {
        MetricNumber::Int(whole) => *whole as f64,
        MetricNumber::Float(number) => *number,
    }
}

fn value(families: &Families, name: &str, labels: Labels) -> Result<f64> {
    let wanted: Vec<(String, String)> = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    match families.get(name).and_then(|(_, samples)| samples.get(&wanted)) {
        Some(value) => Ok(*value),
        None => bail!("no {name} {labels:?} in {:#?}", families.get(name)),
    }
}

fn a_parser_reads_it(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "metrics")?;
    guarded.rebuilt()?.refused(FOREIGN_WRITE)?;
    guarded.rebuilt()?.exec("INSERT INTO orders VALUES (2, 60)")?;
    let mut dba = guarded.database.connect()?;
    dba.exec("SELECT holdfast.freeze('2', 'audit'); ANALYZE holdfast.event")?;
    let read = scrape(&mut dba)?;
    let expected: [(&str, Labels, f64); 14] = [
        ("holdfast_phase", &[("phase", "shared")], 1.0),
        ("holdfast_phase", &[("phase", "finished")], 0.0),
        ("holdfast_mode", &[("mode", "enforce")], 1.0),
        ("holdfast_mode", &[("mode", "off")], 0.0),
        ("holdfast_tenants", &[("owner", "rebuilt"), ("state", "frozen")], 1.0),
        ("holdfast_tables", &[("class", "tenant"), ("guard", "enabled")], 1.0),
        ("holdfast_checks", &[("backend", "rebuilt"), ("rule", "not_owner")], 2.0),
        ("holdfast_refusals", &[("backend", "rebuilt"), ("outcome", "refused"), ("rule", "not_owner")], 1.0),
        ("holdfast_refusals", &[("backend", "rebuilt"), ("outcome", "observed"), ("rule", "not_owner")], 0.0),
        ("holdfast_stored_events", &[], 1.0),
        ("holdfast_queue_capacity", &[], 1024.0),
        ("holdfast_queue_waiting", &[], 0.0),
        ("holdfast_launcher_running", &[], 1.0),
        ("holdfast_time_left_days", &[], 30.0),
    ];
    for (name, labels, expected) in expected {
        let found = value(&read, name, labels)?;
        ensure!(found == expected, "{name} {labels:?} is {found}, not {expected}");
    }
    let types = [("holdfast_build", "Info"), ("holdfast_checks", "Counter"), ("holdfast_tenants", "Gauge")];
    for (name, expected) in types {
        let found = read.get(name).map(|(of, _)| of.as_str());
        ensure!(found == Some(expected), "{name} is a {found:?}");
    }
    Ok(())
}

const NAMES: [&str; 5] =
    ["say \"hi\"", "back\\slash\\n", "two\nlines", "<script>alert(1)</script>", "naïve 🐘 {a=\"b\"} # EOF"];

fn names_of_any_kind(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "metrics")?;
    let mut dba = guarded.database.connect()?;
    let role = guarded.database.role("odd")?;
    dba.exec(&format!("GRANT ALL ON orders TO {role}; SELECT holdfast.set_mode('observe')"))?;
    for name in NAMES {
        dba.execute("SELECT holdfast.add_backend($1, 'unproven')", &[&name])?;
        dba.execute("SELECT holdfast.add_identity($1, application_name => $1)", &[&name])?;
    }
    let mut session = guarded.legacy()?;
    for name in NAMES {
        session.execute("SELECT set_config('holdfast.backend', $1, false)", &[&name])?;
        session.exec("INSERT INTO orders SELECT 1, max(id) + 1 FROM orders")?;
    }
    let read = scrape(&mut dba)?;
    for name in NAMES {
        let refusals =
            value(&read, "holdfast_refusals", &[("backend", name), ("outcome", "observed"), ("rule", "not_owner")])?;
        ensure!(refusals == 1.0, "{name}: {refusals}");
    }
    Ok(())
}

fn before_a_migration(cluster: &Cluster) -> Result<()> {
    let database = cluster.guarded_database("metrics")?;
    let read = scrape(&mut database.connect()?)?;
    ensure!(value(&read, "holdfast_phase", &[("phase", "preparing")])? == 1.0);
    ensure!(value(&read, "holdfast_mode", &[("mode", "off")])? == 1.0);
    ensure!(!read.contains_key("holdfast_time_left_days"));
    Ok(())
}

fn lines_dont_grow_with_tenants(cluster: &Cluster) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "metrics")?;
    let mut dba = guarded.database.connect()?;
    let lines = |dba: &mut Session| dba.one::<i32>("SELECT regexp_count(holdfast.metrics(), '\\n')");
    let before = lines(&mut dba)?;
    dba.exec(&super::scene::in_break_glass(
        "INSERT INTO holdfast.ownership SELECT 't' || n, 'rebuilt', 'legacy', 1, NULL, NULL, now(), 'x' FROM generate_series(1, 10000) n",
    ))?;
    let read = scrape(&mut dba)?;
    ensure!(value(&read, "holdfast_tenants", &[("owner", "rebuilt"), ("state", "active")])? == 10_001.0);
    // What the guard counted meanwhile for the operator's own backend adds a few lines; the tenants add none.
    ensure!(lines(&mut dba)? < before + 20);
    Ok(())
}
