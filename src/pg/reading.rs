//! Queries that change nothing: all at the snapshot of the statement that asks, with the rights of whoever asks.

use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::{FromDatum, PgTryBuilder, Spi, pg_sys};

/// A row of a result.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    /// A column by its position from 0, of the type that the query gives it.
    pub fn get<T: FromDatum>(&self, column: usize) -> Option<T> {
        let (number, mut null) = (i32::try_from(column + 1).ok()?, false);
        // SAFETY: a row that SPI holds while it is looked at; the callers name the type that their query has.
        unsafe {
            let value = pg_sys::SPI_getbinval(self.tuple, self.descriptor, number, &mut null);
            T::from_datum(value, null)
        }
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        // SAFETY: the descriptor of a row that SPI holds.
        usize::try_from(unsafe { (*self.descriptor).natts }).unwrap_or(0)
    }

    /// A column of any type, as its type writes it.
    pub fn spelled(&self, column: usize) -> Option<String> {
        let number = i32::try_from(column + 1).ok()?;
        // SAFETY: a row that SPI holds while it is looked at; the result is a C string of the current memory context, or
        // null.
        unsafe {
            let text = pg_sys::SPI_getvalue(self.tuple, self.descriptor, number);
            (!text.is_null()).then(|| super::session::text(text))
        }
    }

    /// A column of type text.
    pub fn text(&self, column: usize) -> String {
        self.get(column).unwrap_or_default()
    }

    /// A column of type text[] without nulls.
    pub fn texts(&self, column: usize) -> Vec<String> {
        self.get::<Vec<Option<String>>>(column).into_iter().flatten().flatten().collect()
    }

    /// A column of type oid.
    pub fn oid(&self, column: usize) -> u32 {
        self.get(column).map_or(0, pg_sys::Oid::to_u32)
    }

    /// A column of type tid: block and offset.
    pub fn place(&self, column: usize) -> (u32, u16) {
        self.get::<pg_sys::ItemPointerData>(column).map_or((0, 0), pgrx::itemptr::item_pointer_get_both)
    }
}

/// Runs one query read only, at the active snapshot: what it may not do because it isn't a plain SELECT is an error of
/// Postgres.
pub fn rows<T>(sql: &str, arguments: &[DatumWithOid], each: impl Fn(&Row) -> T) -> Vec<T> {
    let text = CString::new(sql).unwrap_or_default();
    let mut types: Vec<pg_sys::Oid> = arguments.iter().map(DatumWithOid::oid).collect();
    let null = pg_sys::Datum::from(0);
    let mut values: Vec<pg_sys::Datum> =
        arguments.iter().map(|a| a.datum().map_or(null, |datum| datum.sans_lifetime())).collect();
    let nulls: Vec<std::ffi::c_char> =
        arguments.iter().map(|a| if a.datum().is_some() { b' ' } else { b'n' } as std::ffi::c_char).collect();
    let mut run = || {
        // SAFETY: inside SPI; the arrays have an entry for each argument and outlive the call. The result stays until SPI is
        // left, and is copied before.
        unsafe {
            let count = i32::try_from(types.len()).unwrap_or(0);
            pg_sys::SPI_execute_with_args(
                text.as_ptr(),
                count,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_ptr(),
                true,
                0,
            );
            let Some(table) = pg_sys::SPI_tuptable.as_ref() else { return Vec::new() };
            let tuples = std::slice::from_raw_parts(table.vals, usize::try_from(table.numvals).unwrap_or(0));
            tuples.iter().map(|tuple| each(&Row { tuple: *tuple, descriptor: table.tupdesc })).collect()
        }
    };
    Spi::connect(|_| run())
}

/// Runs `work` so that nothing it calls can write: not the functions of a predicate either, whatever they claim to be.
/// Row-level security raises an error where it would hide rows.
pub fn read_only<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: a flag of the transaction. The server sets it back by itself when an error ends the (sub)transaction, so it is
    // set back here on success only. By its setting it couldn't be done: that may not be set for a function alone.
    let before = unsafe { (&raw mut pg_sys::XactReadOnly).replace(true) };
    let result = with_setting(c"row_security", c"off", work);
    // SAFETY: as above.
    unsafe { pg_sys::XactReadOnly = before };
    result
}

/// Runs `work` with a search_path on which nothing of a user's hides what is Postgres's.
pub fn with_pinned_names<T>(work: impl FnOnce() -> T) -> T {
    with_setting(c"search_path", c"pg_catalog, pg_temp", work)
}

fn with_setting<T>(name: &CStr, value: &CStr, work: impl FnOnce() -> T) -> T {
    // SAFETY: a GUC nest level of our own: the old value comes back at AtEOXact_GUC, or by itself when an error ends the
    // (sub)transaction.
    let nest = unsafe {
        let nest = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        nest
    };
    let result = work();
    // SAFETY: closes the level opened above.
    unsafe { pg_sys::AtEOXact_GUC(true, nest) };
    result
}

/// Whether a text is one expression, as it could stand behind WHERE, and nothing more.
///
/// # Errors
/// What is wrong with it, as a clause.
pub fn check_condition(condition: &str) -> Result<(), String> {
    let sql = CString::new(format!("SELECT WHERE {condition}\n")).map_err(|_| "it contains a null byte".to_owned())?;
    let parse = || {
        // SAFETY: parses without looking at any catalog; the trees live in the current memory context.
        let list = unsafe { pg_sys::raw_parser(sql.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT) };
        // SAFETY: a list of RawStmt.
        unsafe { only_where(list) }
    };
    let beyond = "it goes beyond one expression".to_owned();
    PgTryBuilder::new(|| if parse() { Ok(()) } else { Err(beyond.clone()) })
        // The caller raises an error of its own, which ends the transaction just as well.
        .catch_others(|error| match error {
            pg_sys::panic::CaughtError::PostgresError(report) | pg_sys::panic::CaughtError::ErrorReport(report) => {
                Err(report.message().to_owned())
            }
            other => other.rethrow(),
        })
        .execute()
}

/// Whether a parsed text is one SELECT that has a WHERE clause and nothing else.
///
/// # Safety
/// `list` is what the parser gave.
unsafe fn only_where(list: *mut pg_sys::List) -> bool {
    // SAFETY: the parser's list holds RawStmt nodes, each with a statement whose tag says what it is.
    unsafe {
        if super::compat::list_length(list) != 1 {
            return false;
        }
        let raw = super::compat::list_nth(list, 0).cast::<pg_sys::RawStmt>();
        // A length means that a semicolon follows.
        if (*raw).stmt_len != 0 {
            return false;
        }
        let statement = (*raw).stmt;
        if (*statement).type_ != pg_sys::NodeTag::T_SelectStmt {
            return false;
        }
        let select = &*statement.cast::<pg_sys::SelectStmt>();
        let lists = [
            select.distinctClause,
            select.targetList,
            select.fromClause,
            select.groupClause,
            select.windowClause,
            select.valuesLists,
            select.sortClause,
            select.lockingClause,
        ];
        let nodes = [select.havingClause, select.limitOffset, select.limitCount];
        !select.whereClause.is_null()
            && lists.iter().all(|list| list.is_null())
            && nodes.iter().all(|node| node.is_null())
            && select.intoClause.is_null()
            && select.withClause.is_null()
            && select.op == pg_sys::SetOperation::SETOP_NONE
    }
}
