//! ALTER TYPE, which rewrites a column in every row, by an expression that the command gives, and no row trigger hears of it.

use std::ptr;

use pgrx::pg_sys;

use crate::pg::relation::{self, Bearings};
use crate::pg::report::Report;
use crate::pg::session::{self, Session};
use crate::pg::{audit, compat};
use crate::policy::surface::TableClass;
use crate::policy::tampering;

/// A column that a command rewrites.
struct Rewritten {
    name: String,
    /// By an expression, which can give rows each other's values.
    by_expression: bool,
}

/// `guard_tampering` for a command that rewrites what tells rows their tenants.
///
/// # Safety
/// The statement is a parsed command about these relations.
pub(super) unsafe fn check(
    session: &Session,
    name: &str,
    relations: impl Iterator<Item = pg_sys::Oid>,
    statement: *mut pg_sys::Node,
) -> *const Report {
    // SAFETY: the caller gives a parsed command.
    let rewritten = unsafe { rewritten(statement) };
    if rewritten.is_empty() {
        return ptr::null();
    }
    // Tables that inherit a column lose it with the one that is named.
    let tables = relations.filter(|oid| compat::owns(pg_sys::RelationRelationId, *oid)).flat_map(|oid| {
        let mut tables = vec![oid];
        tables.extend(relation::inheritors(oid));
        tables
    });
    let found = { tables }.find_map(|oid| {
        let column = tells_tenants(session, oid, &rewritten)?;
        Some((relation::facts(session, oid)?, column))
    });
    found.map_or(ptr::null(), |(relation, column)| {
        let table = &relation.table.name;
        audit::settle(session, tampering::check_column(&session.who.identity, name, table, column))
    })
}

unsafe fn rewritten(statement: *mut pg_sys::Node) -> Vec<Rewritten> {
    // SAFETY: a node is cast to the type that its tag names; ALTER TYPE has a column definition, which holds the expression.
    unsafe {
        if (*statement).type_ != pg_sys::NodeTag::T_AlterTableStmt {
            return Vec::new();
        }
        let commands = (*statement.cast::<pg_sys::AlterTableStmt>()).cmds;
        (0..compat::list_length(commands))
            .map(|n| &*compat::list_nth(commands, n).cast::<pg_sys::AlterTableCmd>())
            .filter(|command| command.subtype == pg_sys::AlterTableType::AT_AlterColumnType)
            .map(|command| Rewritten {
                name: session::text(command.name),
                by_expression: command
                    .def
                    .cast::<pg_sys::ColumnDef>()
                    .as_ref()
                    .is_some_and(|column| !column.raw_default.is_null()),
            })
            .collect()
    }
}

/// The first of the columns on which it hangs whose rows are: the table's own, or those of others.
fn tells_tenants<'a>(session: &Session, table: pg_sys::Oid, rewritten: &'a [Rewritten]) -> Option<&'a str> {
    let relation = relation::facts(session, table)?;
    let TableClass::Tenant(source) = &relation.table.class else { return None };
    let mut linked = Vec::new();
    if let Some(Bearings::Parent(_, columns)) = relation.bearings() {
        linked.extend(columns.into_iter().map(|(own, _)| own));
    }
    if relation.is_parent {
        let children = session.policy.classified.keys().map(|child| pg_sys::Oid::from(*child));
        for bearings in children.filter_map(|child| relation::facts(session, child)?.bearings()) {
            match bearings {
                Bearings::Parent(parent, columns) if parent == table => {
                    linked.extend(columns.into_iter().map(|(_, theirs)| theirs));
                }
                _ => {}
            }
        }
    }
    // SAFETY: a syscache look-up; a missing column gives null.
    let linked: Vec<String> = { linked }
        .into_iter()
        .map(|column| unsafe { session::text(pg_sys::get_attname(table, column, true)) })
        .collect();
    // Another type alone leaves rows and their parents together.
    let tells = |r: &&Rewritten| source.columns().contains(&r.name) || r.by_expression && linked.contains(&r.name);
    rewritten.iter().find(tells).map(|r| r.name.as_str())
}
