//! What has become of the policy: the trigger on each policy table that writes `policy_change`, in the transaction of the
//! change itself.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::datum::DatumWithOid;
use pgrx::spi::{OwnedPreparedStatement, SpiError, quote_identifier};
use pgrx::{FromDatum, PgOid, Spi, direct_function_call, pg_guard, pg_sys};

use super::{audit, glass, report, session};

const INSERT: &str = "
INSERT INTO holdfast.policy_change
    (at, changed_by, set_role, application_name, client_addr, pid, query, subject, action, old, new)
SELECT pg_catalog.clock_timestamp(), $1, $2, $3, $4::pg_catalog.inet, $5, $6, $7, $8, old, new";

/// Puts a change on record that is no row of a policy table.
pub fn note(subject: &str, action: &str, new: &serde_json::Value) {
    write(subject, action, " FROM (VALUES (NULL::jsonb, $9::jsonb)) AS row (old, new)", vec![new.to_string().into()]);
}

/// The trigger function `holdfast.log_policy_change`.
///
/// # Safety
/// Called by Postgres as a trigger function.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn holdfast_log_policy_change(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: fcinfo is valid for the call; a context that is a trigger's is checked before it is read as one.
    unsafe {
        let data = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        if data.is_null() || (*data).type_ != pg_sys::NodeTag::T_TriggerData {
            report::not_a_trigger("log_policy_change");
        }
        log(&*data);
        // The result of an AFTER trigger is ignored, and so is that of one for a statement.
        pg_sys::Datum::from(0)
    }
}

/// Declares the calling convention of [`holdfast_log_policy_change`].
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_finfo_holdfast_log_policy_change() -> *const pg_sys::Pg_finfo_record {
    static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

fn log(trigger: &pg_sys::TriggerData) {
    use pg_sys::{TRIGGER_EVENT_DELETE, TRIGGER_EVENT_INSERT, TRIGGER_EVENT_TRUNCATE};
    // SAFETY: the relation that fired the trigger is open.
    let (oid, name) = unsafe {
        let name = &(*(*trigger.tg_relation).rd_rel).relname;
        ((*trigger.tg_relation).rd_id, session::text(name.data.as_ptr()))
    };
    // Our functions keep the history of ownership themselves, five hundred times a second if need be.
    if session::is_operating() && session::watched().is_some_and(|catalog| catalog.ownership_table() == oid) {
        return;
    }
    let event = trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
    if matches!(event, TRIGGER_EVENT_INSERT | TRIGGER_EVENT_TRUNCATE) && comes_out_of_a_dump() {
        return;
    }
    if event == TRIGGER_EVENT_TRUNCATE {
        return log_truncation(trigger, &name);
    }
    // Tables are named with their schemas, whatever the session's search_path is.
    // SAFETY: the tuples are those of the event, of the trigger's relation.
    let [old, new] = session::operate(|| unsafe {
        match event {
            TRIGGER_EVENT_INSERT => [None, as_json(trigger, trigger.tg_trigtuple)],
            TRIGGER_EVENT_DELETE => [as_json(trigger, trigger.tg_trigtuple), None],
            _ => [as_json(trigger, trigger.tg_trigtuple), as_json(trigger, trigger.tg_newtuple)],
        }
    });
    if old != new {
        let action = match event {
            TRIGGER_EVENT_INSERT => "insert",
            TRIGGER_EVENT_DELETE => "delete",
            _ => "update",
        };
        write_row(&name, action, vec![old.into(), new.into()]);
    }
}

/// Each row that goes; or, where they are gone, that they are.
fn log_truncation(trigger: &pg_sys::TriggerData, table: &str) {
    let rows = match trigger.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK {
        pg_sys::TRIGGER_EVENT_BEFORE => {
            format!(
                " FROM (SELECT pg_catalog.to_jsonb(t), NULL::jsonb FROM holdfast.{} t) AS row (old, new)",
                quote_identifier(table)
            )
        }
        _ => " FROM (VALUES (NULL::jsonb, NULL::jsonb)) AS row (old, new)".to_owned(),
    };
    write(table, "truncate", &rows, Vec::new());
}

/// Whether rows are being restored: their own entries come with them. pg_dump's and pg_restore's sessions don't have function
/// bodies checked; who does the same by hand is still told of behind broken glass, and can't write these tables without.
fn comes_out_of_a_dump() -> bool {
    // SAFETY: a read of the session's setting.
    let unchecked = unsafe { !pg_sys::check_function_bodies };
    unchecked && !session::is_operating() && !glass::may_be_broken()
}

/// A row as JSON text.
///
/// # Safety
/// The tuple is one of the trigger's relation.
unsafe fn as_json(trigger: &pg_sys::TriggerData, tuple: pg_sys::HeapTuple) -> Option<String> {
    // SAFETY: the caller's; row_to_json asks its argument for its type, and nothing of its caller.
    unsafe {
        let row = pg_sys::heap_copy_tuple_as_datum(tuple, (*trigger.tg_relation).rd_att);
        let json = direct_function_call::<pg_sys::Datum>(pg_sys::row_to_json, &[Some(row)])?;
        String::from_datum(json, false)
    }
}

fn write(subject: &str, action: &str, rows: &str, values: Vec<DatumWithOid>) {
    let arguments = arguments(subject, action, values);
    told(session::operate(|| Spi::run_with_args(&format!("{INSERT}{rows}"), &arguments)));
}

/// The same for a row before and after, by a statement that is planned once: of such there may be a million.
fn write_row(subject: &str, action: &str, values: Vec<DatumWithOid>) {
    thread_local! {
        static PREPARED: RefCell<Option<Rc<OwnedPreparedStatement>>> = const { RefCell::new(None) };
    }
    let arguments = arguments(subject, action, values);
    let types: Vec<PgOid> = arguments.iter().map(|argument| PgOid::from(argument.oid())).collect();
    told(session::operate(|| {
        Spi::connect_mut(|client| {
            let known = PREPARED.with(|p| p.borrow().clone());
            let statement = match known {
                Some(statement) => statement,
                None => {
                    let sql = format!("{INSERT} FROM (VALUES ($9::jsonb, $10::jsonb)) AS row (old, new)");
                    let statement = Rc::new(client.prepare_mut(&sql, &types)?.keep());
                    PREPARED.with(|p| p.replace(Some(Rc::clone(&statement))));
                    statement
                }
            };
            client.update(&*statement, None, &arguments).map(drop)
        })
    }));
}

fn told(written: Result<(), SpiError>) {
    if let Err(failure) = written {
        pgrx::error!("holdfast: the policy log could not be written: {failure}");
    }
}

fn arguments<'a>(subject: &'a str, action: &'a str, mut values: Vec<DatumWithOid<'a>>) -> Vec<DatumWithOid<'a>> {
    let by = audit::origin();
    // SAFETY: has no precondition.
    let set_role = session::role_name(unsafe { pg_sys::GetCurrentRoleId() });
    let mut arguments: Vec<DatumWithOid> = vec![
        by.role.into(),
        set_role.into(),
        by.application_name.into(),
        by.client.into(),
        by.pid.into(),
        by.query.into(),
        subject.into(),
        action.into(),
    ];
    arguments.append(&mut values);
    arguments
}
