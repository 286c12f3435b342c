//! What the view `coverage` asks the guard.

use pgrx::pg_extern;

use crate::pg::types::Regclass;
use crate::pg::{relation, session};

/// The state of a table's own guard, whatever its partitions and children are like, as the guard itself sees it; NULL where
/// there is no such table.
#[pg_extern(stable, parallel_unsafe)]
fn guard_state(relation: Option<Regclass>) -> Option<String> {
    let session = session::load()?;
    relation::own_state(&session, relation?.0).map(|state| state.word().to_owned())
}
