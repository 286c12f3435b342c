//! Attempts at the guard itself: its triggers, its column, its tables, its functions, its settings.

use super::attempt::Expected::{Fails, Refused};
use super::attempt::Privileged::{Legacy, Nobody, Rebuilt};
use super::attempt::{Attempt, Expected};
use super::paths::Kind::{Command, Query, TopLevel};
use super::paths::Path::{AsLegacy, AsSuperuser, SetRole};

/// An unproven backend may not alter a guarded table at all, and what is part of the guard is the guard's.
const EITHER: &[&str] = &["guard_tampering", "destructive_command"];
const SETTING: &[&str] = &["forbidden_setting", "guard_tampering"];
const OWN_GUARD: Expected = Refused(EITHER, Rebuilt);
const LEGACYS_GUARD: Expected = Refused(EITHER, Legacy);
const EXTENSION: Expected = Refused(EITHER, Nobody);
const FUNCTION: Expected = Fails("42501");

pub const ATTEMPTS: &[Attempt] = &[
    // The owner of a table may do all of this to it, if nobody stops him.
    Attempt::new(
        Command,
        "disable_the_trigger",
        "ALTER TABLE shop.notes DISABLE TRIGGER \"~holdfast_guard\"",
        OWN_GUARD,
    ),
    Attempt::new(Command, "disable_user_triggers", "ALTER TABLE shop.notes DISABLE TRIGGER USER", OWN_GUARD),
    Attempt::new(Command, "disable_all_triggers", "ALTER TABLE shop.notes DISABLE TRIGGER ALL", OWN_GUARD),
    Attempt::new(
        Command,
        "disable_the_trigger_of_legacys_table",
        "ALTER TABLE shop.orders DISABLE TRIGGER USER",
        LEGACYS_GUARD,
    ),
    Attempt::new(Command, "disable_it_on_a_leaf", "ALTER TABLE shop.log_eu_1 DISABLE TRIGGER USER", LEGACYS_GUARD),
    Attempt::new(
        Command,
        "disable_it_among_other_changes",
        "ALTER TABLE shop.notes ALTER COLUMN note SET DEFAULT 'x', DISABLE TRIGGER USER",
        OWN_GUARD,
    ),
    Attempt::new(
        Command,
        "enable_it_in_ordinary_sessions_only",
        "ALTER TABLE shop.notes ENABLE TRIGGER \"~holdfast_guard\"",
        OWN_GUARD,
    ),
    Attempt::new(
        Command,
        "enable_it_in_replicas_only",
        "ALTER TABLE shop.notes ENABLE REPLICA TRIGGER \"~holdfast_guard\"",
        OWN_GUARD,
    ),
    Attempt::new(Command, "drop_the_trigger", "DROP TRIGGER \"~holdfast_guard\" ON shop.notes", OWN_GUARD),
    Attempt::new(
        Command,
        "drop_the_trigger_of_legacys_table",
        "DROP TRIGGER \"~holdfast_guard\" ON shop.orders",
        LEGACYS_GUARD,
    ),
    Attempt::new(
        Command,
        "rename_the_trigger",
        "ALTER TRIGGER \"~holdfast_guard\" ON shop.notes RENAME TO a",
        OWN_GUARD,
    ),
    Attempt::new(
        Command,
        "replace_the_trigger",
        "CREATE OR REPLACE TRIGGER \"~holdfast_guard\" BEFORE INSERT ON shop.notes FOR EACH ROW EXECUTE FUNCTION shop.move()",
        OWN_GUARD,
    ),
    Attempt::new(
        Command,
        "fire_after_the_trigger",
        "CREATE TRIGGER \"~zz\" BEFORE UPDATE ON shop.notes FOR EACH ROW EXECUTE FUNCTION shop.move()",
        OWN_GUARD,
    ),
    Attempt::new(
        Command,
        "rename_a_trigger_to_fire_after_it",
        "ALTER TRIGGER move ON shop.moved RENAME TO \"~zz\"",
        LEGACYS_GUARD,
    ),
    Attempt::new(Command, "drop_the_tenant_column", "ALTER TABLE shop.drafts DROP COLUMN tenant_id", OWN_GUARD),
    Attempt::new(
        Command,
        "rename_the_tenant_column",
        "ALTER TABLE shop.drafts RENAME tenant_id TO owner_id",
        OWN_GUARD,
    ),
    Attempt::new(
        Command,
        "retype_the_tenant_column",
        "ALTER TABLE shop.drafts ALTER tenant_id TYPE text USING '20'",
        OWN_GUARD,
    ),
    Attempt::new(
        Command,
        "rename_the_tenant_column_of_legacys_table",
        "ALTER TABLE shop.orders RENAME COLUMN tenant_id TO owner_id",
        LEGACYS_GUARD,
    ),
    // The extension is its owner's; a superuser's function is one more way to it.
    Attempt::new(
        Command,
        "replace_the_guards_function",
        "CREATE OR REPLACE FUNCTION holdfast.guard_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
        EXTENSION,
    ),
    Attempt::new(
        Command,
        "rename_the_guards_function",
        "ALTER FUNCTION holdfast.guard_row() RENAME TO gone",
        EXTENSION,
    ),
    Attempt::new(
        Command,
        "give_the_guards_function_a_setting",
        "ALTER FUNCTION holdfast.owner_of(text) SET search_path = public",
        EXTENSION,
    ),
    Attempt::new(Command, "drop_the_extension", "DROP EXTENSION holdfast CASCADE", EXTENSION),
    Attempt::new(
        Command,
        "take_a_member_out_of_the_extension",
        "ALTER EXTENSION holdfast DROP FUNCTION holdfast.guard_row()",
        EXTENSION,
    ),
    Attempt::new(Command, "rename_the_schema", "ALTER SCHEMA holdfast RENAME TO loosefast", EXTENSION),
    Attempt::new(Command, "drop_the_schema", "DROP SCHEMA holdfast CASCADE", EXTENSION),
    Attempt::new(Command, "create_a_table_in_the_schema", "CREATE TABLE holdfast.mine (id int)", EXTENSION),
    Attempt::new(Command, "alter_a_policy_table", "ALTER TABLE holdfast.ownership DISABLE TRIGGER ALL", EXTENSION),
    Attempt::new(
        Command,
        "create_a_trigger_on_a_policy_table",
        "CREATE TRIGGER a BEFORE UPDATE ON holdfast.ownership FOR EACH ROW EXECUTE FUNCTION shop.move()",
        EXTENSION,
    ),
    Attempt::new(Command, "truncate_the_record", "TRUNCATE holdfast.event", EXTENSION),
    Attempt::new(Command, "grant_on_a_policy_table", "GRANT ALL ON holdfast.ownership TO :rebuilt", EXTENSION),
    Attempt::new(
        Command,
        "own_a_tenant_by_hand",
        "UPDATE holdfast.ownership SET owner = 'rebuilt' WHERE tenant = '40'",
        EXTENSION,
    ),
    Attempt::new(
        Command,
        "own_a_new_tenant_by_hand",
        "INSERT INTO holdfast.ownership VALUES ('10', 'rebuilt', 'legacy', 1, NULL, NULL, now(), 'me')",
        EXTENSION,
    ),
    Attempt::new(
        Command,
        "allow_oneself_a_table_by_hand",
        "INSERT INTO holdfast.write_permission VALUES ('rebuilt', 'shop.plans', 'insert')",
        EXTENSION,
    ),
    Attempt::new(Command, "trust_oneself_by_hand", "UPDATE holdfast.backend SET trust = 'proven'", EXTENSION),
    Attempt::new(Command, "forget_the_policy_by_hand", "DELETE FROM holdfast.classified_table", EXTENSION),
    Attempt::new(Command, "forget_the_record_by_hand", "DELETE FROM holdfast.event", EXTENSION),
    Attempt::new(
        Command,
        "disable_it_in_the_catalog",
        "UPDATE pg_catalog.pg_trigger SET tgenabled = 'D' WHERE tgname = '~holdfast_guard'",
        Refused(&["guard_tampering", "outside_surface"], Nobody),
    ),
    Attempt::new(Command, "move_a_table_into_the_schema", "ALTER TABLE shop.drafts SET SCHEMA holdfast", EXTENSION),
    Attempt::new(Command, "create_a_table_there_by_a_query", "CREATE TABLE holdfast.mine AS SELECT 1 AS id", EXTENSION),
    Attempt::new(Command, "create_a_function_there", "CREATE FUNCTION holdfast.owner_of(int) RETURNS text LANGUAGE sql AS 'SELECT 1'", EXTENSION),
    Attempt::new(
        Command,
        "forge_the_record",
        "INSERT INTO holdfast.event (at, outcome, rule, sqlstate, command, message, last_at, usename, application_name, pid)
         VALUES (now(), 'observed', 'not_owner', 'WG001', 'UPDATE', '', now(), '', '', 1)",
        EXTENSION,
    ),
    Attempt::new(
        Command,
        "own_a_table_in_the_catalog",
        "UPDATE pg_class SET relowner = ':rebuilt'::regrole WHERE oid = 'shop.orders'::regclass",
        Refused(&["guard_tampering", "outside_surface"], Nobody),
    ),
    Attempt::new(
        Command,
        "write_large_objects_in_the_catalog",
        "UPDATE pg_largeobject SET data = 'x' WHERE loid = 70001",
        Refused(&["guard_tampering", "outside_surface"], Nobody),
    ),
    Attempt::new(
        Command,
        "delete_the_trigger_in_the_catalog",
        "DELETE FROM pg_trigger WHERE tgname = '~holdfast_guard'",
        Refused(&["guard_tampering", "outside_surface"], Nobody),
    ),
    Attempt::new(Command, "load_a_library", "LOAD 'auto_explain'", EXTENSION),
    // Policy is for operators. A superuser's function that calls these for anybody is the superuser's doing.
    Attempt::new(Query, "call_cutover", "SELECT holdfast.cutover('10', 'rebuilt')", FUNCTION).not_by(&[AsSuperuser]),
    Attempt::new(Query, "call_set_mode", "SELECT holdfast.set_mode('off')", FUNCTION).not_by(&[AsSuperuser]),
    Attempt::new(Query, "call_set_trust", "SELECT holdfast.set_trust('rebuilt', 'proven')", FUNCTION)
        .not_by(&[AsSuperuser]),
    Attempt::new(Query, "call_allow_writes", "SELECT holdfast.allow_writes('rebuilt', 'shop.plans')", FUNCTION)
        .not_by(&[AsSuperuser]),
    Attempt::new(Query, "call_unguard_table", "SELECT holdfast.unguard_table('shop.notes')", FUNCTION)
        .not_by(&[AsSuperuser]),
    Attempt::new(Query, "call_exempt_table", "SELECT holdfast.exempt_table('shop.notes')", FUNCTION)
        .not_by(&[AsSuperuser]),
    Attempt::new(Query, "call_unfreeze", "SELECT holdfast.unfreeze('50')", FUNCTION).not_by(&[AsSuperuser]),
    Attempt::new(Query, "call_set_limits", "SELECT holdfast.set_limits('rebuilt', cascade_rows => -1)", FUNCTION)
        .not_by(&[AsSuperuser]),
    Attempt::new(
        Query,
        "call_add_identity",
        "SELECT holdfast.add_identity('legacy', role => ':rebuilt', priority => 1)",
        FUNCTION,
    )
    .not_by(&[AsSuperuser]),
    Attempt::new(Query, "call_grant_operator", "SELECT holdfast.grant_operator(':rebuilt')", FUNCTION)
        .not_by(&[AsSuperuser]),
    // Settings.
    Attempt::new(Command, "become_a_replica", "SET session_replication_role = replica", Refused(SETTING, Nobody)),
    Attempt::new(
        Query,
        "become_a_replica_by_a_function",
        "SELECT set_config('session_replication_role', 'replica', false)",
        Refused(SETTING, Nobody),
    ),
    Attempt::new(
        Command,
        "become_a_replica_by_the_view",
        "UPDATE pg_settings SET setting = 'replica' WHERE name = 'session_replication_role'",
        Refused(SETTING, Nobody),
    ),
    Attempt::new(
        Command,
        "become_a_replica_at_the_next_login",
        "ALTER ROLE :rebuilt SET session_replication_role = replica",
        Refused(SETTING, Nobody),
    ),
    Attempt::new(
        Command,
        "become_a_replica_in_the_database",
        "ALTER DATABASE :database SET session_replication_role = replica",
        Refused(SETTING, Nobody),
    ),
    Attempt::new(
        Command,
        "become_a_replica_in_a_function",
        "CREATE FUNCTION public.replica() RETURNS void LANGUAGE sql SET session_replication_role = replica AS ''",
        Refused(SETTING, Nobody),
    ),
    Attempt::new(Command, "switch_the_guard_off", "SET holdfast.enabled = off", Fails("55P02")),
    Attempt::new(
        Query,
        "switch_the_guard_off_by_a_function",
        "SELECT set_config('holdfast.enabled', 'off', true)",
        Fails("55P02"),
    ),
    Attempt::new(
        Command,
        "switch_the_guard_off_at_the_next_login",
        "ALTER ROLE :rebuilt SET holdfast.enabled = off",
        Fails("55P02"),
    )
    .not_by(&[AsLegacy, SetRole]),
    Attempt::new(TopLevel, "become_legacy", "SET SESSION AUTHORIZATION :legacy", FUNCTION),
    Attempt::new(TopLevel, "become_a_superuser", "SET SESSION AUTHORIZATION postgres", FUNCTION),
    Attempt::new(Command, "set_no_timeout", "SET statement_timeout = 0", Expected::refused(&["forbidden_setting"])),
    Attempt::new(
        Command,
        "set_no_timeout_locally",
        "SET LOCAL statement_timeout TO '2 h'",
        Expected::refused(&["forbidden_setting"]),
    ),
    Attempt::new(
        Query,
        "set_no_timeout_by_a_function",
        "SELECT set_config('statement_timeout', '0', true)",
        Expected::refused(&["forbidden_setting"]),
    ),
    Attempt::new(
        Command,
        "set_no_timeout_at_the_next_login",
        "ALTER ROLE :rebuilt SET statement_timeout = 0",
        Refused(&["forbidden_setting"], Rebuilt),
    ),
];
