//! The report: where the migration stands, as one page.

use pgrx::{JsonB, PgSqlErrorCode, pg_extern, search_path};
use serde_json::{Value, json};

use super::fetch;
use crate::pg::report::error;
use crate::report::{Facts, render};

/// How many findings of `check_setup` the page shows.
const SHOWN: usize = 20;

/// Where the migration stands, as a page of HTML that needs nothing else.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn report_html() -> String {
    let facts = fetch::<JsonB>(include_str!("report.sql"), &[]).map(|mut facts| {
        facts.0["setup"] = setup();
        serde_json::from_value::<Facts>(facts.0).map_err(|failure| failure.to_string())
    });
    let page = match facts {
        Some(Ok(facts)) => render(&facts).map_err(|failure| failure.to_string()),
        Some(Err(failure)) => Err(failure),
        None => Err("the query gave nothing".to_owned()),
    };
    page.unwrap_or_else(|failure| {
        error(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("the report could not be written: {failure}"), "", "")
    })
}

/// What `check_setup` finds.
fn setup() -> Value {
    let found = fetch::<JsonB>("SELECT pg_catalog.jsonb_agg(found) FROM holdfast.check_setup() AS found", &[]);
    let found = match found {
        Some(JsonB(Value::Array(found))) => found,
        _ => Vec::new(),
    };
    json!({ "first": found.iter().take(SHOWN).collect::<Vec<_>>(), "total": found.len() })
}
