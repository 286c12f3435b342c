//! What differs between Postgres versions, and functions that the bindings lack.
//!
//! The functions declared here are called without pgrx's guard, which costs a `sigsetjmp` a call and would turn a foreign
//! error into a Rust panic. They may only be called from *plain frames*: functions that hold nothing but `Copy` values, so
//! that Postgres's longjmp over them skips no destructor. From anywhere else they are called through [`guarded`].

use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    /// executor/executor.h.
    pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, eflags: c_int);
    /// executor/executor.h.
    #[cfg(not(feature = "pg18"))]
    pub fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        once: bool,
    );
    /// executor/executor.h.
    #[cfg(feature = "pg18")]
    pub fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64);
    /// executor/executor.h.
    pub fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
    /// tcop/utility.h.
    pub fn standard_ProcessUtility(
        pstmt: *mut pg_sys::PlannedStmt,
        query_string: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        query_env: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
    /// access/xact.h. Can't raise an error.
    pub fn GetCurrentStatementStartTimestamp() -> pg_sys::TimestampTz;
    /// utils/inval.h.
    pub fn AcceptInvalidationMessages();
    /// access/xact.h. Can't raise an error.
    pub fn GetCurrentTransactionNestLevel() -> c_int;
    /// access/xact.h. Can't raise an error.
    pub fn IsTransactionState() -> bool;
    /// miscadmin.h. Can't raise an error.
    pub fn InSecurityRestrictedOperation() -> bool;
    /// miscadmin.h. Can't raise an error.
    pub fn InNoForceRLSOperation() -> bool;
    /// miscadmin.h. Can't raise an error in a session.
    pub fn GetSessionUserId() -> pg_sys::Oid;
    /// executor/tuptable.h. Can't raise an error for the slots that a row trigger is given.
    pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attnum: c_int);

    /// utils/elog.h.
    pub fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    /// utils/elog.h.
    pub fn errcode(sqlstate: c_int) -> c_int;
    /// utils/elog.h.
    pub fn errmsg_internal(format: *const c_char, ...) -> c_int;
    /// utils/elog.h.
    pub fn errdetail_internal(format: *const c_char, ...) -> c_int;
    /// utils/elog.h.
    pub fn errhint(format: *const c_char, ...) -> c_int;
    /// utils/elog.h.
    pub fn err_generic_string(field: c_int, value: *const c_char) -> c_int;
    /// utils/elog.h.
    pub fn errhidestmt(hide: bool) -> c_int;
    /// utils/elog.h.
    pub fn errfinish(file: *const c_char, line: c_int, function: *const c_char);

    /// tcop/utility.h. Warns of what it doesn't know, and never raises an error.
    pub fn CreateCommandTag(statement: *mut pg_sys::Node) -> pg_sys::CommandTag::Type;

    /// common/file_perm.h. Set before any child is forked, and never again.
    pub static pg_dir_create_mode: c_int;
    /// common/file_perm.h. As above.
    pub static pg_file_create_mode: c_int;

    /// commands/async.h.
    pub fn Async_Notify(channel: *const c_char, payload: *const c_char);
    /// utils/formatting.h.
    pub fn str_tolower(text: *const c_char, length: usize, collation: pg_sys::Oid) -> *mut c_char;
    /// catalog/partition.h.
    pub fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
    /// catalog/partition.h.
    pub fn index_get_partition(partition: pg_sys::Relation, index: pg_sys::Oid) -> pg_sys::Oid;
    /// catalog/pg_inherits.h.
    pub fn find_all_inheritors(
        parent: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        numparents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
    /// utils/timeout.h.
    pub fn RegisterTimeout(id: c_int, handler: Option<unsafe extern "C-unwind" fn()>) -> c_int;
    /// utils/timeout.h.
    pub fn enable_timeout_every(id: c_int, first: pg_sys::TimestampTz, every_ms: c_int);
    /// utils/timeout.h.
    pub fn enable_timeout_after(id: c_int, delay_ms: c_int);
    /// utils/timeout.h.
    pub fn enable_timeout_at(id: c_int, finish: pg_sys::TimestampTz);
    /// utils/timeout.h.
    pub fn get_timeout_active(id: c_int) -> bool;
    /// utils/timeout.h.
    pub fn get_timeout_finish_time(id: c_int) -> pg_sys::TimestampTz;
    /// utils/timeout.h.
    pub fn disable_timeout(id: c_int, keep_indicator: bool);
    /// storage/proc.h.
    pub fn CheckDeadLockAlert();
    /// tcop/tcopprot.h: the server's handler of SIGTERM.
    pub fn die(signal: c_int);

    /// parser/scanner.h.
    pub fn scanner_init(
        text: *const c_char,
        extra: *mut pg_sys::core_yy_extra_type,
        keywords: *const pg_sys::ScanKeywordList,
        tokens: *const u16,
    ) -> pg_sys::core_yyscan_t;
    /// parser/scanner.h.
    pub fn core_yylex(value: *mut pg_sys::core_YYSTYPE, location: *mut c_int, scanner: pg_sys::core_yyscan_t) -> c_int;
}

unsafe extern "C" {
    /// common/keywords.h.
    pub static ScanKeywords: pg_sys::ScanKeywordList;
    /// parser/scanner.h: an array; this is its first element.
    pub static ScanKeywordTokens: u16;
}

/// `IDENT` of parser/gram.h: bison counts tokens from 258 on, and this is the first.
pub const IDENT: c_int = 258;

/// Whether the current role may change an object as its owner does.
pub fn owns(class: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups for an object that is there.
    unsafe {
        let role = pg_sys::GetUserId();
        #[cfg(feature = "pg15")]
        return match class {
            pg_sys::RelationRelationId => pg_sys::pg_class_ownercheck(object, role),
            pg_sys::NamespaceRelationId => pg_sys::pg_namespace_ownercheck(object, role),
            pg_sys::ProcedureRelationId => pg_sys::pg_proc_ownercheck(object, role),
            pg_sys::ExtensionRelationId => pg_sys::pg_extension_ownercheck(object, role),
            _ => pg_sys::superuser_arg(role),
        };
        #[cfg(not(feature = "pg15"))]
        return match class {
            pg_sys::RelationRelationId
            | pg_sys::NamespaceRelationId
            | pg_sys::ProcedureRelationId
            | pg_sys::ExtensionRelationId => pg_sys::object_ownercheck(class, object, role),
            _ => pg_sys::superuser_arg(role),
        };
    }
}

/// Whether this process holds a lock in this very mode.
pub fn is_locked(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    // SAFETY: looks into the process's own table of locks.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    return unsafe { pg_sys::LockHeldByMe(tag, mode) };
    // SAFETY: as above.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    return unsafe { pg_sys::LockHeldByMe(tag, mode, false) };
}

/// Calls one of the functions above from a frame that isn't plain: an error becomes a panic, which unwinds.
///
/// # Safety
/// As for the function called.
pub unsafe fn guarded<R: Copy>(call: impl FnOnce() -> R) -> R {
    // SAFETY: the boundary is what pgrx puts around its own bindings.
    unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(call) }
}

/// Whether a process is a background worker.
///
/// # Safety
/// `process` is an entry of the server's array of processes.
pub unsafe fn is_background_worker(process: *const pg_sys::PGPROC) -> bool {
    // SAFETY: the caller's.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return (*process).isBackgroundWorker;
        #[cfg(feature = "pg18")]
        return !(*process).isRegularBackend;
    }
}

/// `USER_TIMEOUT` of utils/timeout.h: the first id that `RegisterTimeout` gives to extensions.
pub const USER_TIMEOUT: c_int = if cfg!(any(feature = "pg15", feature = "pg16")) { 12 } else { 13 };

/// `STATEMENT_TIMEOUT` of utils/timeout.h.
pub const STATEMENT_TIMEOUT: c_int = 3;

/// A setting's entry in the server's table, null if there is no such setting.
///
/// # Safety
/// The server has built its table.
#[cfg(feature = "pg15")]
pub unsafe fn find_setting(name: &CStr) -> *mut pg_sys::config_generic {
    // SAFETY: the table has as many entries as the function says, each with a name.
    unsafe {
        let table = pg_sys::get_guc_variables();
        let mut entries = (0..pg_sys::GetNumConfigOptions()).map(|n| *table.offset(n as isize));
        entries.find(|entry| CStr::from_ptr((**entry).name) == name).unwrap_or(std::ptr::null_mut())
    }
}

/// A setting's entry in the server's table, null if there is no such setting.
///
/// # Safety
/// The server has built its table.
#[cfg(not(feature = "pg15"))]
pub unsafe fn find_setting(name: &CStr) -> *mut pg_sys::config_generic {
    // SAFETY: with skip_errors what is missing gives null.
    unsafe { pg_sys::find_option(name.as_ptr(), false, true, 0) }
}

/// The privilege to TRUNCATE; privileges are wider from version 16 on.
#[allow(clippy::unnecessary_cast, reason = "necessary from version 16 on")]
pub const ACL_TRUNCATE: pg_sys::AclMode = pg_sys::ACL_TRUNCATE as pg_sys::AclMode;

/// `ConstraintRelationId` of catalog/pg_constraint_d.h.
pub const CONSTRAINTS: pg_sys::Oid = pg_sys::Oid::from_u32(2606);

/// `Anum_pg_constraint_conrelid` of catalog/pg_constraint_d.h.
pub const CONSTRAINED_TABLE: pg_sys::AttrNumber = if cfg!(feature = "pg18") { 9 } else { 8 };

/// `Anum_pg_constraint_conindid`: the index that a foreign key refers to.
pub const CONSTRAINT_INDEX: pg_sys::AttrNumber = CONSTRAINED_TABLE + 2;

/// `Anum_pg_constraint_confrelid`.
pub const REFERENCED_TABLE: pg_sys::AttrNumber = CONSTRAINED_TABLE + 4;

/// What one range table entry wants to write.
#[derive(Clone, Copy)]
pub struct RequestedWrite {
    /// The table or view.
    pub relation: pg_sys::Oid,
    /// Whether rows of its children are written with its own: not by INSERT, COPY and ONLY.
    pub with_children: bool,
    /// `ACL_INSERT` and so on.
    pub permissions: u32,
    /// Columns that INSERT names, offset by `FirstLowInvalidHeapAttributeNumber`.
    pub inserted: *mut pg_sys::Bitmapset,
    /// Columns that UPDATE sets, likewise.
    pub updated: *mut pg_sys::Bitmapset,
}

const WRITES: u32 = pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE;

/// The entries of an ExecutorCheckPerms hook's list that write.
///
/// # Safety
/// `list` is what Postgres gave the hook: range table entries up to 15, permission infos from 16 on.
pub unsafe fn requested_writes(list: *mut pg_sys::List) -> impl Iterator<Item = RequestedWrite> {
    // SAFETY: list_length and list_nth accept NIL, and the caller vouches for the cells.
    let length = unsafe { list_length(list) };
    (0..length).filter_map(move |n| {
        // SAFETY: n is within the list, whose cells are of the version's type.
        let write = unsafe { requested_write(list_nth(list, n)) };
        write.filter(|w| w.permissions & WRITES != 0)
    })
}

#[cfg(feature = "pg15")]
unsafe fn requested_write(cell: *mut std::ffi::c_void) -> Option<RequestedWrite> {
    // SAFETY: up to version 15 the list holds range table entries.
    let entry = unsafe { &*cell.cast::<pg_sys::RangeTblEntry>() };
    (entry.rtekind == pg_sys::RTEKind::RTE_RELATION).then_some(RequestedWrite {
        relation: entry.relid,
        with_children: entry.inh,
        permissions: entry.requiredPerms,
        inserted: entry.insertedCols,
        updated: entry.updatedCols,
    })
}

#[cfg(not(feature = "pg15"))]
unsafe fn requested_write(cell: *mut std::ffi::c_void) -> Option<RequestedWrite> {
    // SAFETY: from version 16 on the list holds permission infos.
    let info = unsafe { &*cell.cast::<pg_sys::RTEPermissionInfo>() };
    Some(RequestedWrite {
        relation: info.relid,
        with_children: info.inh,
        permissions: info.requiredPerms as u32,
        inserted: info.insertedCols,
        updated: info.updatedCols,
    })
}

/// A semi or anti join as one that keeps rows of its left side, and whether its sides are exchanged for that. Only hash and merge
/// joins can be such that keep rows of their right side.
#[cfg(feature = "pg15")]
pub fn left_join(of: pg_sys::JoinType::Type) -> (pg_sys::JoinType::Type, bool) {
    (of, false)
}

/// A semi or anti join as one that keeps rows of its left side, and whether its sides are exchanged for that. Only hash and merge
/// joins can be such that keep rows of their right side.
#[cfg(not(feature = "pg15"))]
pub fn left_join(of: pg_sys::JoinType::Type) -> (pg_sys::JoinType::Type, bool) {
    match of {
        pg_sys::JoinType::JOIN_RIGHT_ANTI => (pg_sys::JoinType::JOIN_ANTI, true),
        #[cfg(feature = "pg18")]
        pg_sys::JoinType::JOIN_RIGHT_SEMI => (pg_sys::JoinType::JOIN_SEMI, true),
        of => (of, false),
    }
}

/// The length of a list; NIL has none.
///
/// # Safety
/// `list` is NIL or a valid list.
pub unsafe fn list_length(list: *mut pg_sys::List) -> i32 {
    // SAFETY: as_ref() takes NIL for None.
    unsafe { list.as_ref() }.map_or(0, |l| l.length)
}

/// A pointer cell of a list.
///
/// # Safety
/// `list` is a valid list of pointers and `0 <= n < list_length(list)`.
pub unsafe fn list_nth(list: *mut pg_sys::List, n: i32) -> *mut std::ffi::c_void {
    // SAFETY: elements points at `length` cells, and n is one of them.
    unsafe { (*(*list).elements.offset(n as isize)).ptr_value }
}

/// The pointers of a list; NIL has none.
///
/// # Safety
/// `list` is NIL or a valid list of pointers to `T`, and stays as it is.
pub unsafe fn items<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller vouches for the list, and n is within it.
    unsafe { (0..list_length(list)).map(move |n| list_nth(list, n).cast()) }
}

/// The numbers of a list; NIL has none.
///
/// # Safety
/// `list` is NIL or a valid list of integers, and stays as it is.
pub unsafe fn integers(list: *mut pg_sys::List) -> impl Iterator<Item = c_int> {
    // SAFETY: the caller vouches for the list, and n is within it.
    unsafe { (0..list_length(list)).map(move |n| (*(*list).elements.offset(n as isize)).int_value) }
}

/// An oid cell of a list.
///
/// # Safety
/// `list` is a valid list of oids and `0 <= n < list_length(list)`.
pub unsafe fn list_nth_oid(list: *mut pg_sys::List, n: i32) -> pg_sys::Oid {
    // SAFETY: as for list_nth.
    unsafe { (*(*list).elements.offset(n as isize)).oid_value }
}
