//! The record: whether events arrive, and what they say.

use super::Severity::{Notice, Warning};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check(
        Warning,
        "events_waiting",
        "SELECT format('%s events wait to be stored, the oldest since %s.', waiting, date_trunc('second', oldest_at)),
             'See the server log, and pg_locks for who holds a lock on holdfast.event.'
         FROM holdfast.audit_health()
         WHERE clock_timestamp() - oldest_at > current_setting('holdfast.audit_timeout')::interval",
    ),
    check(
        Notice,
        "audit_query_full",
        "SELECT 'Events keep the text of statements as it was sent, with names, numbers and whatever else stands in it.',
             'Set holdfast.audit_query in postgresql.conf to keep less.'
         WHERE current_setting('holdfast.audit_query') = 'full'",
    ),
    check(
        Notice,
        "statements_in_log",
        "SELECT format('The server log keeps the text of statements too: %s.', string_agg(format('%s = %s', name, setting), ', ' ORDER BY name)),
             'Set log_min_error_statement = fatal, and log_statement = none or ddl, to keep refused statements out of it.'
         FROM pg_settings
         WHERE name = 'log_statement' AND setting IN ('mod', 'all')
            OR name = 'log_min_duration_statement' AND setting <> '-1'
            OR name = 'log_min_error_statement' AND setting NOT IN ('log', 'fatal', 'panic')
         HAVING count(*) > 0",
    ),
];
