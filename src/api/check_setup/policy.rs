//! The migration: how far it is, what is guarded, and what beside it could interfere.

use super::Severity::{Error, Notice, Warning};
use super::{Check, check, listed};

pub(super) const CHECKS: &[Check] = &[
    check(
        Notice,
        "no_migration",
        "SELECT 'No migration has begun, so nothing is guarded.', 'SELECT holdfast.begin_migration(''legacy'', ''rebuilt'', current_date + 90);'
         WHERE NOT EXISTS (SELECT FROM holdfast.migration WHERE phase <> 'preparing')",
    ),
    check(
        Warning,
        "mode_off",
        "SELECT 'The mode is off: every write passes, and nothing is recorded.', 'SELECT holdfast.set_mode(''observe'');'
         FROM holdfast.migration WHERE mode = 'off' AND phase IN ('shared', 'single')",
    ),
    check(
        Notice,
        "mode_observe",
        "SELECT 'The mode is observe: what would be refused is recorded, and passes.',
             'When holdfast.blocked_summary shows nothing that is right: SELECT holdfast.set_mode(''enforce'');'
         FROM holdfast.migration WHERE mode = 'observe' AND phase IN ('shared', 'single')",
    ),
    check(
        Notice,
        "mode_exceptions",
        concat!(
            "SELECT format('The mode is enforce, but not for %s.', ",
            listed!("concat_ws(' ', 'backend ' || quote_ident(o.backend), 'rule ' || o.rule, '(' || o.mode || ')')"),
            "), 'SELECT holdfast.set_mode(NULL, backend => ..., rule => ...) takes an exception back.'
             FROM holdfast.mode_override o, holdfast.migration m WHERE m.mode = 'enforce' AND o.mode <> 'enforce' HAVING count(*) > 0"
        ),
    ),
    check(
        Warning,
        "no_end_date",
        "SELECT 'The migration has no end date.', 'A guard without an end becomes the system: agree on one.'
         FROM holdfast.migration WHERE ends_on IS NULL AND phase IN ('shared', 'single')",
    ),
    check(
        Notice,
        "end_date_near",
        "SELECT format('The migration ends on %s, %s.', ends_on, CASE ends_on - current_date WHEN 0 THEN 'today' WHEN 1 THEN 'tomorrow'
             ELSE format('in %s days', ends_on - current_date) END), 'Plan what is left: SELECT * FROM holdfast.status;'
         FROM holdfast.migration WHERE ends_on - current_date BETWEEN 0 AND 30 AND phase IN ('shared', 'single')",
    ),
    check(
        Warning,
        "end_date_passed",
        "SELECT format('The migration should have ended on %s, %s. The guard goes on.', ends_on, CASE current_date - ends_on WHEN 1 THEN 'yesterday'
             ELSE format('%s days ago', current_date - ends_on) END),
             'Finish it with finish_migration(), or agree on another date: SELECT holdfast.set_end_date(...);'
         FROM holdfast.migration WHERE ends_on < current_date AND phase IN ('shared', 'single')",
    ),
    check(
        Error,
        "guards_damaged",
        concat!(
            "SELECT format('Writes of these tables are refused to everybody, since their guard is damaged: %s.', ",
            listed!("relation::text"),
            "), 'SELECT relation, guard, finding FROM holdfast.coverage WHERE finding IS NOT NULL; guard_table() repairs.'
             FROM holdfast.coverage WHERE guard <> 'enabled' HAVING count(*) > 0"
        ),
    ),
    check(
        Warning,
        "tables_unclassified",
        concat!(
            "SELECT format('Nobody has said whose the rows of these tables are: %s.', ",
            listed!("relation::text"),
            "), 'SELECT holdfast.guard_table(...), guard_global(...) or exempt_table(...).'
             FROM holdfast.coverage WHERE class = 'unclassified' AND EXISTS (SELECT FROM holdfast.migration) HAVING count(*) > 0"
        ),
    ),
    check(
        Notice,
        "tables_doubtful",
        "SELECT format('%s: %s.', relation, finding), 'See holdfast.coverage.'
         FROM holdfast.coverage WHERE finding IS NOT NULL AND class <> 'unclassified' AND guard IS NOT DISTINCT FROM 'enabled'
         ORDER BY relation::text LIMIT 10",
    ),
    check(
        Notice,
        "event_triggers",
        concat!(
            "SELECT format('Event triggers run with every command, guard_table() included: %s.', ",
            listed!("quote_ident(evtname)"),
            "), 'Make sure that they let the commands of the extension pass.'
             FROM pg_event_trigger WHERE evtenabled <> 'D' HAVING count(*) > 0"
        ),
    ),
    check(
        Warning,
        "policy_published",
        concat!(
            "SELECT format('Publications carry tables of the policy: %s. A subscriber with a policy of its own can''t take them in.', ",
            listed!("quote_ident(pubname)"),
            "), 'Name the tables that are published; of holdfast''s only ownership is meant to travel.'
             FROM (SELECT DISTINCT pubname FROM pg_publication_tables WHERE schemaname = 'holdfast' AND tablename <> 'ownership') AS p
             HAVING count(*) > 0"
        ),
    ),
    check(
        Notice,
        "subscriptions",
        concat!(
            "SELECT format('What subscriptions bring is never refused, only recorded: %s.', ",
            listed!("quote_ident(subname)"),
            "), 'Guard the publisher, too.'
             FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
             HAVING count(*) > 0"
        ),
    ),
];
