//! DROP: the objects that the user names, while they still have their names, and each object that goes with them.

use std::ffi::c_int;
use std::ptr;

use pgrx::{pg_guard, pg_sys};

use super::{aftermath, objects};
use crate::pg::report::Report;
use crate::pg::session::{self, Session};
use crate::pg::{audit, compat};
use crate::policy::backend::Trust;
use crate::policy::command::{self, Command, Reach};
use crate::policy::tampering;

const DROP: Command = Command { name: "DROP", reach: Reach::Targets };

/// Before a DROP: what it names.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn check_named(statement: *const pg_sys::DropStmt) -> *const Report {
    let Some(session) = session::current().filter(|s| !s.who.all_off) else { return ptr::null() };
    // SAFETY: a parsed DROP.
    if let Some(kinds) = relation_kinds(unsafe { (*statement).removeType }) {
        // SAFETY: as above.
        return unsafe { check_relations(&session, (*statement).objects, kinds) };
    }
    // SAFETY: the statement is a parsed DROP; its objects are names in the form that get_object_address takes. What is
    // missing gives an invalid address, and Postgres's own error or notice follows; a relation comes open and is closed.
    let addresses = unsafe {
        let objects = (*statement).objects;
        (0..compat::list_length(objects)).map(move |n| {
            let mut relation = ptr::null_mut();
            let address = pg_sys::get_object_address(
                (*statement).removeType,
                compat::list_nth(objects, n).cast(),
                &mut relation,
                pg_sys::AccessShareLock as pg_sys::LOCKMODE,
                true,
            );
            if !relation.is_null() {
                pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
            address
        })
    };
    for address in addresses {
        if address.objectId == pg_sys::InvalidOid {
            continue;
        }
        let report = check_target(&session, address.classId, address.objectId, address.objectSubId);
        if !report.is_null() {
            return report;
        }
    }
    ptr::null()
}

/// A DROP EXTENSION of ours takes the lock first that the worker has while it is at work. Else they would take those of all
/// tables in different orders, and Postgres would have to end one of them.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn wait_for_worker(statement: *const pg_sys::DropStmt) {
    // SAFETY: a parsed DROP, whose extensions are named by strings; what is missing or somebody else's gets Postgres's own error.
    unsafe {
        if (*statement).removeType != pg_sys::ObjectType::OBJECT_EXTENSION {
            return;
        }
        let names = (*statement).objects;
        let named = |n| session::text((*compat::list_nth(names, n).cast::<pg_sys::String>()).sval);
        let extension = pg_sys::get_extension_oid(c"holdfast".as_ptr(), true);
        let ours = (0..compat::list_length(names)).any(|n| named(n) == "holdfast");
        if ours && extension != pg_sys::InvalidOid && compat::owns(pg_sys::ExtensionRelationId, extension) {
            audit::keep_worker_out();
        }
    }
}

/// Both rules for an object that is named. Parts of the guard are refused here, before Postgres locks what the worker needs
/// to put that on record; whoever doesn't own them gets Postgres's own error.
fn check_target(session: &Session, class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) -> *const Report {
    if objects::is_ours(session, class, object) && compat::owns(class, object) {
        aftermath::is_judged();
        let description = objects::description(class, object, sub);
        let refusal = tampering::check_part(&session.who.identity, &aftermath::command(), &description);
        let report = audit::settle(session, refusal);
        if !report.is_null() {
            return report;
        }
    }
    check(session, class, object, sub)
}

/// What `DROP TABLE` and its kin drop, by relkind; none for what isn't a relation.
fn relation_kinds(object: pg_sys::ObjectType::Type) -> Option<&'static [u8]> {
    use pg_sys::ObjectType::*;
    Some(match object {
        OBJECT_TABLE => &[pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE],
        OBJECT_INDEX => &[pg_sys::RELKIND_INDEX, pg_sys::RELKIND_PARTITIONED_INDEX],
        OBJECT_SEQUENCE => &[pg_sys::RELKIND_SEQUENCE],
        OBJECT_VIEW => &[pg_sys::RELKIND_VIEW],
        OBJECT_MATVIEW => &[pg_sys::RELKIND_MATVIEW],
        OBJECT_FOREIGN_TABLE => &[pg_sys::RELKIND_FOREIGN_TABLE],
        _ => return None,
    })
}

/// For relations: looked up without a lock, as RemoveRelations does first; what is missing or of another kind is left to
/// Postgres's own error.
unsafe fn check_relations(session: &Session, names: *mut pg_sys::List, kinds: &[u8]) -> *const Report {
    // SAFETY: names of a parsed DROP, each a list of strings.
    for n in 0..unsafe { compat::list_length(names) } {
        // SAFETY: as above; a missing relation, also one in a missing schema, gives InvalidOid.
        let (relation, kind) = unsafe {
            let name = pg_sys::makeRangeVarFromNameList(compat::list_nth(names, n).cast());
            let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
            let relation = pg_sys::RangeVarGetRelidExtended(name, 0, missing_ok, None, ptr::null_mut());
            (relation, pg_sys::get_rel_relkind(relation) as u8)
        };
        if relation == pg_sys::InvalidOid || !kinds.contains(&kind) {
            continue;
        }
        let report = check_target(session, pg_sys::RelationRelationId, relation, 0);
        if !report.is_null() {
            return report;
        }
    }
    ptr::null()
}

/// Whether the catalog's objects stand for themselves. What belongs to a table counts as that table, so that a backend may
/// drop its own with all that hangs on it; what is left (dependencies, memberships) goes with something that counts.
fn counts(class: pg_sys::Oid) -> bool {
    /// Of pg_cast, pg_conversion, pg_language, pg_largeobject, for which dependencies stand, and its metadata, pg_operator, pg_transform, pg_ts_config, pg_ts_dict,
    /// pg_ts_parser, pg_ts_template, pg_opclass, pg_opfamily, pg_am, pg_collation, pg_foreign_data_wrapper,
    /// pg_foreign_server, pg_user_mapping, pg_event_trigger, pg_publication, pg_subscription, pg_statistic_ext, pg_rewrite,
    /// pg_policy, pg_attrdef.
    const CATALOGS: [u32; 25] = [
        2605, 2607, 2612, 2613, 2995, 2617, 3576, 3602, 3600, 3601, 3764, 2616, 2753, 2601, 3456, 2328, 1417, 1418,
        3466, 6104, 6100, 3381, 2618, 3256, 2604,
    ];
    [
        pg_sys::RelationRelationId,
        pg_sys::ProcedureRelationId,
        pg_sys::TypeRelationId,
        pg_sys::NamespaceRelationId,
        pg_sys::TriggerRelationId,
        pg_sys::ExtensionRelationId,
        pg_sys::DatabaseRelationId,
        pg_sys::AuthIdRelationId,
        pg_sys::TableSpaceRelationId,
        compat::CONSTRAINTS,
    ]
    .contains(&class)
        || CATALOGS.contains(&class.to_u32())
}

/// Whether it is where Postgres keeps a table's long values, which go with the table.
fn is_toast(class: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups.
    class == pg_sys::RelationRelationId && unsafe { pg_sys::IsToastNamespace(pg_sys::get_rel_namespace(object)) }
}

/// For object_access: an object that is about to be dropped.
pub(super) fn check_reached(session: &Session, class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) -> *const Report {
    let beside = is_toast(class, object)
        // It goes with its foreign key, which belongs to the other table.
        || class == pg_sys::TriggerRelationId && objects::is_internal_trigger(object);
    if counts(class) && !beside { check(session, class, object, sub) } else { ptr::null() }
}

/// `destructive_command` for one object.
fn check(session: &Session, class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) -> *const Report {
    let who = &session.who;
    if who.identity.trust() == Some(Trust::Proven) {
        return ptr::null();
    }
    let target = objects::target(session, class, object, sub);
    let refusal = command::check_destructive(&who.identity, DROP, Some(&target), &who.login_role);
    refusal.map_or(ptr::null(), |r| audit::settle(session, r))
}
