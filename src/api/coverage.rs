//! What the view `coverage` asks the guard.

use pgrx::pg_extern;

use crate::pg::types::Regclass;
use crate::pg::{relation, session};

/// The state of a table's guard, its partitions' and children's included, as a write of it would meet it; NULL where there is
/// no such table.
#[pg_extern(stable, parallel_unsafe)]
fn guard_state(relation: Option<Regclass>) -> Option<String> {
    let session = session::load()?;
    relation::facts(&session, relation?.0).map(|facts| facts.table.guard.word().to_owned())
}
