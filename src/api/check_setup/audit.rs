//! The record: whether events arrive, and what they say.

use super::Severity::{Error, Notice, Warning};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check(
        Warning,
        "events_waiting",
        "SELECT format('%s to be stored, the oldest since %s.', CASE waiting WHEN 1 THEN '1 event waits' ELSE waiting || ' events wait' END, date_trunc('second', oldest_at)),
             'See the server log, and pg_locks for who holds a lock on holdfast.event.'
         FROM holdfast.audit_health()
         WHERE clock_timestamp() - oldest_at > current_setting('holdfast.audit_timeout')::interval",
    ),
    check(
        Error,
        "worker_failing",
        "SELECT format('The last %s workers that should have stored events have failed.', failures), 'See the server log for why.'
         FROM holdfast.audit_health() WHERE worker = 'failing' AND failures > 0",
    ),
    check(
        Error,
        "events_lost",
        "SELECT format('%s events could not be recorded in the last 30 days.', events), 'SELECT * FROM holdfast.audit_loss; make room on the disk.'
         FROM (SELECT (SELECT lost FROM holdfast.audit_health())
             + (SELECT coalesce(sum(l.events), 0) FROM holdfast.audit_loss l WHERE last_at > clock_timestamp() - interval '30 days')) AS all_losses (events)
         WHERE events > 0",
    ),
    check(
        Warning,
        "spool_used",
        "SELECT format('%s of events are in the spool, of %s that it may hold: no worker could store them in time.',
                 pg_size_pretty(spooled), current_setting('holdfast.audit_spool_size')),
             'They are taken in as soon as a worker can; see the server log for what keeps it.'
         FROM holdfast.audit_health() WHERE spooled > 0",
    ),
    check(
        Error,
        "spool_full",
        "SELECT format('The spool holds %s: it has reached holdfast.audit_spool_size, or is about to.', pg_size_pretty(spooled)),
             'Raise holdfast.audit_spool_size, and find out why no worker can store events.'
         FROM holdfast.audit_health() WHERE spooled > 0.9 * pg_size_bytes(current_setting('holdfast.audit_spool_size'))",
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
