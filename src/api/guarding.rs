//! Guarding: say whose rows a table holds.

use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::surface::has_surface;
use super::{affected, execute, facts, fetch, known_backend, required};
use crate::pg::locks::{self, TableLock};
use crate::pg::relation::{self, ColumnProblem, Unguardable};
use crate::pg::report::error;
use crate::pg::session::Session;
use crate::pg::trigger::GUARD_NAME;
use crate::pg::types::Regclass;
use crate::policy::surface::GuardState;
use crate::policy::tenant::TenantType;

/// How often a table's lock is asked for, 50 ms each, before giving up: about 15 s with the pauses in between.
const LOCK_ATTEMPTS: u32 = 20;

/// Guards a table whose rows belong to the tenant in `tenant_column`, partitions included. Repairs a guard that was
/// damaged; does nothing where all is well.
#[pg_extern(security_definer)]
#[search_path(pg_catalog, pg_temp)]
fn guard_table(relation: Option<Regclass>, tenant_column: Option<&str>) {
    let session = facts();
    let relation = guardable(&session, required(relation, "relation"));
    let column = required(tenant_column, "tenant_column");
    if let Err(problem) = relation::check_tenant_column(relation.0, column) {
        refuse_column(relation, column, problem);
    }
    lock(relation, TableLock::ShareRowExclusive);
    put_trigger(&session, relation);
    classify(relation, "tenant", Some(column), None);
    // Inheritance children are tables of their own, which get no copy of the trigger.
    for child in relation::inheritors(relation.0).into_iter().filter(|child| !relation::is_partition(*child)) {
        put_trigger(&session, Regclass(child));
        classify(Regclass(child), "tenant", Some(column), None);
    }
}

/// Sees to it that a table has the guard's trigger, under its name and enabled always. Its lock, which no trigger can change
/// without, is held.
fn put_trigger(session: &Session, relation: Regclass) {
    let table = name(relation);
    let state = relation::own_guard(relation.0);
    let named = fetch::<bool>(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname = $2)",
        &[relation.into(), GUARD_NAME.into()],
    ) == Some(true);
    let sound = state == GuardState::Enabled && named;
    if !sound {
        drop_triggers(relation);
        execute(
            &format!(
                "CREATE TRIGGER \"{GUARD_NAME}\" BEFORE INSERT OR UPDATE OR DELETE ON {table}
                 FOR EACH ROW EXECUTE FUNCTION holdfast.guard_row()"
            ),
            &[],
        );
    }
    // Also where the table's own is sound: it puts the copies of the partitions right.
    if relation::facts(session, relation.0).is_none_or(|r| r.table.guard != GuardState::Enabled) || !sound {
        execute(&format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER \"{GUARD_NAME}\""), &[]);
    }
}

/// Drops the guard's triggers of a table, under whatever name.
fn drop_triggers(relation: Regclass) {
    let names = fetch::<Vec<Option<String>>>(
        "SELECT pg_catalog.array_agg(pg_catalog.quote_ident(tgname)) FROM pg_catalog.pg_trigger
         WHERE tgrelid = $1 AND tgparentid = 0
           AND (tgfoid = 'holdfast.guard_row()'::pg_catalog.regprocedure OR tgname = $2)",
        &[relation.into(), GUARD_NAME.into()],
    );
    for trigger in names.unwrap_or_default().into_iter().flatten() {
        lock(relation, TableLock::AccessExclusive);
        execute(&format!("DROP TRIGGER {trigger} ON {}", name(relation)), &[]);
    }
}

/// Declares that a table's rows belong to everybody.
#[pg_extern(security_definer)]
#[search_path(pg_catalog, pg_temp)]
fn guard_global(relation: Option<Regclass>) {
    let session = facts();
    let relation = guardable(&session, required(relation, "relation"));
    drop_triggers(relation);
    classify(relation, "global", None, None);
}

/// Takes a table out of the guard, or makes it private to one backend.
#[pg_extern(security_definer)]
#[search_path(pg_catalog, pg_temp)]
fn exempt_table(relation: Option<Regclass>, backend: default!(Option<&str>, "NULL")) {
    let session = facts();
    let relation = guardable(&session, required(relation, "relation"));
    let backend = backend.map(|b| known_backend(&session, b));
    drop_triggers(relation);
    classify(relation, "exempt", None, backend);
}

/// Makes a table unclassified again, and takes back what was allowed on it.
#[pg_extern(security_definer)]
#[search_path(pg_catalog, pg_temp)]
fn unguard_table(relation: Option<Regclass>) {
    let relation = required(relation, "relation");
    let removed =
        affected("DELETE FROM holdfast.classified_table WHERE relation = $1 RETURNING relation", &[relation.into()]);
    if removed == 0 {
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}\" is not classified", name(relation)),
            "",
            "See SELECT * FROM holdfast.coverage;",
        );
    }
    drop_triggers(relation);
    execute("DELETE FROM holdfast.write_permission WHERE relation = $1", &[relation.into()]);
}

/// A table that is classified itself, for `allow_writes`.
pub(super) fn classified(session: &Session, relation: Regclass) -> Regclass {
    let relation = guardable(session, relation);
    let known = relation::facts(session, relation.0);
    if !known.is_some_and(|r| has_surface(&r.table.class)) {
        let class =
            fetch::<String>("SELECT class FROM holdfast.classified_table WHERE relation = $1", &[relation.into()]);
        let class = class.unwrap_or_else(|| "unclassified".to_owned());
        error(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table \"{}\" is {class}", name(relation)),
            "A write surface is made of tenant and global tables.",
            "Classify it first with SELECT holdfast.guard_table(...) or holdfast.guard_global(...).",
        );
    }
    relation
}

/// A relation that can be classified.
fn guardable(session: &Session, relation: Regclass) -> Regclass {
    let (detail, hint) = match relation::check_guardable(session, relation.0) {
        Ok(()) => return relation,
        Err(Unguardable::Missing) => error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", relation.0.to_u32()),
            "",
            "",
        ),
        Err(Unguardable::View) => {
            ("It is a view: its writes are writes of its tables.", "Guard the tables that it selects from.")
        }
        Err(Unguardable::Foreign) => {
            ("It is a foreign table: other ways lead to its rows.", "Install holdfast where the rows are.")
        }
        Err(Unguardable::System) => ("It is a system table.", "Guard tables of the application."),
        Err(Unguardable::Ours) => ("It belongs to the extension itself.", "Guard tables of the application."),
        Err(Unguardable::Temporary) => {
            ("It is temporary: only this session sees it.", "Temporary tables need no guard.")
        }
        Err(Unguardable::Partition) => {
            ("It is a partition.", "Guard the partitioned table; all partitions, later ones too, are guarded with it.")
        }
        Err(Unguardable::NotATable) => ("It is not a table.", "Guard tables."),
    };
    error(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("\"{}\" cannot be guarded", name(relation)), detail, hint)
}

fn refuse_column(relation: Regclass, column: &str, problem: ColumnProblem) -> ! {
    let table = name(relation);
    let (code, message, detail, hint) = match problem {
        ColumnProblem::Missing => (
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{column}\" of table \"{table}\" does not exist"),
            String::new(),
            "Column names are taken as they are, without folding their case.",
        ),
        ColumnProblem::Generated => (
            PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE,
            format!("column \"{column}\" of table \"{table}\" is generated"),
            "Its value is computed after the guard has seen the row.".to_owned(),
            "Name the column that it is generated from.",
        ),
        ColumnProblem::Type(of) => (
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("column \"{column}\" of table \"{table}\" cannot be a tenant column"),
            format!("Its type is {of}; a tenant column is one of {}.", TenantType::NAMES),
            "Name a column of one of these types.",
        ),
        ColumnProblem::Collation => (
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("column \"{column}\" of table \"{table}\" cannot be a tenant column"),
            "Its collation is nondeterministic: unequal keys could name the same tenant.".to_owned(),
            "Use a deterministic collation, or citext.",
        ),
    };
    error(code, message, detail, hint)
}

fn lock(relation: Regclass, lock: TableLock) {
    if locks::lock_table_politely(relation.0, lock, LOCK_ATTEMPTS).is_err() {
        error(
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            format!("could not lock table \"{}\"", name(relation)),
            "Another transaction kept it locked. Nothing has queued behind this attempt.",
            "Run it again when that transaction has ended; see pg_locks.",
        );
    }
}

fn classify(relation: Regclass, class: &str, tenant_column: Option<&str>, backend: Option<&str>) {
    execute(
        "INSERT INTO holdfast.classified_table (relation, class, tenant_column, backend, classified_oid)
         VALUES ($1, $2, $3, $4, $1::pg_catalog.oid)
         ON CONFLICT (relation) DO UPDATE SET class = excluded.class, tenant_column = excluded.tenant_column,
             backend = excluded.backend, classified_oid = excluded.classified_oid, classified_at = excluded.classified_at",
        &[relation.into(), class.into(), tenant_column.into(), backend.into()],
    );
}

/// The relation's name, quoted and qualified: the functions run with a search_path of pg_catalog and pg_temp.
fn name(relation: Regclass) -> String {
    fetch::<String>("SELECT $1::pg_catalog.regclass::pg_catalog.text", &[relation.into()]).unwrap_or_default()
}
