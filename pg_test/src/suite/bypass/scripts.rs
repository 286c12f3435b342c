//! Attempts that take several statements: to be somebody else, to put something else in the place of what is guarded, to
//! change the table and write it at once. Each runs in one transaction.

use super::attempt::Expected::{Fails, Passes};
use super::attempt::{Attempt, Expected};
use super::paths::Kind::Script;

const NOT_OWNER: Expected = Expected::refused(&["not_owner"]);
const UNIDENTIFIED: Expected = Expected::refused(&["unidentified"]);
/// The command is refused, or the write is.
const ONE_OF_THEM: Expected =
    Expected::refused(&["guard_tampering", "destructive_command", "outside_surface", "not_owner"]);

pub const ATTEMPTS: &[Attempt] = &[
    // To be somebody else.
    script("claim_to_be_legacy", "SET holdfast.backend = 'legacy'; UPDATE shop.orders SET note = 'x' WHERE id = 1", NOT_OWNER),
    script(
        "claim_to_be_legacy_locally",
        "SET LOCAL holdfast.backend TO legacy; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "claim_to_be_legacy_by_a_function",
        "SELECT set_config('holdfast.backend', 'legacy', false); UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "claim_to_be_legacy_by_the_view",
        "UPDATE pg_settings SET setting = 'legacy' WHERE name = 'holdfast.backend'; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        Expected::refused(&["not_owner", "outside_surface", "forbidden_setting"]),
    ),
    script(
        "claim_to_be_legacy_in_a_function",
        "CREATE FUNCTION pg_temp.as_legacy() RETURNS void LANGUAGE sql SET holdfast.backend = 'legacy' AS
             'UPDATE shop.orders SET note = ''x'' WHERE id = 1';
         SELECT pg_temp.as_legacy()",
        NOT_OWNER,
    ),
    script(
        "claim_to_be_nobody",
        "SET holdfast.backend = 'nobody'; UPDATE shop.orders SET note = 'x' WHERE id = 2",
        UNIDENTIFIED,
    ),
    script(
        "be_called_legacy",
        "SET application_name = 'legacy'; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "take_legacys_role_and_reset",
        "SET ROLE :legacy; RESET ALL; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script("take_no_role", "SET ROLE NONE; UPDATE shop.orders SET note = 'x' WHERE id = 1", NOT_OWNER),
    script(
        "reset_the_session",
        "RESET SESSION AUTHORIZATION; RESET ROLE; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "reset_the_claim",
        "RESET holdfast.backend; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script("become_legacy_by_role_and_authorization", "SET ROLE :legacy; SET SESSION AUTHORIZATION :legacy", Fails("42501")),
    script(
        "write_as_the_owner_of_a_view",
        "SET ROLE :legacy; CREATE TEMP VIEW mine AS SELECT * FROM shop.orders; RESET ROLE; UPDATE mine SET note = 'x' WHERE id = 1",
        Fails("42501"),
    ),
    // To put something else in its place.
    script(
        "shadow_the_table",
        "CREATE TEMP TABLE orders (LIKE shop.orders); SET search_path = pg_temp, shop;
         INSERT INTO orders (id, tenant_id) VALUES (1, 10); UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "write_a_shadow_only",
        "CREATE TEMP TABLE orders (LIKE shop.orders); INSERT INTO orders (id, tenant_id) VALUES (1, 10);
         UPDATE orders SET note = 'x'; DELETE FROM orders; DROP TABLE orders",
        Passes,
    ),
    script(
        "drop_the_shadow_and_write_what_was_behind_it",
        "CREATE TEMP TABLE orders (LIKE shop.orders); SET search_path = pg_temp, shop;
         PREPARE p AS UPDATE orders SET note = 'x' WHERE id = 1; EXECUTE p; DROP TABLE orders; EXECUTE p",
        NOT_OWNER,
    ),
    script(
        "shadow_the_policy",
        "CREATE TEMP TABLE classified_table (relation regclass); CREATE TEMP TABLE ownership (tenant text, owner text);
         INSERT INTO ownership VALUES ('10', 'rebuilt'); SET search_path = pg_temp, holdfast, shop;
         UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "shadow_the_guards_function",
        "CREATE FUNCTION pg_temp.guard_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         SET search_path = pg_temp, shop; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "shadow_an_operator",
        "CREATE FUNCTION public.equal(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
         CREATE FUNCTION public.equal(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
         CREATE OPERATOR public.= (FUNCTION = public.equal, LEFTARG = int, RIGHTARG = int);
         CREATE OPERATOR public.= (FUNCTION = public.equal, LEFTARG = text, RIGHTARG = text);
         SET search_path = public, pg_catalog; UPDATE shop.orders SET note = 'x' WHERE id OPERATOR(pg_catalog.=) 1",
        NOT_OWNER,
    ),
    script(
        "shadow_functions_of_the_catalog",
        "CREATE FUNCTION public.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''legacy''';
         CREATE FUNCTION public.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 0';
         CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''infinity''::timestamptz';
         SET search_path = public, pg_catalog; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "another_cast_to_the_tenants_type",
        "CREATE FUNCTION public.twenty(text) RETURNS citext LANGUAGE sql IMMUTABLE AS 'SELECT ''Beta''::citext';
         UPDATE shop.by_citext SET tenant_id = public.twenty('acme') WHERE id = 2",
        NOT_OWNER,
    ),
    script(
        "a_trigger_on_an_own_temporary_table",
        "CREATE TEMP TABLE bell (id int);
         CREATE FUNCTION pg_temp.ring() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN UPDATE shop.orders SET note = ''x'' WHERE id = 1; RETURN new; END';
         CREATE TRIGGER ring BEFORE INSERT ON bell FOR EACH ROW EXECUTE FUNCTION pg_temp.ring();
         INSERT INTO bell VALUES (1)",
        ONE_OF_THEM,
    ),
    script(
        "write_an_own_new_table",
        "CREATE TABLE public.mine (id int, tenant_id int); INSERT INTO public.mine VALUES (1, 20)",
        ONE_OF_THEM,
    ),
    // Row by row, and around what was refused before.
    script(
        "update_the_row_under_a_cursor",
        "DECLARE c CURSOR FOR SELECT * FROM shop.orders WHERE id = 1 FOR UPDATE; FETCH c;
         UPDATE shop.orders SET note = 'x' WHERE CURRENT OF c",
        NOT_OWNER,
    ),
    script(
        "delete_the_row_under_a_cursor",
        "DECLARE c CURSOR FOR SELECT * FROM shop.orders WHERE id = 11; FETCH c; DELETE FROM shop.orders WHERE CURRENT OF c",
        NOT_OWNER,
    ),
    script(
        "update_a_partitions_row_under_a_cursor",
        "DECLARE c CURSOR FOR SELECT * FROM shop.log WHERE id = 3; FETCH c; UPDATE shop.log SET note = 'x' WHERE CURRENT OF c",
        NOT_OWNER,
    ),
    script(
        "write_again_after_going_back",
        "SAVEPOINT s; UPDATE shop.orders SET note = 'x' WHERE id = 2; ROLLBACK TO s; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "hide_among_many_savepoints",
        "DO $$BEGIN FOR n IN 1..100 LOOP
             BEGIN UPDATE shop.orders SET note = 'x' WHERE id = 2; RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END;
         END LOOP; END$$; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "write_in_serializable",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT * FROM shop.orders; UPDATE shop.orders SET note = 'x' WHERE id = 1",
        NOT_OWNER,
    ),
    script(
        "write_a_large_object_in_pieces",
        "SELECT lo_lseek(lo_open(70002, 393216), 1, 0); SELECT lowrite(0, 'x')",
        Expected::refused(&["destructive_command"]),
    ),
    // To change the table, and write it at once.
    script(
        "rename_the_table_and_write",
        "ALTER TABLE shop.drafts RENAME TO scraps; UPDATE shop.scraps SET note = 'x' WHERE id = 1",
        ONE_OF_THEM,
    ),
    script(
        "move_the_table_and_write",
        "ALTER TABLE shop.drafts SET SCHEMA public; UPDATE public.drafts SET note = 'x' WHERE id = 1",
        ONE_OF_THEM,
    ),
    script(
        "swap_the_tenant_column_and_write",
        "ALTER TABLE shop.drafts RENAME tenant_id TO former; ALTER TABLE shop.drafts ADD tenant_id int DEFAULT 20;
         UPDATE shop.drafts SET note = 'x' WHERE id = 1",
        ONE_OF_THEM,
    ),
    script(
        "default_to_another_tenant",
        "ALTER TABLE shop.drafts ALTER tenant_id SET DEFAULT 10; INSERT INTO shop.drafts (id) VALUES (60)",
        ONE_OF_THEM,
    ),
    script(
        "rewrite_the_rows_with_the_column",
        "ALTER TABLE shop.drafts ALTER tenant_id TYPE int USING 20; UPDATE shop.drafts SET note = 'x' WHERE id = 1",
        ONE_OF_THEM,
    ),
    script(
        "inherit_from_the_table_and_write",
        "CREATE TABLE shop.child () INHERITS (shop.drafts); INSERT INTO shop.child VALUES (60, 10)",
        ONE_OF_THEM,
    ),
    script(
        "let_the_table_inherit_and_write",
        "CREATE TABLE shop.parent (tenant_id int); ALTER TABLE shop.drafts INHERIT shop.parent;
         UPDATE shop.parent SET tenant_id = 20 WHERE tenant_id = 10",
        ONE_OF_THEM,
    ),
    script(
        "make_the_table_a_partition_and_write",
        "CREATE TABLE shop.whole (id int NOT NULL, tenant_id int, note text) PARTITION BY LIST (id);
         ALTER TABLE shop.whole ATTACH PARTITION shop.drafts DEFAULT; UPDATE shop.whole SET note = 'x' WHERE id = 1",
        ONE_OF_THEM,
    ),
    script(
        "make_the_table_a_partition_of_a_private_one_and_write",
        "ALTER TABLE shop.private ATTACH PARTITION shop.notes DEFAULT; UPDATE shop.notes SET note = 'x' WHERE id = 1",
        ONE_OF_THEM,
    ),
    script(
        "detach_a_partition_and_write",
        "SET ROLE :legacy; ALTER TABLE shop.log DETACH PARTITION shop.log_us; UPDATE shop.log_us SET note = 'x' WHERE id = 5",
        ONE_OF_THEM,
    ),
    script(
        "part_from_the_parent_and_write",
        "SET ROLE :legacy; ALTER TABLE shop.trucks NO INHERIT shop.vehicles; UPDATE shop.trucks SET note = 'x' WHERE id = 3",
        ONE_OF_THEM,
    ),
    script(
        "attach_an_unguarded_partition_and_write",
        "SET ROLE :legacy; CREATE TABLE shop.log_af (LIKE shop.log INCLUDING INDEXES);
         ALTER TABLE shop.log ATTACH PARTITION shop.log_af FOR VALUES IN ('af');
         INSERT INTO shop.log (id, tenant_id, region, day) VALUES (60, 10, 'af', 1)",
        ONE_OF_THEM,
    ),
    script(
        "create_a_partition_and_write",
        "SET ROLE :legacy; CREATE TABLE shop.log_af PARTITION OF shop.log FOR VALUES IN ('af');
         INSERT INTO shop.log_af (id, tenant_id, region, day) VALUES (60, 10, 'af', 1)",
        ONE_OF_THEM,
    ),
    script(
        "redirect_the_table_and_write",
        "CREATE RULE redirect AS ON UPDATE TO shop.drafts DO INSTEAD UPDATE shop.notes SET note = new.note WHERE id = 1;
         UPDATE shop.drafts SET note = 'x' WHERE id = 2",
        ONE_OF_THEM,
    ),
    script(
        "generate_the_tenant_and_write",
        "ALTER TABLE shop.drafts DROP tenant_id; ALTER TABLE shop.drafts ADD tenant_id int GENERATED ALWAYS AS (20) STORED;
         UPDATE shop.drafts SET note = 'x' WHERE id = 1",
        ONE_OF_THEM,
    ),
    script(
        "a_trigger_that_skips_the_guard",
        "CREATE FUNCTION pg_temp.skip() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO shop.notes VALUES (60, 10); RETURN NULL; END';
         CREATE TRIGGER a BEFORE UPDATE ON shop.drafts FOR EACH ROW EXECUTE FUNCTION pg_temp.skip();
         UPDATE shop.drafts SET note = 'x' WHERE id = 2",
        ONE_OF_THEM,
    ),
    script(
        "a_foreign_key_that_cascades",
        "ALTER TABLE shop.drafts ADD FOREIGN KEY (id) REFERENCES shop.notes ON DELETE CASCADE;
         UPDATE shop.notes SET note = 'x' WHERE id = 1",
        ONE_OF_THEM,
    ),
];

const fn script(name: &'static str, sql: &'static str, expected: Expected) -> Attempt {
    Attempt::new(Script, name, sql, expected)
}
