//! What a DELETE would take with it, told before it happens.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use pgrx::iter::TableIterator;
use pgrx::pg_sys::Oid;
use pgrx::spi::{quote_identifier, quote_literal};
use pgrx::{PgSqlErrorCode, default, name, pg_extern};

use super::{facts, required};
use crate::pg::reading::{self, Row};
use crate::pg::relation::{self, Locate};
use crate::pg::report::error;
use crate::pg::session::Session;
use crate::pg::types::Regclass;
use crate::policy::cascade::{self, Consequence, Event, Found, Key, Reaction, RowId, Source};
use crate::policy::surface::{TableClass, TenantSource};
use crate::policy::tenant::TenantType;

/// How many rows of which tables and tenants `DELETE FROM relation WHERE predicate` would take, foreign keys followed to
/// any depth. It reads with the caller's rights: the predicate is the caller's own SQL.
#[pg_extern(stable, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "a row is written as its columns")]
fn cascade_preview(
    relation: Option<Regclass>,
    predicate: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(depth, i32),
        name!(path, String),
        name!(relation, Regclass),
        name!(action, String),
        name!(tenant, Option<String>),
        name!(rows, i64),
        name!(example, String),
    ),
> {
    let relation = required(relation, "relation");
    let predicate = predicate.unwrap_or("true");
    if let Err(problem) = reading::check_condition(predicate) {
        error(
            PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
            "parameter \"predicate\" is not one condition",
            format!("In \"{predicate}\": {problem}."),
            "Give what would stand behind WHERE, such as 'id = 42'.",
        );
    }
    let rows = reading::read_only(|| {
        check_relation(relation);
        let mut database = Database::new(facts());
        let first = database.deleted(relation, predicate);
        let consequences = cascade::follow(&mut database, first);
        consequences.into_iter().map(|consequence| database.told(consequence)).collect::<Vec<_>>()
    });
    TableIterator::new(rows)
}

/// Refuses what isn't a table: there rows have no place, or go other ways.
fn check_relation(relation: Regclass) {
    let sql = "SELECT relkind IN ('r', 'p'), relname::text FROM pg_class WHERE oid = $1";
    let read = |row: &Row| (row.get::<bool>(0) == Some(true), row.text(1));
    match reading::with_pinned_names(|| reading::rows(sql, &[relation.0.into()], read)).pop() {
        Some((true, _)) => {}
        Some((false, name)) => error(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("\"{name}\" is not a table"),
            "",
            "Ask for the table whose rows would be deleted.",
        ),
        None => error(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", relation.0.to_u32()),
            "",
            "",
        ),
    }
}

/// A foreign key as a query joins it: the referencing table as `c`, the referenced one as `p`.
struct Join {
    /// Qualified and quoted, with ONLY unless it is partitioned.
    child: String,
    condition: String,
    /// The tenant of a row `c`.
    tenant: String,
}

/// The database as the pure layer asks it. Everything is read under the session's rights and at one snapshot.
struct Database {
    session: Session,
    keys: HashMap<(u32, Event), Rc<[Key]>>,
    joins: HashMap<(u32, u32), Join>,
    tenants: HashMap<String, Rc<str>>,
    names: HashMap<u32, String>,
}

impl Database {
    fn new(session: Session) -> Database {
        let (keys, joins) = Default::default();
        Database { session, keys, joins, tenants: HashMap::new(), names: HashMap::new() }
    }

    /// The rows that the DELETE itself takes, each with its table: where the row is in a partition, the whole.
    fn deleted(&mut self, relation: Regclass, predicate: &str) -> Vec<(u32, Found)> {
        let name = reading::with_pinned_names(|| qualified(relation.0.to_u32()));
        // Under the caller's own search_path, and with the table's own name, as DELETE would read the condition.
        let sql = format!("SELECT tableoid, ctid FROM {name} WHERE ({predicate}\n)");
        let mut places: BTreeMap<u32, Vec<RowId>> = BTreeMap::new();
        for row in reading::rows(&sql, &[], |row| place(row, 0)) {
            places.entry(row.table).or_default().push(row);
        }
        let mut found = Vec::new();
        for (table, rows) in places {
            let (name, tenant, whole) =
                reading::with_pinned_names(|| (qualified(table), self.tenant_of(table, "c", 0), whole(table)));
            let sql = format!(
                "SELECT d.n, c.tableoid, c.ctid, {tenant}
                 FROM unnest($1::text::tid[]) WITH ORDINALITY AS d (place, n)
                 JOIN ONLY {name} AS c ON c.ctid = d.place ORDER BY d.n"
            );
            found.extend(self.found(&sql, &rows).into_iter().map(|(_, found)| (whole, found)));
        }
        found
    }

    /// The rows of a query that gives positions in `rows`, tables, places and tenants.
    fn found(&mut self, sql: &str, rows: &[RowId]) -> Vec<(usize, Found)> {
        let read = |row: &Row| (row.get::<i64>(0).unwrap_or_default(), place(row, 1), row.get::<String>(3));
        let places = places(rows);
        let found = reading::with_pinned_names(|| reading::rows(sql, &[places.into()], read));
        let tenants = &mut self.tenants;
        let mut shared = |tenant: String| tenants.entry(tenant).or_insert_with_key(|t| t.as_str().into()).clone();
        let told = |(position, row, tenant): (i64, RowId, Option<String>)| {
            // WITH ORDINALITY counts from 1.
            (usize::try_from(position - 1).unwrap_or_default(), Found { row, tenant: tenant.map(&mut shared) })
        };
        found.into_iter().map(told).collect()
    }

    /// The expression of the tenant of a row of a table, in its canonical form; null where rows are nobody's.
    fn tenant_of(&self, table: u32, row: &str, steps: u32) -> String {
        let nobody = "NULL::text".to_owned();
        let Some(relation) = relation::facts(&self.session, Oid::from(table)) else { return nobody };
        match (&relation.locate, &relation.table.class) {
            (Locate::Constant(tenant), _) => format!("{}::text", quote_literal(tenant.as_str())),
            (Locate::Columns(columns), TableClass::Tenant(TenantSource::Columns(names))) => {
                let types = columns.iter().map(|column| column.of);
                let keys: Vec<String> = names.names().iter().zip(types).map(|(name, of)| key(row, name, of)).collect();
                match keys.as_slice() {
                    [only] => only.clone(),
                    _ => {
                        let keys = keys.join(", ");
                        format!("CASE num_nulls({keys}) WHEN 0 THEN ROW({keys})::text END")
                    }
                }
            }
            (Locate::Parent(link), _) => {
                // Not the join's own names: p and c.
                let above = format!("p{steps}");
                let tenant = self.tenant_of(link.parent.to_u32(), &above, steps + 1);
                parent(link.constraint, &above, row).map_or(nobody, |(name, condition)| {
                    format!("(SELECT {tenant} FROM {name} AS {above} WHERE {condition})")
                })
            }
            _ => nobody,
        }
    }

    fn name(&mut self, table: u32) -> String {
        let read = || {
            let sql = "SELECT $1::pg_catalog.regclass::pg_catalog.text";
            reading::rows(sql, &[Oid::from(table).into()], |row| row.text(0)).pop().unwrap_or_default()
        };
        self.names.entry(table).or_insert_with(read).clone()
    }

    /// As a row of the result.
    fn told(&mut self, told: Consequence) -> (i32, String, Regclass, String, Option<String>, i64, String) {
        let depth = i32::try_from(told.path.len()).unwrap_or(i32::MAX) - 1;
        let relation = told.path.last().copied().unwrap_or_default();
        let names: Vec<String> = told.path.iter().map(|table| self.name(*table)).collect();
        let tenant = told.tenant.as_deref().map(str::to_owned);
        let rows = i64::try_from(told.rows).unwrap_or(i64::MAX);
        let example = reading::with_pinned_names(|| key_of(told.example));
        let relation = Regclass(Oid::from(relation));
        (depth, cascade::told(&names), relation, told.effect.to_string(), tenant, rows, example)
    }
}

impl Source for Database {
    fn keys(&mut self, table: u32, event: Event) -> Rc<[Key]> {
        if let Some(keys) = self.keys.get(&(table, event)) {
            return keys.clone();
        }
        let mut keys = Vec::new();
        let of_event = match event {
            Event::Delete => "del",
            Event::Update => "upd",
        };
        let read = reading::with_pinned_names(|| {
            reading::rows(&keys_sql(), &[Oid::from(table).into(), of_event.into()], |row| {
                let reaction = match (row.text(5).as_str(), row.get::<bool>(6)) {
                    ("cascade", _) => Reaction::Cascade,
                    ("setnull", _) => Reaction::SetNull,
                    ("setdefault", _) => Reaction::SetDefault,
                    ("noaction", Some(true)) => Reaction::RefuseLater,
                    _ => Reaction::Refuse,
                };
                let (id, referencing, referenced) = (row.oid(0), row.texts(3), row.texts(4));
                let key = Key { id, child: row.oid(2), referencing, referenced, reaction, sets: row.texts(7) };
                (key, row.oid(1), row.text(8), row.text(9))
            })
        });
        for (key, referencing, child, condition) in read {
            let tenant = reading::with_pinned_names(|| self.tenant_of(referencing, "c", 0));
            self.joins.insert((table, key.id), Join { child, condition, tenant });
            keys.push(key);
        }
        let keys: Rc<[Key]> = keys.into();
        self.keys.insert((table, event), keys.clone());
        keys
    }

    fn referencing(&mut self, table: u32, key: &Key, rows: &[RowId]) -> Vec<(usize, Found)> {
        let Some(Join { child, condition, tenant }) = self.joins.get(&(table, key.id)) else { return Vec::new() };
        let parent = reading::with_pinned_names(|| qualified(table));
        let sql = format!(
            "SELECT d.n, c.tableoid, c.ctid, {tenant}
             FROM unnest($1::text::tid[]) WITH ORDINALITY AS d (place, n)
             JOIN ONLY {parent} AS p ON p.ctid = d.place JOIN {child} AS c ON {condition}
             ORDER BY c.tableoid, c.ctid"
        );
        self.found(&sql, rows)
    }
}

/// The expression of a tenant column of a row, in its canonical form.
fn key(row: &str, column: &str, of: TenantType) -> String {
    let column = format!("{row}.{}", quote_identifier(column));
    match of {
        TenantType::Citext => format!("lower({column}::text)"),
        TenantType::Bytea => format!("'\\x' || encode({column}, 'hex')"),
        TenantType::Integer | TenantType::Uuid | TenantType::Text => format!("{column}::text"),
    }
}

/// The foreign keys whose triggers on a table fire after DELETE or UPDATE, as their names order them. A trigger that is
/// switched off does nothing here either. A SET NULL on a column that can't be null stops the DELETE.
fn keys_sql() -> String {
    format!(
        "SELECT con.oid, con.conrelid, coalesce(pg_partition_root(con.conrelid)::oid, con.conrelid),
             keys.referencing, keys.referenced,
             CASE WHEN f.action = 'setnull' AND EXISTS (SELECT FROM pg_attribute a
                 WHERE a.attrelid = con.conrelid AND a.attname::text = ANY (sets.columns) AND a.attnotnull)
                 THEN 'restrict' ELSE f.action END,
             t.tginitdeferred, sets.columns,
             format('%s%I.%I', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, cn.nspname, c.relname), keys.condition
         FROM pg_trigger t
         JOIN pg_constraint con ON con.oid = t.tgconstraint AND con.contype = 'f'
         JOIN pg_class c ON c.oid = con.conrelid
         JOIN pg_namespace cn ON cn.oid = c.relnamespace
         JOIN pg_proc p ON p.oid = t.tgfoid AND p.pronamespace = 'pg_catalog'::regnamespace
         CROSS JOIN LATERAL (SELECT split_part(p.proname::text, '_', 3) AS action,
             split_part(p.proname::text, '_', 4) AS event) f
         CROSS JOIN LATERAL ({}) keys
         CROSS JOIN LATERAL (
             SELECT coalesce(array_agg(a.attname::text), keys.referencing) AS columns FROM pg_attribute a
             WHERE f.event = 'del' AND a.attrelid = con.conrelid AND a.attnum = ANY (con.confdelsetcols)) sets
         WHERE t.tgrelid = $1 AND p.proname LIKE 'RI\\_FKey\\_%' AND f.event = $2 AND f.action <> 'check'
           AND t.tgenabled::text = ANY (CASE current_setting('session_replication_role')
               WHEN 'replica' THEN '{{R,A}}' ELSE '{{O,A}}' END::text[])
         ORDER BY t.tgname",
        columns_sql("'p'", "'c'")
    )
}

/// The columns of the constraint `con`, and the condition on which a row of the referencing table refers to one of the
/// other: with the constraint's own operators and, where collations differ, the one that the foreign key goes by.
fn columns_sql(parent: &str, child: &str) -> String {
    format!(
        "SELECT array_agg(ca.attname::text ORDER BY k.n) AS referencing, array_agg(pa.attname::text ORDER BY k.n) AS referenced,
             string_agg(format('%s.%I%s OPERATOR(%I.%s) %s.%I%s%s',
                 {parent}, pa.attname, CASE WHEN lt.typtype <> 'p' AND lt.oid <> pa.atttypid THEN '::' || format_type(lt.oid, NULL) END,
                 opn.nspname, o.oprname,
                 {child}, ca.attname, CASE WHEN rt.typtype <> 'p' AND rt.oid <> ca.atttypid THEN '::' || format_type(rt.oid, NULL) END,
                 CASE WHEN pa.attcollation <> ca.attcollation THEN (
                     SELECT format(' COLLATE %I.%I', cn.nspname, co.collname)
                     FROM pg_collation pc JOIN pg_collation co
                         ON co.oid = CASE WHEN pc.collisdeterministic THEN ca.attcollation ELSE pc.oid END
                     JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE pc.oid = pa.attcollation) END),
                 ' AND ' ORDER BY k.n) AS condition
         FROM unnest(con.conkey, con.confkey, con.conpfeqop) WITH ORDINALITY AS k (child, parent, operator, n)
         JOIN pg_attribute ca ON ca.attrelid = con.conrelid AND ca.attnum = k.child
         JOIN pg_attribute pa ON pa.attrelid = con.confrelid AND pa.attnum = k.parent
         JOIN pg_operator o ON o.oid = k.operator
         JOIN pg_namespace opn ON opn.oid = o.oprnamespace
         JOIN pg_type lt ON lt.oid = o.oprleft
         JOIN pg_type rt ON rt.oid = o.oprright"
    )
}

/// The table that a foreign key leads to, with ONLY unless it is partitioned, and the condition that joins it as `above` to a
/// row.
fn parent(constraint: Oid, above: &str, row: &str) -> Option<(String, String)> {
    let sql = format!(
        "SELECT format('%s%I.%I', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, n.nspname, c.relname), keys.condition
         FROM pg_constraint con
         JOIN pg_class c ON c.oid = con.confrelid
         JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL ({}) keys
         WHERE con.oid = $1",
        columns_sql("$2", "$3")
    );
    reading::rows(&sql, &[constraint.into(), above.into(), row.into()], |row| (row.text(0), row.text(1))).pop()
}

/// The partitioned table that a partition belongs to; any other table itself.
fn whole(table: u32) -> u32 {
    let sql = "SELECT coalesce(pg_partition_root($1)::oid, $1)";
    reading::rows(sql, &[Oid::from(table).into()], |row| row.oid(0)).pop().unwrap_or(table)
}

/// A table's name, qualified and quoted.
fn qualified(table: u32) -> String {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    reading::rows(sql, &[Oid::from(table).into()], |row| row.text(0)).pop().unwrap_or_default()
}

/// The key of a row as a user would look for it: `tenant_id = 7, id = 42`. Its place where the table has no primary key.
fn key_of(row: RowId) -> String {
    let columns = "SELECT string_agg(format('%L || c.%I::text', format('%I = ', a.attname), a.attname), ' || '', '' || ' ORDER BY k.n)
        FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, n)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = $1 AND i.indisprimary AND k.n <= i.indnkeyatts";
    let key = reading::rows(columns, &[Oid::from(row.table).into()], |row| row.get::<String>(0)).pop().flatten();
    let key = key.unwrap_or_else(|| "'ctid = ' || c.ctid::text".to_owned());
    let sql = format!(
        "SELECT {key} FROM unnest($1::text::tid[]) AS d (place) JOIN ONLY {} AS c ON c.ctid = d.place",
        qualified(row.table)
    );
    reading::rows(&sql, &[places(&[row]).into()], |row| row.text(0)).pop().unwrap_or_default()
}

/// A row's table and place, from a column of type oid and the one after it, of type tid.
fn place(row: &Row, column: usize) -> RowId {
    let (block, offset) = row.place(column + 1);
    RowId { table: row.oid(column), block, offset }
}

/// Places as an array of type tid[].
fn places(rows: &[RowId]) -> String {
    let places: Vec<String> = rows.iter().map(|row| format!("\"({},{})\"", row.block, row.offset)).collect();
    format!("{{{}}}", places.join(","))
}
