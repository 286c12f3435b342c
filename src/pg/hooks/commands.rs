//! ProcessUtility: commands as facts for the policy, which says who may run them. DROP and TRUNCATE aren't here: drops.rs,
//! object_access.rs.

use std::ptr;

use pgrx::{pg_guard, pg_sys};

use super::{aftermath, grants, objects, own_tables, prepared, rewrites};
use crate::pg::report::Report;
use crate::pg::session::{self, Session};
use crate::pg::{audit, compat, partitions, relation, trigger};
use crate::policy::backend::Trust;
use crate::policy::command::{self, Command, Reach, Target};
use crate::policy::looks::Look;
use crate::policy::tampering;

/// What a command is to the guard.
struct Described {
    /// Its name, where Postgres's own says too little.
    name: Option<&'static str>,
    reach: Reach,
    /// The relations that it is about, without those that are missing; none = it is about something else.
    relations: Option<Vec<pg_sys::Oid>>,
}

/// A command about something that no backend can have for itself.
fn about_others(reach: Reach) -> Option<Described> {
    Some(Described { name: None, reach, relations: None })
}

/// A command about relations.
fn about(reach: Reach, relations: impl IntoIterator<Item = pg_sys::Oid>) -> Option<Described> {
    let there = relations.into_iter().filter(|oid| *oid != pg_sys::InvalidOid).collect();
    Some(Described { name: None, reach, relations: Some(there) })
}

/// A plain frame: whether a command may be one that [`check`] knows. Most of an application's aren't, and `part` of a
/// command that was judged as a whole are those that Postgres makes of it.
pub(super) unsafe fn concerns(statement: *mut pg_sys::Node, part: bool) -> bool {
    use pg_sys::NodeTag::*;
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT_PREPARED, TRANS_STMT_ROLLBACK_PREPARED};
    // SAFETY: a parsed command, cast to the type that its tag names.
    unsafe {
        match (*statement).type_ {
            T_TransactionStmt => matches!(
                (*statement.cast::<pg_sys::TransactionStmt>()).kind,
                TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED
            ),
            T_VariableSetStmt | T_VariableShowStmt | T_ExecuteStmt | T_PrepareStmt | T_DeallocateStmt | T_FetchStmt
            | T_ClosePortalStmt | T_DeclareCursorStmt | T_ExplainStmt | T_DoStmt | T_CallStmt | T_NotifyStmt
            | T_ListenStmt | T_DropStmt | T_TruncateStmt => false,
            T_AlterTableStmt | T_AlterSeqStmt | T_IndexStmt => !part,
            _ => true,
        }
    }
}

/// `destructive_command` and `guard_tampering` for a command that is about to run.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn check(statement: *mut pg_sys::Node) -> *const Report {
    let Some(session) = session::current().filter(|s| !s.who.all_off) else {
        aftermath::is_judged();
        return ptr::null();
    };
    // SAFETY: the hook's statement.
    unsafe {
        let look = Look::at_command(session.who.identity.trust());
        let report = session.who.counts.look(look, || judge(&session, statement));
        if report.is_null() {
            follow_parts(&session, statement);
        }
        report
    }
}

unsafe fn judge(session: &Session, statement: *mut pg_sys::Node) -> *const Report {
    // SAFETY: the hook's statement.
    let Some(described) = (unsafe { describe(session, statement) }) else { return ptr::null() };
    // SAFETY: as above; gives a constant string.
    let tag = unsafe { session::text(pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(statement))) };
    let name = described.name.unwrap_or(&tag);
    // SAFETY: as above.
    let report = unsafe { check_guard(session, name, &described, statement) };
    if !report.is_null() {
        return report;
    }
    let who = &session.who;
    let command = Command { name, reach: described.reach };
    let settle = |target: Option<&Target>| {
        let refusal = command::check_destructive(&who.identity, command, target, &who.login_role);
        refusal.map_or(ptr::null(), |r| audit::settle(session, r))
    };
    let Some(relations) = described.relations else { return settle(None) };
    let targets = relations.into_iter().map(|oid| objects::target(session, pg_sys::RelationRelationId, oid, 0));
    targets.map(|target| settle(Some(&target))).find(|report| !report.is_null()).unwrap_or(ptr::null())
}

/// Partitions that come get their guards from the whole; those that go are noted, since Postgres tells nobody, and so are
/// tables that get children.
unsafe fn follow_parts(session: &Session, statement: *mut pg_sys::Node) {
    use pg_sys::AlterTableType;
    // SAFETY: a node is cast to the type that its tag, or the kind of command, names; a missing table gives InvalidOid.
    unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_CreateStmt | pg_sys::NodeTag::T_CreateForeignTableStmt => {
                let create = &*statement.cast::<pg_sys::CreateStmt>();
                if create.partbound.is_null() {
                    all_named(create.inhRelations).into_iter().for_each(|oid| aftermath::note_parent(session, oid));
                }
                return;
            }
            pg_sys::NodeTag::T_AlterTableStmt => {}
            _ => return,
        }
        let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
        let oid = |name: *mut pg_sys::RangeVar| {
            let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
            let lookup = || pg_sys::RangeVarGetRelidExtended(name, 0, missing_ok, None, ptr::null_mut());
            if name.is_null() { pg_sys::InvalidOid } else { lookup() }
        };
        for n in 0..compat::list_length(alter.cmds) {
            let command = &*compat::list_nth(alter.cmds, n).cast::<pg_sys::AlterTableCmd>();
            let partition = || oid((*command.def.cast::<pg_sys::PartitionCmd>()).name);
            match command.subtype {
                _ if command.def.is_null() => {}
                AlterTableType::AT_AddInherit => aftermath::note_parent(session, oid(command.def.cast())),
                AlterTableType::AT_AttachPartition => {
                    aftermath::note_table(session, partition());
                    partitions::give_way(session, partition(), oid(alter.relation));
                }
                AlterTableType::AT_DetachPartition | AlterTableType::AT_DetachPartitionFinalize => {
                    aftermath::note_table(session, partition());
                }
                _ => {}
            }
        }
    }
}

/// `guard_tampering`, as far as a command says by itself that it changes a part of the guard. The rest is seen by what it
/// does: object_access.rs, aftermath.rs.
unsafe fn check_guard(
    session: &Session,
    name: &str,
    described: &Described,
    statement: *mut pg_sys::Node,
) -> *const Report {
    use pg_sys::NodeTag::*;
    let identity = &session.who.identity;
    // SAFETY: a parsed command, cast to the type that its tag names.
    let extension = unsafe {
        match (*statement).type_ {
            T_GrantStmt => return grants::check(session, name, statement.cast()),
            T_AlterExtensionStmt => (*statement.cast::<pg_sys::AlterExtensionStmt>()).extname,
            T_AlterExtensionContentsStmt => (*statement.cast::<pg_sys::AlterExtensionContentsStmt>()).extname,
            _ => ptr::null_mut(),
        }
    };
    // SAFETY: null or a C string of the statement.
    if unsafe { session::text(extension) } == "holdfast" {
        aftermath::is_judged();
        return audit::settle(session, tampering::check_part(identity, name, "extension holdfast"));
    }
    if matches!(described.reach, Reach::Lock(_)) {
        return ptr::null();
    }
    let relations = described.relations.iter().flatten().copied();
    let class = pg_sys::RelationRelationId;
    // Whoever doesn't own it gets Postgres's own error.
    let ours = { relations }.find(|oid| objects::is_ours(session, class, *oid) && compat::owns(class, *oid));
    if let Some(oid) = ours {
        aftermath::is_judged();
        // SAFETY: as above.
        let restoring = unsafe { own_tables::may_get_index(session, statement, oid) };
        let object = objects::description(class, oid, 0);
        let refusal = tampering::check_own_structure(identity, name, &object, restoring);
        return refusal.map_or(ptr::null(), |r| audit::settle(session, r));
    }
    // SAFETY: as above.
    unsafe {
        let report = check_rename(session, name, described, statement);
        let relations = described.relations.iter().flatten().copied();
        if report.is_null() { rewrites::check(session, name, relations, statement) } else { report }
    }
}

/// A guard that is renamed still guards, until a trigger comes that sorts after it.
unsafe fn check_rename(
    session: &Session,
    name: &str,
    described: &Described,
    statement: *mut pg_sys::Node,
) -> *const Report {
    // SAFETY: a parsed command, cast to the type that its tag names; names are null or C strings.
    let renamed = unsafe {
        let rename = statement.cast::<pg_sys::RenameStmt>();
        (*statement).type_ == pg_sys::NodeTag::T_RenameStmt
            && (*rename).renameType == pg_sys::ObjectType::OBJECT_TRIGGER
            && session::text((*rename).subname) == trigger::GUARD_NAME
    };
    let class = pg_sys::RelationRelationId;
    let relations = described.relations.iter().flatten().filter(|_| renamed);
    let tables = relations.filter(|oid| compat::owns(class, **oid)).filter_map(|oid| relation::facts(session, *oid));
    let Some(guarded) = { tables }.find(|r| r.table.class.guarded()) else { return ptr::null() };
    let object = format!("trigger {} on table {}", trigger::GUARD_NAME, guarded.table.name.name);
    audit::settle(session, tampering::check_part(&session.who.identity, name, &object))
}

unsafe fn describe(session: &Session, statement: *mut pg_sys::Node) -> Option<Described> {
    use Reach::{Beyond, ClassifiedTargets, Lock, Targets};
    use pg_sys::NodeTag::*;
    // SAFETY: a parsed command, cast to the type that its tag names; fields that may be null are taken for that.
    unsafe {
        match (*statement).type_ {
            T_AlterTableStmt => alters_table(&*statement.cast()),
            T_AlterSeqStmt => about(Targets, [named((*statement.cast::<pg_sys::AlterSeqStmt>()).sequence)]),
            T_CreateTrigStmt => about(Targets, [named((*statement.cast::<pg_sys::CreateTrigStmt>()).relation)]),
            T_RuleStmt => about(Targets, [named((*statement.cast::<pg_sys::RuleStmt>()).relation)]),
            T_CreatePolicyStmt => about(Targets, [named((*statement.cast::<pg_sys::CreatePolicyStmt>()).table)]),
            T_AlterPolicyStmt => about(Targets, [named((*statement.cast::<pg_sys::AlterPolicyStmt>()).table)]),
            T_RenameStmt => relation_or_other((*statement.cast::<pg_sys::RenameStmt>()).relation),
            T_AlterObjectSchemaStmt => relation_or_other((*statement.cast::<pg_sys::AlterObjectSchemaStmt>()).relation),
            T_AlterObjectDependsStmt => {
                relation_or_other((*statement.cast::<pg_sys::AlterObjectDependsStmt>()).relation)
            }
            T_IndexStmt => about(ClassifiedTargets, [named((*statement.cast::<pg_sys::IndexStmt>()).relation)]),
            // A partition or a child of a guarded table holds rows of it. CREATE FOREIGN TABLE begins with the same fields.
            T_CreateStmt | T_CreateForeignTableStmt => {
                about(ClassifiedTargets, all_named((*statement.cast::<pg_sys::CreateStmt>()).inhRelations))
            }
            T_LockStmt => {
                let lock = &*statement.cast::<pg_sys::LockStmt>();
                about(Lock(lock.mode), all_named(lock.relations))
            }
            T_GrantStmt => {
                let grant = &*statement.cast::<pg_sys::GrantStmt>();
                match grants::relations(grant) {
                    Some(names) => about(Targets, all_named(names)),
                    None => about_others(Targets),
                }
            }
            T_CopyStmt => copies_beyond(&*statement.cast()),
            T_ViewStmt => {
                let view = &*statement.cast::<pg_sys::ViewStmt>();
                if view.replace { about(Targets, [named(view.view)]) } else { None }
            }
            T_CreateFunctionStmt => defines_function(&*statement.cast()),
            T_CreateExtensionStmt => {
                let create = &*statement.cast::<pg_sys::CreateExtensionStmt>();
                let there = pg_sys::get_extension_oid(create.extname, true) != pg_sys::InvalidOid;
                if create.if_not_exists && there { None } else { about_others(Beyond) }
            }
            T_TransactionStmt => {
                let end = &*statement.cast::<pg_sys::TransactionStmt>();
                let bound = session.who.identity.trust() != Some(Trust::Proven);
                if bound && prepared::by_another(end.gid) { about_others(Beyond) } else { None }
            }
            T_AlterFunctionStmt
            | T_AlterDomainStmt
            | T_AlterEnumStmt
            | T_AlterTypeStmt
            | T_AlterOperatorStmt
            | T_AlterOpFamilyStmt
            | T_AlterCollationStmt
            | T_AlterTSConfigurationStmt
            | T_AlterTSDictionaryStmt
            | T_AlterFdwStmt
            | T_AlterForeignServerStmt
            | T_AlterOwnerStmt
            | T_AlterTableMoveAllStmt
            | T_AlterDefaultPrivilegesStmt
            | T_SecLabelStmt
            | T_DropOwnedStmt
            | T_ReassignOwnedStmt => about_others(Targets),
            T_AlterSystemStmt
            | T_AlterDatabaseStmt
            | T_AlterTableSpaceOptionsStmt
            | T_CreateTableSpaceStmt
            | T_CreateRoleStmt
            | T_AlterRoleStmt
            | T_GrantRoleStmt
            | T_LoadStmt
            | T_CreatePLangStmt
            | T_CreateAmStmt
            | T_CreateEventTrigStmt
            | T_AlterEventTrigStmt
            | T_AlterExtensionStmt
            | T_AlterExtensionContentsStmt
            | T_CreateSubscriptionStmt
            | T_AlterSubscriptionStmt
            | T_DropSubscriptionStmt
            | T_CreatePublicationStmt
            | T_AlterPublicationStmt => about_others(Beyond),
            _ => None,
        }
    }
}

/// The relation of a name, looked up without a lock; InvalidOid if there is none.
unsafe fn named(name: *const pg_sys::RangeVar) -> pg_sys::Oid {
    if name.is_null() {
        return pg_sys::InvalidOid;
    }
    let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
    // SAFETY: a name of the parsed command.
    unsafe { pg_sys::RangeVarGetRelidExtended(name, 0, missing_ok, None, ptr::null_mut()) }
}

unsafe fn all_named(names: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: a list of names, of which n is one.
    unsafe { (0..compat::list_length(names)).map(|n| named(compat::list_nth(names, n).cast())).collect() }
}

/// RENAME, SET SCHEMA and the like name a relation, or something else.
unsafe fn relation_or_other(name: *const pg_sys::RangeVar) -> Option<Described> {
    if name.is_null() {
        return about_others(Reach::Targets);
    }
    // SAFETY: a name of the parsed command.
    about(Reach::Targets, [unsafe { named(name) }])
}

/// The table that is altered, those that it becomes a child of, and one that becomes a part of it.
unsafe fn alters_table(alter: &pg_sys::AlterTableStmt) -> Option<Described> {
    use pg_sys::AlterTableType;
    // SAFETY: names of the parsed command; the definition of INHERIT is one, that of ATTACH PARTITION has one.
    unsafe {
        let others = (0..compat::list_length(alter.cmds)).filter_map(|n| {
            let command = &*compat::list_nth(alter.cmds, n).cast::<pg_sys::AlterTableCmd>();
            match command.subtype {
                AlterTableType::AT_AddInherit => Some(named(command.def.cast())),
                AlterTableType::AT_AttachPartition => Some(named((*command.def.cast::<pg_sys::PartitionCmd>()).name)),
                _ => None,
            }
        });
        about(Reach::Targets, others.chain([named(alter.relation)]))
    }
}

/// COPY with a program or with a file of the server.
fn copies_beyond(copy: &pg_sys::CopyStmt) -> Option<Described> {
    let name = match (copy.is_program, copy.is_from) {
        (true, true) => "COPY FROM PROGRAM",
        (true, false) => "COPY TO PROGRAM",
        (false, _) if copy.filename.is_null() => return None,
        (false, true) => "COPY FROM FILE",
        (false, false) => "COPY TO FILE",
    };
    Some(Described { name: Some(name), ..about_others(Reach::Beyond)? })
}

/// A function that replaces one which others may call, or that is code of a library.
unsafe fn defines_function(function: &pg_sys::CreateFunctionStmt) -> Option<Described> {
    // SAFETY: a list of DefElem; that of LANGUAGE has a string.
    let native = unsafe {
        (0..compat::list_length(function.options)).any(|n| {
            let option = compat::list_nth(function.options, n).cast::<pg_sys::DefElem>();
            if session::text((*option).defname) != "language" {
                return false;
            }
            let language = session::text(pg_sys::defGetString(option));
            language.eq_ignore_ascii_case("c") || language.eq_ignore_ascii_case("internal")
        })
    };
    if native {
        return about_others(Reach::Beyond);
    }
    // SAFETY: the name is a list of strings; any number of arguments counts, and what is missing gives null.
    let there = function.replace
        && unsafe {
            let any = (-1, ptr::null_mut());
            !pg_sys::FuncnameGetCandidates(function.funcname, any.0, any.1, false, false, false, true).is_null()
        };
    if there { about_others(Reach::Targets) } else { None }
}
