//! What a monitoring system scrapes: OpenMetrics text.

use std::collections::BTreeMap;
use std::fmt;

use pgrx::{JsonB, PgSqlErrorCode, Spi, pg_extern, search_path};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use serde::Deserialize;

use super::{facts, internal};
use crate::pg::audit::{self, DrainState, Health};
use crate::pg::report::error;
use crate::pg::session::{self, Session};
use crate::pg::{stats, trigger};
use crate::policy::mode::Mode;
use crate::policy::rules::Rule;
use crate::policy::waves::State;

/// What the tables tell. Tenants are counted, never named, so that there are as many lines as there are owners.
const QUERY: &str = "
    SELECT jsonb_build_object(
        'sql_version', (SELECT extversion FROM pg_extension WHERE extname = 'holdfast'),
        'server_version', current_setting('server_version'),
        'phase', coalesce((SELECT phase FROM holdfast.migration), 'preparing'),
        'mode', coalesce((SELECT mode FROM holdfast.migration), 'off'),
        'days_left', (SELECT ends_on - current_date FROM holdfast.migration),
        'tenants', (SELECT coalesce(jsonb_agg(jsonb_build_array(owner, state, tenants) ORDER BY owner, state), '[]') FROM (
            SELECT owner, CASE WHEN freeze_reason IS NOT NULL AND (frozen_until IS NULL OR frozen_until > clock_timestamp())
                THEN 'frozen' ELSE 'active' END AS state, count(*) AS tenants
            FROM holdfast.ownership GROUP BY 1, 2) AS owned),
        'tables', (SELECT coalesce(jsonb_agg(jsonb_build_array(class, guard, tables) ORDER BY class, guard), '[]') FROM (
            SELECT class, coalesce(guard, 'none') AS guard, tables FROM holdfast.table_counts()) AS counted),
        'waves', (SELECT coalesce(jsonb_object_agg(state, waves), '{}') FROM (
            SELECT state, count(*) AS waves FROM holdfast.wave GROUP BY 1) AS waves),
        'lost', (SELECT coalesce(sum(events), 0)::bigint FROM holdfast.audit_loss),
        'stored_events', (SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_class WHERE oid IN (
            SELECT 'holdfast.event_overflow'::regclass UNION ALL
            SELECT inhrelid FROM pg_inherits WHERE inhparent = 'holdfast.event'::regclass)))";

#[derive(Deserialize)]
struct Facts {
    sql_version: String,
    server_version: String,
    phase: String,
    mode: String,
    days_left: Option<i64>,
    tenants: Vec<(String, String, i64)>,
    tables: Vec<(String, String, i64)>,
    waves: BTreeMap<String, i64>,
    lost: i64,
    stored_events: i64,
}

/// Every phase of a migration, as the column `phase` has them.
const PHASES: [&str; 4] = ["preparing", "shared", "single", "finished"];

/// This database's state as OpenMetrics text.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn metrics() -> String {
    let session = facts();
    // Read only: anything else would take a transaction number for each scrape, and none can be had on a standby.
    let read =
        session::operate(|| Spi::connect(|client| client.select(QUERY, Some(1), &[])?.first().get_one::<JsonB>()));
    let read = match read {
        Ok(json) => json.map(|json| serde_json::from_value::<Facts>(json.0)),
        Err(failure) => internal(failure),
    };
    let mut registry = Registry::default();
    let mut text = String::new();
    let written = match read {
        Some(Ok(read)) => {
            registry.register_collector(Box::new(Exposition(families(&session, &read, audit::health()))));
            encode(&mut text, &registry).is_ok()
        }
        _ => false,
    };
    if !written {
        error(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "holdfast: metrics could not be written", "", "");
    }
    text
}

#[derive(Debug)]
enum Kind {
    Counter,
    Gauge,
    Info,
}

/// A name with a value for each set of labels.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    unit: Option<Unit>,
    samples: Samples,
}

type Labels = Vec<(&'static str, String)>;

type Samples = Vec<(Labels, i64)>;

impl Family {
    fn new(kind: Kind, name: &'static str, help: &'static str, samples: Samples) -> Family {
        Family { name, help, kind, unit: None, samples }
    }

    fn gauge(name: &'static str, help: &'static str, value: i64) -> Family {
        Family::new(Kind::Gauge, name, help, vec![(Vec::new(), value)])
    }

    fn within(self, unit: Unit) -> Family {
        Family { unit: Some(unit), ..self }
    }

    /// 1 for the value that holds, 0 for the others that could.
    fn state<'a>(
        label: &'static str,
        name: &'static str,
        help: &'static str,
        all: impl IntoIterator<Item = &'a str>,
        now: &str,
    ) -> Family {
        let samples = all.into_iter().map(|word| (vec![(label, word.to_owned())], i64::from(word == now))).collect();
        Family::new(Kind::Gauge, name, help, samples)
    }
}

#[derive(Debug)]
struct Exposition(Vec<Family>);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // Some parsers take a head without samples for a mistake.
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), kind)?;
            for (labels, value) in &family.samples {
                match family.kind {
                    Kind::Info => metric.encode_info(labels)?,
                    Kind::Gauge if labels.is_empty() => metric.encode_gauge(value)?,
                    Kind::Gauge => metric.encode_family(labels)?.encode_gauge(value)?,
                    Kind::Counter => {
                        let (value, exemplar) =
                            (u64::try_from(*value).unwrap_or(0), None::<&Exemplar<NoLabelSet, u64>>);
                        if labels.is_empty() {
                            metric.encode_counter(&value, exemplar)?;
                        } else {
                            metric.encode_family(labels)?.encode_counter(&value, exemplar)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Those of every state, so that an alarm on halted ones has a series from the first on.
fn waves(counted: &BTreeMap<String, i64>) -> Samples {
    let states = State::ALL.into_iter().map(State::as_str);
    states.map(|state| (vec![("state", state.to_owned())], counted.get(state).copied().unwrap_or(0))).collect()
}

fn families(session: &Session, facts: &Facts, health: Option<Health>) -> Vec<Family> {
    use Kind::{Counter, Gauge, Info};
    let counts = |label: &'static str, other: &'static str, counted: &[(String, String, i64)]| {
        counted.iter().map(|(a, b, n)| (vec![(label, a.clone()), (other, b.clone())], *n)).collect()
    };
    let build = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("sql_version", facts.sql_version.clone()),
        ("postgres", facts.server_version.clone()),
    ];
    let modes = [Mode::Off, Mode::Observe, Mode::Enforce].map(Mode::as_str);
    let (checks, refusals) = rules(session);
    let mut families = vec![
        Family::new(Info, "holdfast_build", "What is installed.", vec![(build, 1)]),
        Family::state("phase", "holdfast_phase", "Where the migration stands.", PHASES, &facts.phase),
        Family::state("mode", "holdfast_mode", "The mode of rules that have none of their own.", modes, &facts.mode),
        Family::new(
            Gauge,
            "holdfast_tenants",
            "Tenants that are listed, by owner and state.",
            counts("owner", "state", &facts.tenants),
        ),
        Family::new(
            Gauge,
            "holdfast_tables",
            "Tables by class, and by the state of the guard.",
            counts("class", "guard", &facts.tables),
        ),
        Family::new(Gauge, "holdfast_waves", "Waves by state.", waves(&facts.waves)),
        Family::new(Counter, "holdfast_checks", "How often a rule was asked.", checks),
        Family::new(Counter, "holdfast_refusals", "How often a rule was broken, and what came of it.", refusals),
        Family::gauge("holdfast_stored_events", "Estimated rows of the event table.", facts.stored_events),
    ];
    if let Some(days) = facts.days_left {
        let help = "Days to the end date; negative when it has passed.";
        families.push(Family::gauge("holdfast_time_left", help, days).within(Unit::Other("days".to_owned())));
    }
    families.extend(health.into_iter().flat_map(|health| audit(&health, facts.lost)));
    families
}

/// How the record does.
fn audit(health: &Health, lost: i64) -> [Family; 9] {
    let waited = health.oldest_queued_at.map_or(0, |since| (trigger::now() - since).max(0) / 1_000_000);
    let lost = Family::new(
        Kind::Counter,
        "holdfast_lost_events",
        "Events that could not be recorded.",
        vec![(Vec::new(), lost + health.lost)],
    );
    [
        Family::gauge("holdfast_queue_capacity", "Events that the server's queue has room for.", health.slots),
        Family::gauge("holdfast_queue_used", "Events in the server's queue.", health.used),
        Family::gauge("holdfast_queue_waiting", "Events of this database in the queue.", health.queued),
        Family::gauge("holdfast_oldest_event_age", "How long the oldest of them has waited.", waited)
            .within(Unit::Seconds),
        Family::gauge("holdfast_launcher_running", "Whether the launcher runs.", i64::from(health.launcher)),
        Family::gauge(
            "holdfast_worker_running",
            "Whether a worker stores events of this database now.",
            i64::from(health.drain == DrainState::Running),
        ),
        Family::gauge("holdfast_worker_failures", "How many workers in a row have failed.", i64::from(health.failures)),
        Family::gauge("holdfast_spool", "What of this database is in the spool.", health.spooled as i64)
            .within(Unit::Bytes),
        lost,
    ]
}

/// Checks, and what came of broken rules, of each backend.
fn rules(session: &Session) -> (Samples, Samples) {
    let (counted, others) = stats::counted(session);
    let unnamed = |name: &str| Some(name.to_owned());
    let named = counted.into_iter().map(|c| (c.backend.or_else(|| unnamed("(none)")), c.tally));
    let (mut checks, mut refusals) = (Vec::new(), Vec::new());
    for (backend, tally) in named.chain(others.map(|c| (unnamed(super::stats::OTHERS), c.tally))) {
        for rule in Rule::ALL {
            let figures = tally.of(*rule);
            if figures.checked == 0 {
                continue;
            }
            let labels = vec![("backend", backend.clone().unwrap_or_default()), ("rule", rule.name().to_owned())];
            let outcomes =
                [("observed", figures.observed), ("refused", figures.refused), ("break_glass", figures.break_glass)];
            for (outcome, count) in outcomes {
                let labels = labels.iter().cloned().chain([("outcome", outcome.to_owned())]).collect();
                refusals.push((labels, count as i64));
            }
            checks.push((labels, figures.checked as i64));
        }
    }
    (checks, refusals)
}
