//! The server: its libraries, workers and settings.

use super::Severity::{Error, Notice, Warning};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check(
        Error,
        "guard_off",
        "SELECT 'holdfast.enabled is off: every write passes.', 'Set it on in postgresql.conf, then SELECT pg_reload_conf();'
         WHERE current_setting('holdfast.enabled') = 'off'",
    ),
    check(
        Error,
        "version",
        "SELECT format('The library is version %s, the objects in this database are version %s.', $1, extversion),
             CASE WHEN string_to_array(regexp_replace($1, '[^0-9.].*', ''), '.')::int[]
                 > string_to_array(regexp_replace(extversion, '[^0-9.].*', ''), '.')::int[]
             THEN 'ALTER EXTENSION holdfast UPDATE;'
             ELSE 'Install the newer library, then restart the server.' END
         FROM pg_extension WHERE extname = 'holdfast' AND extversion <> $1",
    ),
    check(
        Error,
        "preload_removed",
        "SELECT 'The configuration no longer preloads holdfast: the next start is without the guard.',
             'Put holdfast back into shared_preload_libraries.'
         FROM (SELECT setting FROM pg_file_settings WHERE name = 'shared_preload_libraries' ORDER BY seqno DESC LIMIT 1) AS last
         WHERE setting !~ '(^|[,/ \"])holdfast([., \"]|$)'",
    ),
    check(
        Error,
        "no_launcher",
        "SELECT 'No launcher runs: events go to the spool, and stay there.',
             CASE WHEN current_setting('max_worker_processes')::int < 2
             THEN 'Raise max_worker_processes to 2 at least, and restart the server.'
             ELSE 'See the server log; it starts again within seconds, unless max_worker_processes are in use.' END
         FROM holdfast.audit_health() WHERE NOT launcher AND NOT pg_is_in_recovery()",
    ),
    check(
        Error,
        "no_worker_slot",
        "SELECT format('All %s worker processes are in use: none is left to store events, which go to the spool.', max_worker_processes),
             'Raise max_worker_processes, and restart the server.'
         FROM current_setting('max_worker_processes') AS max_worker_processes
         WHERE NOT pg_is_in_recovery() AND max_worker_processes::int <= (
             SELECT count(*) FROM pg_stat_activity WHERE backend_type NOT IN ('client backend', 'autovacuum launcher',
                 'autovacuum worker', 'archiver', 'background writer', 'checkpointer', 'startup', 'walreceiver', 'walsender',
                 'walsummarizer', 'walwriter', 'slotsync worker', 'io worker', 'standalone backend', 'logger'))
           AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'holdfast worker')",
    ),
    check(
        Warning,
        "fsync_off",
        "SELECT 'fsync is off: a crash of the machine may lose events and handovers, or damage the cluster.',
             'Set fsync = on in postgresql.conf.'
         WHERE current_setting('fsync') = 'off'",
    ),
    check(
        Warning,
        "synchronous_commit_off",
        "SELECT 'synchronous_commit is off here. Refusals are on record all the same: the worker waits for its own commits. '
                 'But a crash may take back the last handovers and policy changes.',
             format('ALTER DATABASE %I SET synchronous_commit = on;', current_database())
         WHERE current_setting('synchronous_commit') = 'off'",
    ),
    check(
        Warning,
        "wal_level_minimal",
        "SELECT 'wal_level is minimal: a cutover leaves no restore point.', 'Set wal_level = replica, and restart the server.'
         WHERE current_setting('wal_level') = 'minimal'",
    ),
    check(
        Notice,
        "no_archive",
        "SELECT 'archive_mode is off: the restore point of a cutover can be reached only by a backup tool that streams.',
             'Archive the log, or take a backup before each wave.'
         WHERE current_setting('archive_mode') = 'off' AND current_setting('wal_level') <> 'minimal'",
    ),
    check(
        Warning,
        "few_locks",
        "SELECT format('max_locks_per_transaction is %s. A transaction locks up to 32 tenants besides its tables.', locks),
             'Set it to 64 at least, and restart the server.'
         FROM current_setting('max_locks_per_transaction') AS locks WHERE locks::int < 64",
    ),
    check(
        Notice,
        "prepared_transactions",
        "SELECT format('max_prepared_transactions is %s. One that is left prepared keeps its tenants: cutovers of them fail.', most),
             'Set it to 0 if nothing uses two-phase commit.'
         FROM current_setting('max_prepared_transactions') AS most WHERE most::int > 0",
    ),
    check(
        Warning,
        "old_prepared_transaction",
        "SELECT format('Transaction %L of role %I is prepared since %s.', gid, owner, date_trunc('second', prepared)),
             format('COMMIT PREPARED %L; or ROLLBACK PREPARED %1$L;', gid)
         FROM pg_prepared_xacts
         WHERE database = current_database() AND clock_timestamp() - prepared > current_setting('holdfast.hold_timeout')::interval
         ORDER BY prepared LIMIT 10",
    ),
    check(
        Notice,
        "standby",
        "SELECT 'This is a standby: nothing is refused or recorded here, as nothing is written.', 'Ask the primary.'
         WHERE pg_is_in_recovery()",
    ),
    check(
        Warning,
        "held_too_short",
        "WITH given AS (
             SELECT 'this session' AS of, name, setting || unit AS value FROM pg_settings
             WHERE name IN ('lock_timeout', 'statement_timeout') AND setting <> '0'
             UNION ALL
             SELECT CASE WHEN setrole = 0 THEN 'the database' ELSE format('role %s', setrole::regrole) END,
                 split_part(entry, '=', 1), split_part(entry, '=', 2)
             FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS entry
             WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
               AND split_part(entry, '=', 1) IN ('lock_timeout', 'statement_timeout')
               AND (setrole = 0 OR setrole IN (SELECT role FROM holdfast.identity))
         ), measured AS (
             SELECT *, CASE WHEN value ~ '^ *[0-9]+ *$' THEN (value || ' ms')::interval
                 WHEN value ~ '^ *[0-9.]+ *(us|ms|s|min|h|d) *$' THEN value::interval END AS span
             FROM given
         )
         SELECT format('%s of %s is %s, less than holdfast.hold_timeout (%s): it ends a writer that a cutover holds, with another SQLSTATE.',
                 name, of, value, current_setting('holdfast.hold_timeout')),
             format('Set %s above holdfast.hold_timeout, or that one lower.', name)
         FROM measured WHERE span > interval '0' AND span < current_setting('holdfast.hold_timeout')::interval
         ORDER BY of, name LIMIT 10",
    ),
];
