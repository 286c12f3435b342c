//! Guarding: say whose rows a table holds.

use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, default, pg_extern, search_path};

use super::surface::has_surface;
use super::{affected, execute, facts, fetch, known_backend, required};
use crate::pg::columns::{self, ColumnProblem};
use crate::pg::locks::{self, TableLock};
use crate::pg::parents::{NoLink, ParentLink};
use crate::pg::relation::{self, Locate, Unguardable};
use crate::pg::report::error;
use crate::pg::session::Session;
use crate::pg::trigger::GUARD_NAME;
use crate::pg::types::Regclass;
use crate::policy::columns::{KeyColumns, NotColumns};
use crate::policy::surface::{GuardState, TableClass, TenantSource};
use crate::policy::tenant::TenantType;

/// How often a table's lock is asked for, 50 ms each, before giving up: about 15 s with the pauses in between.
const LOCK_ATTEMPTS: u32 = 20;

/// Guards a table whose rows belong to tenants, partitions included. What names a row's tenant is one of: the column
/// `tenant_column`, or several columns as a list; the foreign key with the column `via`, which leads to the row of another guarded table; `tenant`, to
/// whom all rows belong. Repairs a guard that was damaged; does nothing where all is well.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn guard_table(
    relation: Option<Regclass>,
    tenant_column: default!(Option<&str>, "NULL"),
    via: default!(Option<&str>, "NULL"),
    tenant: default!(Option<&str>, "NULL"),
) {
    let session = facts();
    let relation = guardable(&session, required(relation, "relation"));
    let source = match (tenant_column, via, tenant) {
        (Some(columns), None, None) => TenantSource::Columns(key_columns(columns, |c| columns::exists(relation.0, c))),
        (None, Some(via), None) => TenantSource::Parent(via.to_owned()),
        (None, None, Some(tenant)) if !tenant.is_empty() => TenantSource::Constant(tenant.to_owned()),
        _ => error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("say in one way whose the rows of table \"{}\" are", name(relation)),
            "",
            "Give one of tenant_column (a column, or a list of columns), via (a column of the foreign key to the parent row) and tenant (a tenant's key).",
        ),
    };
    guard_as(&session, relation, &source);
}

/// The columns that a user means: the one that has the text as its name, `exists` says whether there is one, or those of a
/// list.
pub(super) fn key_columns(text: &str, exists: impl Fn(&str) -> bool) -> KeyColumns {
    if !text.contains(',') || exists(text) {
        return KeyColumns::from(text);
    }
    let (code, detail) = match KeyColumns::parse(text) {
        Ok(columns) if columns.names().len() > 1 => return columns,
        Ok(_) => return KeyColumns::from(text),
        Err(NotColumns::Syntax(why)) => (PgSqlErrorCode::ERRCODE_INVALID_NAME, format!("In \"{text}\", {why}.")),
        Err(NotColumns::Twice(column)) => {
            (PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN, format!("Column \"{column}\" is listed twice."))
        }
        Err(NotColumns::TooMany(count)) => (
            PgSqlErrorCode::ERRCODE_TOO_MANY_COLUMNS,
            format!("It lists {count} columns; a tenant key has {} at most.", KeyColumns::MOST),
        ),
    };
    error(
        code,
        "parameter \"tenant_column\" is neither a column nor a list of columns",
        detail,
        "List columns as SQL does: 'region, \"Account\"'.",
    )
}

/// As [`guard_table`], for a relation that can be guarded.
pub(super) fn guard_as(session: &Session, relation: Regclass, source: &TenantSource) {
    let parent = lead_to_tenants(session, relation, source);
    lock(relation, TableLock::ShareRowExclusive);
    put_trigger(session, relation);
    classify(relation, "tenant", Some((source, parent)), None);
    // Inheritance children are tables of their own, which get no copy of the trigger.
    for child in children(relation) {
        let parent = lead_to_tenants(session, child, source);
        put_trigger(session, child);
        classify(child, "tenant", Some((source, parent)), None);
    }
}

/// A temporary one is its session's own affair.
fn children(relation: Regclass) -> impl Iterator<Item = Regclass> {
    let inheritors = relation::inheritors(relation.0).into_iter();
    inheritors.filter(|child| !relation::is_partition(*child) && !relation::is_temporary(*child)).map(Regclass)
}

/// Whether a table has what names its rows' tenants; the parent table, where it is a foreign key.
fn lead_to_tenants(session: &Session, relation: Regclass, source: &TenantSource) -> Option<Regclass> {
    match source {
        TenantSource::Columns(columns) => {
            for column in columns.names() {
                if let Err(problem) = columns::check(relation.0, column) {
                    refuse_column(relation, columns, column, problem);
                }
            }
            None
        }
        TenantSource::Parent(via) => match ParentLink::find(relation.0, via) {
            Ok(link) => Some(guarded_parent(session, relation, via, Regclass(link.parent))),
            Err(problem) => refuse_via(relation, via, problem),
        },
        TenantSource::Constant(_) => None,
    }
}

/// The parent, if it is a tenant table whose own tenants don't come from `relation`.
fn guarded_parent(session: &Session, relation: Regclass, via: &str, parent: Regclass) -> Regclass {
    let facts = relation::facts(session, parent.0);
    let of_tenants = facts.as_ref().is_some_and(|f| matches!(f.table.class, TableClass::Tenant(_)));
    let leads = facts.is_some_and(|f| !matches!(f.locate, Locate::Nowhere));
    let (detail, hint) = if !of_tenants {
        ("Its rows have no tenants.", format!("Guard it first: SELECT holdfast.guard_table('{}', ...);", name(parent)))
    } else if !leads || leads_back(session, relation, parent) {
        (
            "No row with a tenant is at the end of this way.",
            "Guard the tables from the tenants' own table on.".to_owned(),
        )
    } else {
        return parent;
    };
    error(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("column \"{via}\" of table \"{}\" leads to table \"{}\"", name(relation), name(parent)),
        detail,
        hint,
    )
}

/// A table that tells whose the rows of others are must stay a tenant table.
fn refuse_parent(session: &Session, relation: Regclass) {
    if !session.policy.parents.contains(&relation.0.to_u32()) {
        return;
    }
    let children = fetch::<String>(
        "SELECT pg_catalog.string_agg(relation::pg_catalog.text, ', ' ORDER BY relation::pg_catalog.text)
         FROM holdfast.classified_table WHERE parent = $1",
        &[relation.into()],
    );
    error(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("rows of other tables get their tenants from table \"{}\"", name(relation)),
        format!("These are: {}.", children.unwrap_or_default()),
        "Say first in another way whose their rows are, with SELECT holdfast.guard_table(...).",
    );
}

/// Whether the way from `parent` to its tenants passes through `relation`.
fn leads_back(session: &Session, relation: Regclass, parent: Regclass) -> bool {
    let mut at = parent.0;
    for _ in 0..=relation::LONGEST_PATH {
        if at == relation.0 {
            return true;
        }
        match relation::facts(session, at).as_deref().map(|facts| &facts.locate) {
            Some(Locate::Parent(link)) => at = link.parent,
            _ => return false,
        }
    }
    true
}

fn refuse_via(relation: Regclass, via: &str, problem: NoLink) -> ! {
    let table = name(relation);
    let (code, detail, hint) = match problem {
        NoLink::NoColumn => (
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            "The table has no column of this name.",
            "Name a column of the foreign key that leads to the row with the tenant.",
        ),
        NoLink::NoForeignKey => (
            PgSqlErrorCode::ERRCODE_INVALID_FOREIGN_KEY,
            "No foreign key of the table has this column.",
            "Create the foreign key (NOT VALID is enough), or name a column that has one.",
        ),
        NoLink::Ambiguous => (
            PgSqlErrorCode::ERRCODE_AMBIGUOUS_PARAMETER,
            "Several foreign keys have this column, and they refer to different tables.",
            "Name a column that only the right one has.",
        ),
        NoLink::Generated => (
            PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE,
            "A column of the foreign key is generated, and computed after the guard has seen the row.",
            "Lead to the tenant by columns that are not generated.",
        ),
        NoLink::Types => (
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            "The foreign key's column and the one that it refers to are of types that only a conversion can compare.",
            "Give both the same type.",
        ),
    };
    error(code, format!("column \"{via}\" of table \"{table}\" leads to no tenant"), detail, hint)
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
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn guard_global(relation: Option<Regclass>) {
    let session = facts();
    let relation = guardable(&session, required(relation, "relation"));
    refuse_parent(&session, relation);
    guard_as_global(&session, relation);
}

/// As [`guard_global`], for a relation that can be guarded. It has the trigger too, so that its rows are counted.
pub(super) fn guard_as_global(session: &Session, relation: Regclass) {
    lock(relation, TableLock::ShareRowExclusive);
    put_trigger(session, relation);
    classify(relation, "global", None, None);
    for child in children(relation) {
        put_trigger(session, child);
        classify(child, "global", None, None);
    }
}

/// Takes a table out of the guard, or makes it private to one backend.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn exempt_table(relation: Option<Regclass>, backend: default!(Option<&str>, "NULL")) {
    let session = facts();
    let relation = guardable(&session, required(relation, "relation"));
    let backend = backend.map(|b| known_backend(&session, b));
    refuse_parent(&session, relation);
    drop_triggers(relation);
    classify(relation, "exempt", None, backend);
}

/// Makes a table unclassified again, and takes back what was allowed on it.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn unguard_table(relation: Option<Regclass>) {
    let relation = required(relation, "relation");
    refuse_parent(&facts(), relation);
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

fn refuse_column(relation: Regclass, key: &KeyColumns, column: &str, problem: ColumnProblem) -> ! {
    let table = name(relation);
    let (code, message, detail, hint) = match problem {
        ColumnProblem::Missing => (
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{column}\" of table \"{table}\" does not exist"),
            String::new(),
            match key.names() {
                [_] => "Column names are taken as they are, without folding their case.",
                _ => "In a list, names are folded to lower case unless they are quoted.",
            },
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
    lock_all(&[relation.0], lock);
}

/// Locks all of these tables or none, so that nobody waits for one of them while this waits for another.
pub(super) fn lock_all(relations: &[Oid], lock: TableLock) {
    if let Err(relation) = locks::lock_tables_politely(relations, lock, LOCK_ATTEMPTS) {
        error(
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            format!("could not lock table \"{}\"", name(Regclass(relation))),
            "Another transaction kept it locked. Nothing has queued behind this attempt.",
            "Run it again when that transaction has ended; see pg_locks.",
        );
    }
}

fn classify(
    relation: Regclass,
    class: &str,
    tenants: Option<(&TenantSource, Option<Regclass>)>,
    backend: Option<&str>,
) {
    let (source, parent) = tenants.map_or((None, None), |(source, parent)| (Some(source), parent));
    let (mut column, mut columns, mut via, mut tenant) = (None, None, None, None);
    match source {
        Some(TenantSource::Columns(key)) => match key.names() {
            [only] => column = Some(only.as_str()),
            several => columns = Some(several.to_vec()),
        },
        Some(TenantSource::Parent(name)) => via = Some(name.as_str()),
        Some(TenantSource::Constant(key)) => tenant = Some(key.as_str()),
        None => {}
    }
    execute(
        "INSERT INTO holdfast.classified_table
             (relation, class, tenant_column, backend, classified_oid, via, tenant, parent, tenant_columns)
         VALUES ($1, $2, $3, $4, $1::pg_catalog.oid, $5, $6, $7, $8)
         ON CONFLICT (relation) DO UPDATE SET class = excluded.class, tenant_column = excluded.tenant_column,
             backend = excluded.backend, classified_oid = excluded.classified_oid, classified_at = excluded.classified_at,
             via = excluded.via, tenant = excluded.tenant, parent = excluded.parent,
             tenant_columns = excluded.tenant_columns",
        &[
            relation.into(),
            class.into(),
            column.into(),
            backend.into(),
            via.into(),
            tenant.into(),
            parent.into(),
            columns.into(),
        ],
    );
}

/// The relation's name, quoted and qualified: the functions run with a search_path of pg_catalog and pg_temp.
fn name(relation: Regclass) -> String {
    fetch::<String>("SELECT $1::pg_catalog.regclass::pg_catalog.text", &[relation.into()]).unwrap_or_default()
}
