//! Attempts with commands: those that destroy, and those that hand what may be done to somebody else.

use super::attempt::Expected::{Fails, Passes, Refused};
use super::attempt::Privileged::{Legacy, Nobody, Rebuilt};
use super::attempt::{Attempt, Expected};
use super::paths::Kind::{Command, Query, TopLevel, Write};
use super::paths::Path::{
    AsLegacy, BarrierView, CachedFunction, CachedPlan, Dblink, Extended, InsteadOf, Plain, RuleView, SetRole, View,
};

const DESTRUCTIVE: &[&str] = &["destructive_command"];
const ANYBODYS: Expected = Expected::refused(DESTRUCTIVE);
const REBUILTS: Expected = Refused(DESTRUCTIVE, Rebuilt);
const LEGACYS: Expected = Refused(DESTRUCTIVE, Legacy);
const SUPERUSERS: Expected = Refused(DESTRUCTIVE, Nobody);

pub const ATTEMPTS: &[Attempt] = &[
    Attempt::new(Command, "truncate", "TRUNCATE shop.notes", ANYBODYS),
    Attempt::new(Command, "truncate_with_cascade", "TRUNCATE shop.orders CASCADE", ANYBODYS),
    Attempt::new(Command, "truncate_and_restart", "TRUNCATE shop.plans RESTART IDENTITY", ANYBODYS),
    Attempt::new(Command, "truncate_only_the_parent", "TRUNCATE ONLY shop.vehicles", ANYBODYS),
    Attempt::new(Command, "truncate_a_child", "TRUNCATE shop.trucks", ANYBODYS),
    Attempt::new(Command, "truncate_a_partitioned_table", "TRUNCATE shop.log", ANYBODYS),
    Attempt::new(Command, "truncate_a_leaf", "TRUNCATE shop.log_eu_2", ANYBODYS),
    Attempt::new(Command, "truncate_an_unclassified_table", "TRUNCATE shop.loose", ANYBODYS),
    Attempt::new(Command, "drop_an_own_table", "DROP TABLE shop.notes", REBUILTS),
    Attempt::new(Command, "drop_a_table_of_legacy", "DROP TABLE shop.orders CASCADE", LEGACYS),
    Attempt::new(Command, "drop_a_partition", "DROP TABLE shop.log_us", LEGACYS),
    Attempt::new(Command, "drop_a_view", "DROP VIEW shop_view.orders", SUPERUSERS),
    Attempt::new(Command, "drop_a_schema", "DROP SCHEMA shop CASCADE", LEGACYS),
    Attempt::new(Command, "drop_an_own_sequence", "DROP SEQUENCE shop.notes_seq", REBUILTS),
    Attempt::new(Command, "drop_a_function", "DROP FUNCTION shop.echo() CASCADE", LEGACYS),
    Attempt::new(Command, "drop_a_column", "ALTER TABLE shop.drafts DROP COLUMN note", REBUILTS),
    Attempt::new(Command, "drop_a_constraint", "ALTER TABLE shop.notes DROP CONSTRAINT notes_pkey", REBUILTS),
    Attempt::new(Command, "drop_a_foreign_key", "ALTER TABLE shop.items DROP CONSTRAINT items_order_id_fkey", LEGACYS),
    Attempt::new(Command, "drop_what_is_owned", "DROP OWNED BY :rebuilt CASCADE", REBUILTS),
    Attempt::new(Command, "drop_what_legacy_owns", "DROP OWNED BY :legacy CASCADE", LEGACYS),
    Attempt::new(Command, "reassign_what_is_owned", "REASSIGN OWNED BY :legacy TO :rebuilt", SUPERUSERS),
    Attempt::new(Command, "drop_a_role", "DROP ROLE :legacy", SUPERUSERS),
    Attempt::new(TopLevel, "drop_the_database", "DROP DATABASE :database WITH (FORCE)", SUPERUSERS),
    Attempt::new(Command, "give_a_table_away", "ALTER TABLE shop.notes OWNER TO :legacy", REBUILTS),
    Attempt::new(Command, "take_a_table", "ALTER TABLE shop.orders OWNER TO :rebuilt", SUPERUSERS),
    Attempt::new(Command, "take_the_schema", "ALTER SCHEMA shop OWNER TO :rebuilt", SUPERUSERS),
    Attempt::new(Command, "take_the_database", "ALTER DATABASE :database OWNER TO :rebuilt", SUPERUSERS),
    Attempt::new(Command, "take_a_function", "ALTER FUNCTION shop.echo() OWNER TO :rebuilt", SUPERUSERS),
    Attempt::new(Command, "give_a_large_object_away", "ALTER LARGE OBJECT 70002 OWNER TO :legacy", REBUILTS),
    Attempt::new(Command, "grant_on_a_table", "GRANT ALL ON shop.notes TO PUBLIC", REBUILTS),
    Attempt::new(Command, "revoke_from_legacy", "REVOKE ALL ON shop.notes FROM :legacy", REBUILTS),
    Attempt::new(Command, "revoke_a_legacy_table", "REVOKE ALL ON shop.orders FROM :legacy", LEGACYS),
    Attempt::new(Command, "grant_a_role", "GRANT :legacy TO :rebuilt WITH ADMIN OPTION", SUPERUSERS),
    Attempt::new(
        Command,
        "change_default_privileges",
        "ALTER DEFAULT PRIVILEGES FOR ROLE :legacy GRANT ALL ON TABLES TO :rebuilt",
        LEGACYS,
    ),
    Attempt::new(Command, "lock_a_table", "LOCK TABLE shop.orders IN ACCESS EXCLUSIVE MODE", ANYBODYS),
    Attempt::new(Command, "lock_a_table_by_default", "LOCK shop.notes", ANYBODYS),
    Attempt::new(Command, "lock_out_writers", "LOCK TABLE shop.plans IN SHARE MODE NOWAIT", ANYBODYS),
    Attempt::new(Command, "lock_through_a_view", "LOCK TABLE shop_view.orders IN EXCLUSIVE MODE", ANYBODYS),
    Attempt::new(Command, "lock_as_a_write_does", "LOCK TABLE shop.orders IN ROW EXCLUSIVE MODE", Passes)
        .not_by(&[Plain, Extended, SetRole, Dblink]),
    Attempt::new(Command, "restart_a_sequence", "ALTER SEQUENCE shop.notes_seq RESTART WITH 1000", REBUILTS),
    Attempt::new(Command, "restart_a_sequence_of_legacy", "ALTER SEQUENCE shop.orders_seq RESTART", LEGACYS),
    Attempt::new(Query, "set_a_sequence", "SELECT setval('shop.orders_seq', {1000})", ANYBODYS),
    Attempt::new(Query, "set_an_own_sequence", "SELECT setval('shop.notes_seq', {1000}, false)", ANYBODYS),
    Attempt::new(
        Query,
        "set_a_sequence_in_a_subquery",
        "SELECT (SELECT setval(c.oid, {1000}) FROM pg_class c WHERE c.oid = 'shop.orders_seq'::regclass)",
        ANYBODYS,
    ),
    Attempt::new(
        Write,
        "set_a_sequence_in_a_write",
        "UPDATE shop.orders SET note = setval('shop.orders_seq', 1000)::text WHERE id = {2}",
        ANYBODYS,
    )
    .not_by(&[CachedPlan, CachedFunction, View, BarrierView, InsteadOf, RuleView]),
    Attempt::new(Query, "unlink_an_own_large_object", "SELECT lo_unlink({70002})", REBUILTS),
    Attempt::new(Query, "unlink_a_large_object", "SELECT lo_unlink({70001})", LEGACYS),
    // What failed to be explained hides nothing that comes after it, be it an expression without a statement of its own.
    Attempt::new(
        TopLevel,
        "set_a_sequence_behind_an_explain_that_fails",
        "DO $try$ DECLARE told bigint; BEGIN
             BEGIN EXPLAIN UPDATE pg_authid SET rolname = rolname; EXCEPTION WHEN OTHERS THEN NULL; END;
             told := setval('shop.orders_seq', 1000); END $try$",
        ANYBODYS,
    ),
    Attempt::new(
        TopLevel,
        "unlink_behind_an_explain_that_fails",
        "DO $try$ DECLARE told int; BEGIN
             BEGIN EXPLAIN UPDATE pg_authid SET rolname = rolname; EXCEPTION WHEN OTHERS THEN NULL; END;
             told := lo_unlink(70002); END $try$",
        REBUILTS,
    ),
    Attempt::new(Query, "put_into_a_large_object", "SELECT lo_put({70002}, 0, 'x')", REBUILTS),
    Attempt::new(Query, "write_a_large_object", "SELECT lowrite(lo_open({70002}, 131072), 'x')", REBUILTS),
    Attempt::new(Query, "truncate_a_large_object", "SELECT lo_truncate(lo_open({70002}, 131072), 0)", REBUILTS),
    Attempt::new(Query, "create_a_large_object", "SELECT lo_create({70003})", ANYBODYS),
    Attempt::new(Query, "load_a_large_object", "SELECT lo_from_bytea({70003}, 'x')", ANYBODYS),
    Attempt::new(Query, "import_a_large_object", "SELECT lo_import('/etc/hosts', {70003})", SUPERUSERS),
    Attempt::new(Query, "export_a_large_object", "SELECT lo_export({70002}, '/tmp/holdfast.exported')", SUPERUSERS),
    Attempt::new(Query, "read_a_large_object", "SELECT lo_get({70002})", Passes).not_by(&[Dblink, SetRole, AsLegacy]),
    Attempt::new(Command, "copy_from_a_program", "COPY shop.orders FROM PROGRAM 'true'", SUPERUSERS),
    Attempt::new(Command, "copy_to_a_program", "COPY shop.orders TO PROGRAM 'true'", SUPERUSERS),
    Attempt::new(Command, "copy_from_a_file", "COPY shop.orders FROM '/etc/hosts'", SUPERUSERS),
    Attempt::new(Command, "copy_to_a_file", "COPY shop.orders TO '/tmp/holdfast.copied'", SUPERUSERS),
    Attempt::new(TopLevel, "change_the_server", "ALTER SYSTEM SET holdfast.enabled = off", SUPERUSERS),
    Attempt::new(
        Command,
        "create_a_rule",
        "CREATE RULE swallow AS ON DELETE TO shop.notes DO INSTEAD NOTHING",
        REBUILTS,
    ),
    Attempt::new(
        Command,
        "create_a_rule_on_a_view",
        "CREATE RULE swallow AS ON DELETE TO shop_view.notes DO INSTEAD NOTHING",
        SUPERUSERS,
    ),
    Attempt::new(
        Command,
        "create_a_trigger",
        "CREATE TRIGGER a BEFORE UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.move()",
        ANYBODYS,
    ),
    Attempt::new(Command, "create_a_policy", "CREATE POLICY hide ON shop.notes USING (false)", REBUILTS),
    Attempt::new(
        Command,
        "create_an_event_trigger",
        "CREATE EVENT TRIGGER deaf ON ddl_command_end EXECUTE FUNCTION carriers.overhear()",
        SUPERUSERS,
    ),
    Attempt::new(Command, "create_a_trusted_extension", "CREATE EXTENSION hstore", REBUILTS),
    Attempt::new(
        Command,
        "create_a_subscription",
        "CREATE SUBSCRIPTION flood CONNECTION 'dbname=elsewhere' PUBLICATION all_of_it WITH (connect = false)",
        SUPERUSERS,
    ),
    Attempt::new(Command, "label_a_table", "SECURITY LABEL ON TABLE shop.notes IS 'mine'", REBUILTS),
    Attempt::new(Command, "refer_to_a_table", "CREATE TABLE public.mine (id int REFERENCES shop.orders)", ANYBODYS),
    Attempt::new(
        Command,
        "refer_to_a_table_later",
        "ALTER TABLE shop.drafts ADD FOREIGN KEY (id) REFERENCES shop.orders",
        REBUILTS,
    ),
    Attempt::new(Command, "inherit_from_a_table", "CREATE TABLE public.mine () INHERITS (shop.drafts)", REBUILTS),
    Attempt::new(
        Command,
        "inherit_from_a_table_for_a_while",
        "CREATE TEMP TABLE mine () INHERITS (shop.drafts)",
        REBUILTS,
    ),
    Attempt::new(
        Command,
        "inherit_from_a_table_in_a_schema",
        "CREATE SCHEMA mine CREATE TABLE child () INHERITS (shop.drafts)",
        REBUILTS,
    ),
    Attempt::new(Command, "index_a_table", "CREATE UNIQUE INDEX ON shop.drafts (tenant_id)", REBUILTS),
    Attempt::new(Command, "become_a_superuser", "ALTER ROLE :rebuilt SUPERUSER", SUPERUSERS),
    Attempt::new(Command, "inherit_legacys_privileges", "ALTER ROLE :rebuilt INHERIT", SUPERUSERS),
    Attempt::new(Command, "create_a_role", "CREATE ROLE holdfast_mine SUPERUSER", SUPERUSERS),
    Attempt::new(
        Command,
        "create_a_function_in_c",
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE c AS '$libdir/holdfast', 'holdfast_guard_row'",
        SUPERUSERS,
    ),
    Attempt::new(Command, "publish_a_table", "CREATE PUBLICATION mine FOR TABLE shop.drafts", REBUILTS),
    Attempt::new(Command, "comment_on_a_table", "COMMENT ON TABLE shop.notes IS 'mine'", Passes)
        .not_by(&[AsLegacy, SetRole]),
    Attempt::new(
        Query,
        "end_a_session_of_legacy",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bystander' AND datname = ':database'",
        LEGACYS,
    ),
    Attempt::new(
        Query,
        "cancel_a_session_of_legacy",
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'bystander' AND datname = ':database'",
        LEGACYS,
    ),
    // What isn't there is Postgres's to say.
    Attempt::new(Command, "drop_what_isnt_there", "DROP TABLE shop.nothing", Fails("42P01")),
    Attempt::new(Command, "drop_what_may_not_be_there", "DROP TABLE IF EXISTS shop.nothing", Passes),
];
