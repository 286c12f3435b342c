//! Guarding a whole schema.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, default, name, pg_extern, search_path};

use super::guarding::{guard_as, guard_as_global, key_columns, lock_all};
use super::{facts, fetch, required};
use crate::pg::columns::{self, ColumnProblem};
use crate::pg::locks::TableLock;
use crate::pg::parents::ParentLink;
use crate::pg::reading::{self, Row};
use crate::pg::relation;
use crate::pg::report::error;
use crate::pg::session::Session;
use crate::pg::types::Regclass;
use crate::policy::columns::KeyColumns;
use crate::policy::schema::{self, Action, Columns, ForeignKey, Proposal, Table};
use crate::policy::surface::{TableClass, TenantSource};

/// Says of every table of a schema whose rows it seems to hold and why; with `dry_run := false`, guards those of which that
/// is certain. With `tenant`, all of them belong to that tenant.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns")]
fn guard_schema(
    schema: Option<&str>,
    tenant_column: default!(Option<&str>, "'tenant_id'"),
    dry_run: default!(Option<bool>, "true"),
    tenant: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(relation, Regclass),
        name!(class, Option<String>),
        name!(tenant_column, Option<String>),
        name!(via, Option<String>),
        name!(tenant, Option<String>),
        name!(action, String),
        name!(reason, String),
    ),
> {
    let schema = of_the_application(required(schema, "schema"));
    let columns = required(tenant_column, "tenant_column");
    let columns = key_columns(columns, |column| has_column(schema, column));
    let dry_run = required(dry_run, "dry_run");
    if tenant.is_some_and(str::is_empty) {
        error(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "parameter \"tenant\" must not be empty", "", "");
    }
    let session = facts();
    let proposals = schema::propose(&tables(&session, schema, &columns), &columns, tenant);
    if !dry_run {
        let certain: Vec<&Proposal> = proposals.iter().filter(|p| p.action == Action::Guard).collect();
        let tables: Vec<Oid> = certain.iter().map(|proposal| Oid::from(proposal.table)).collect();
        lock_all(&tables, TableLock::ShareRowExclusive);
        certain.into_iter().for_each(apply);
    }
    TableIterator::new(proposals.into_iter().map(told).collect::<Vec<_>>())
}

/// Guards a table; the policy is read anew for each, as its parents have just become part of it.
fn apply(proposal: &Proposal) {
    let relation = Regclass(Oid::from(proposal.table));
    match &proposal.class {
        TableClass::Tenant(source) => guard_as(&facts(), relation, source),
        TableClass::Global => guard_as_global(&facts(), relation),
        TableClass::Exempt { .. } | TableClass::Unclassified => {}
    }
}

type Told = (Regclass, Option<String>, Option<String>, Option<String>, Option<String>, String, String);

fn told(proposal: Proposal) -> Told {
    let Proposal { table, class, action, reason } = proposal;
    let (mut columns, mut via, mut tenant) = (None, None, None);
    let class = match class {
        TableClass::Tenant(source) => {
            match source {
                TenantSource::Columns(names) => columns = Some(names.to_string()),
                TenantSource::Parent(name) => via = Some(name),
                TenantSource::Constant(key) => tenant = Some(key),
            }
            Some("tenant")
        }
        TableClass::Global => Some("global"),
        TableClass::Exempt { .. } => Some("exempt"),
        TableClass::Unclassified => None,
    };
    (Regclass(Oid::from(table)), class.map(str::to_owned), columns, via, tenant, action.to_string(), reason)
}

/// A schema that exists and holds tables that can be guarded.
fn of_the_application(schema: &str) -> &str {
    let known = fetch::<bool>("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", &[schema.into()]);
    if known != Some(true) {
        error(
            PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
            format!("schema \"{schema}\" does not exist"),
            "",
            "The name is taken as it is, without folding its case.",
        );
    }
    if matches!(schema, "pg_catalog" | "information_schema" | "pg_toast" | "holdfast") || schema.starts_with("pg_") {
        error(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("schema \"{schema}\" holds no tables of the application"),
            "",
            "Name a schema of the application.",
        );
    }
    schema
}

/// The tables of a schema, and those of others that their foreign keys lead to, however far: number, name, whether it is
/// one of the schema, extension, tables it inherits from.
const TABLES: &str = "
    WITH RECURSIVE involved AS (
        SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
        UNION
        SELECT coalesce(pg_partition_root(con.confrelid)::oid, con.confrelid)
        FROM involved JOIN pg_constraint con ON con.conrelid = involved.oid AND con.contype = 'f'
    )
    SELECT c.oid, CASE WHEN n.nspname = $1 THEN c.relname::text ELSE format('%s.%s', n.nspname, c.relname) END,
        n.nspname = $1,
        (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
           AND d.refclassid = 'pg_extension'::regclass),
        ARRAY(SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = c.oid)
    FROM involved JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY n.nspname <> $1, c.relname";

/// The foreign keys of a table, without the copies that there are for each partition of the other: table referred to, the
/// whole that this is part of, columns, columns referred to, whether one of the columns may be null.
const KEYS: &str = "
    SELECT con.confrelid, coalesce(pg_partition_root(con.confrelid)::oid, con.confrelid),
        array_agg(c.attname::text ORDER BY k.n), array_agg(p.attname::text ORDER BY k.n), bool_or(NOT c.attnotnull)
    FROM pg_constraint con
    CROSS JOIN LATERAL unnest(con.conkey, con.confkey) WITH ORDINALITY AS k (child, parent, n)
    JOIN pg_attribute c ON c.attrelid = con.conrelid AND c.attnum = k.child
    JOIN pg_attribute p ON p.attrelid = con.confrelid AND p.attnum = k.parent
    WHERE con.contype = 'f' AND con.conrelid = $1
      AND NOT EXISTS (SELECT FROM pg_constraint whole WHERE whole.oid = con.conparentid AND whole.conrelid = $1)
    GROUP BY con.oid, con.confrelid ORDER BY con.oid";

/// What the catalogs say of a schema.
fn tables(session: &Session, schema: &str, columns: &KeyColumns) -> Vec<Table> {
    let read = |row: &Row| Table {
        oid: row.oid(0),
        name: row.text(1),
        asked: row.get(2) == Some(true),
        class: TableClass::Unclassified,
        extension: row.get(3),
        inherits: row.get::<Vec<Option<Oid>>>(4).into_iter().flatten().flatten().map(Oid::to_u32).collect(),
        columns: Columns::Missing,
        keys: Vec::new(),
    };
    let mut tables = reading::rows(TABLES, &[schema.into()], read);
    for table in &mut tables {
        let oid = Oid::from(table.oid);
        if let Some(known) = relation::facts(session, oid) {
            table.class = known.table.class.clone();
        }
        table.columns = match unfit(oid, columns.names()) {
            None => Columns::Fit,
            _ if columns.names().iter().any(|column| !columns::exists(oid, column)) => Columns::Missing,
            Some(why) => Columns::Unfit(why),
        };
        table.keys = reading::rows(KEYS, &[oid.into()], |row| key(oid, row));
    }
    tables
}

fn key(table: Oid, row: &Row) -> ForeignKey {
    let (parent, columns, referenced) = (Oid::from(row.oid(0)), row.texts(2), row.texts(3));
    let unfit = unfit(parent, &referenced);
    let names = |column: &&String| ParentLink::find(table, column).is_ok_and(|link| link.parent == parent);
    let fit = |column: &&String| columns::check(table, column).is_ok();
    let fit = columns.iter().filter(fit).cloned().collect();
    let named_by = columns.iter().find(names).cloned();
    ForeignKey { columns, parent: row.oid(1), referenced, unfit, nullable: row.get(4) == Some(true), fit, named_by }
}

/// Whether a table of the schema has a column of this name.
fn has_column(schema: &str, column: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND c.relkind IN ('r', 'p')
          AND a.attname::text = $2 AND a.attnum > 0 AND NOT a.attisdropped)";
    fetch::<bool>(sql, &[schema.into(), column.into()]) == Some(true)
}

/// Why columns of a table can't be tenant columns, as a clause; of several, it names the one.
fn unfit(table: Oid, columns: &[String]) -> Option<String> {
    let (problem, column) = columns.iter().find_map(|column| Some((columns::check(table, column).err()?, column)))?;
    let (it, its) = match columns {
        [_] => ("it".to_owned(), "its".to_owned()),
        _ => (format!("column {column}"), format!("column {column}'s")),
    };
    Some(match problem {
        ColumnProblem::Missing => format!("{it} doesn't exist"),
        ColumnProblem::Generated => format!("{it} is generated"),
        ColumnProblem::Type(of) => format!("{its} type is {of}"),
        ColumnProblem::Collation => format!("{its} collation is nondeterministic"),
    })
}
