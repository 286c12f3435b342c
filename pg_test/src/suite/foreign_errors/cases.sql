-- Every kind of error that Postgres may raise below the hooks. `:tenant` belongs to the session's backend.

\echo == syntax
SELECT FROM WHERE;
\echo == syntax of an unterminated literal
SELECT 'open;
-- '
;
\echo == undefined table
INSERT INTO nowhere VALUES (1);
\echo == undefined table, with a position far down
SELECT 1,
       2
  FROM orders,
       nowhere;
\echo == undefined column, with a suggestion
UPDATE orders SET countrz = 'no' WHERE tenant = :tenant;
\echo == undefined function
SELECT missing(1, 'x');
\echo == undefined schema
SELECT * FROM nowhere.orders;
\echo == undefined type
SELECT 1::nothing;
\echo == undefined parameter
SELECT $1;
\echo == ambiguous column
SELECT tenant FROM orders, lines;
\echo == ambiguous function
SELECT ambiguous(NULL);
\echo == type mismatch
UPDATE orders SET amount = 'x'::text WHERE tenant = :tenant;
\echo == grouping
SELECT tenant, id FROM totals GROUP BY tenant;
\echo == permission denied on a table
UPDATE hidden SET id = 1;
\echo == permission denied on a column
SELECT secret FROM orders;
\echo == permission denied to write a column
UPDATE orders SET secret = 'x' WHERE tenant = :tenant;
\echo == permission denied to create a database
CREATE DATABASE mine;
\echo == permission denied to set
SET log_min_messages = debug1;
\echo == permission denied to read a file
\if :proven
COPY orders FROM '/etc/passwd';
\endif
\echo == not the owner
\if :proven
ALTER TABLE orders ADD COLUMN more int;
\endif
\echo == not the owner of what a trigger is put on
\if :proven
CREATE RULE nothing AS ON INSERT TO orders DO INSTEAD NOTHING;
\endif

\echo == unique violation
INSERT INTO orders (tenant, id) VALUES (:tenant, 1);
\echo == unique violation of an update
UPDATE orders SET id = 2 WHERE tenant = :tenant AND id = 3;
\echo == deferred unique violation
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO lines VALUES (:tenant, 1, 2, :tenant);
COMMIT;
\echo == foreign key violation of the child
INSERT INTO lines VALUES (:tenant, 99);
\echo == foreign key violation of the parent
DELETE FROM orders WHERE tenant = :tenant AND id = 1;
\echo == foreign key violation of a global parent
DELETE FROM countries WHERE code = 'no';
\echo == check violation
INSERT INTO orders (tenant, id, amount) VALUES (:tenant, 50, -1);
\echo == check violation of a domain
INSERT INTO slots VALUES (:tenant, '2024-02-02', 101);
\echo == check option of a view
UPDATE cheap SET amount = 500 WHERE tenant = :tenant AND id = 1;
\echo == not null violation
INSERT INTO orders (tenant, id) VALUES (:tenant, NULL);
\echo == exclusion violation
INSERT INTO rooms VALUES (:tenant, int4range(:tenant * 10 + 1, :tenant * 10 + 2));
\echo == no partition
INSERT INTO slots VALUES (:tenant, '2031-02-02', 1);
\echo == partition constraint, partition written directly
INSERT INTO slots_2024 VALUES (:tenant, '2031-02-02', 1);
\echo == row moved to no partition
UPDATE slots SET at = '2031-02-02' WHERE tenant = :tenant AND at = '2024-06-01';
\echo == generated column
INSERT INTO orders (tenant, id, doubled) VALUES (:tenant, 51, 1);
\echo == generated identity
INSERT INTO orders (tenant, id, serial_number) VALUES (:tenant, 51, 1);
\echo == too long
INSERT INTO orders (tenant, id, code) VALUES (:tenant, 51, '123456');
\echo == numeric overflow
INSERT INTO orders (tenant, id, amount) VALUES (:tenant, 51, 123456789);
\echo == integer out of range
UPDATE measures SET value = value + 2147483647 WHERE tenant = :tenant;
\echo == smallint out of range, in a constant
UPDATE measures SET small = 70000 WHERE tenant = :tenant;
\echo == division by zero
UPDATE measures SET value = value / 0 WHERE tenant = :tenant;
\echo == division by zero inside a view
SELECT * FROM ratios WHERE tenant = :tenant;
\echo == division by zero in WHERE
DELETE FROM measures WHERE tenant = :tenant AND 1 / (value - 1) > 0;
\echo == invalid integer text
UPDATE measures SET value = 'seven' WHERE tenant = :tenant;
\echo == invalid uuid
UPDATE measures SET mark = 'no uuid' WHERE tenant = :tenant;
\echo == datetime out of range
UPDATE measures SET at = '2024-02-31' WHERE tenant = :tenant;
\echo == unknown time zone
SELECT now() AT TIME ZONE 'Nowhere/Else';
\echo == invalid JSON
UPDATE measures SET doc = '{"a": [1, 2,, 3]}' WHERE tenant = :tenant;
\echo == JSON path
SELECT jsonb_path_query('{"a": 1}', 'strict $.b');
\echo == JSON path syntax
SELECT jsonb_path_query('{"a": 1}', '$.');
\echo == invalid XML
SELECT xmlparse(DOCUMENT '<a><b></a>');
\echo == invalid regular expression
DELETE FROM orders WHERE tenant = :tenant AND code ~ '(';
\echo == invalid encoding
SELECT convert_from('\xff', 'UTF8');
\echo == array subscript
SELECT (ARRAY[1, 2])[1:2][3] || ARRAY[[1, 2], [3]];
\echo == more than one row
SELECT (SELECT id FROM orders WHERE tenant = :tenant);
\echo == more than one update of a row
INSERT INTO orders (tenant, id) VALUES (:tenant, 60), (:tenant, 60) ON CONFLICT (tenant, id) DO UPDATE SET amount = 1;
\echo == no such conflict target
INSERT INTO orders (tenant, id) VALUES (:tenant, 60) ON CONFLICT (country) DO NOTHING;
\echo == merge hits a row twice
MERGE INTO orders USING (VALUES (1), (1)) AS source (id) ON orders.tenant = :tenant AND orders.id = source.id
WHEN MATCHED THEN UPDATE SET amount = 3;
\echo == write to an aggregating view
UPDATE totals SET total = 1 WHERE tenant = :tenant;
\echo == write to a materialized view
INSERT INTO snapshot VALUES (:tenant);
\echo == write to a sequence
INSERT INTO orders_serial_number_seq VALUES (1);
\echo == write to a catalog
DELETE FROM pg_class WHERE relname = 'orders';
\echo == too many columns
INSERT INTO logged VALUES (:tenant, 1, 2);
\echo == too many arguments
SELECT format(VARIADIC 1);
\echo == sequence exhausted
CREATE TEMP SEQUENCE short MAXVALUE 1;
SELECT nextval('short');
SELECT nextval('short');

\echo == RAISE with every field
INSERT INTO logged VALUES (:tenant, -1);
\echo == division by zero in a trigger
INSERT INTO logged VALUES (:tenant, 0);
\echo == error in an AFTER trigger
INSERT INTO logged VALUES (:tenant, 9);
\echo == error in a deferred constraint trigger
BEGIN;
UPDATE kept SET value = 9 WHERE tenant = :tenant;
COMMIT;
\echo == nested plpgsql
SELECT outer_insert(:tenant, -2);
\echo == SQL function with a parsed body
SELECT sql_insert(:tenant, -5);
\echo == SQL function, inlined or not
SELECT sql_divide(id, 0) FROM orders WHERE tenant = :tenant;
\echo == DO
DO $$ BEGIN PERFORM 1 / 0; END $$;
\echo == DO, dynamic
DO $$ BEGIN EXECUTE 'UPDATE orders SET nothing = 1 WHERE tenant = 1'; END $$;
\echo == DO, syntax
DO $$ BEGIN IF; END $$;
\echo == unknown language
DO LANGUAGE klingon 'x';
\echo == ASSERT
DO $$ BEGIN ASSERT 1 = 2, 'one is not two'; END $$;
\echo == SELECT INTO STRICT
DO $$ DECLARE one int; BEGIN SELECT id INTO STRICT one FROM orders; END $$;
\echo == CASE not found
DO $$ BEGIN CASE 1 WHEN 2 THEN NULL; END CASE; END $$;
\echo == RAISE of a condition by name
DO $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'by name', HINT = 'name it'; END $$;
\echo == rethrown error
DO $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN RAISE; END $$;
\echo == swallowed error, all its fields
SELECT swallow(:tenant);
\echo == procedure that commits and fails
CALL commit_midway();
\echo == procedure kept from committing
BEGIN;
CALL commit_midway();
ROLLBACK;
\echo == warnings and notices
DO $$ BEGIN RAISE WARNING 'careful' USING DETAIL = 'd', HINT = 'h', ERRCODE = '01999'; END $$;
CREATE TABLE IF NOT EXISTS orders ();
DROP TABLE IF EXISTS nowhere, nowhere.else;
\echo == stack depth
\set SHOW_CONTEXT never
SELECT endless(1);
\echo == stack depth in a trigger
INSERT INTO kept VALUES (:tenant, 1001);
\set SHOW_CONTEXT always

\echo == COPY with an invalid value
COPY measures FROM STDIN (FORMAT csv);
1,1,1
\.
COPY measures (tenant, value) FROM STDIN (FORMAT csv);
x,1
\.
COPY logged (value, tenant) FROM STDIN (FORMAT csv);
5,,
\.
\echo == COPY of a duplicate
\copy orders (tenant, id) FROM PROGRAM 'echo "$TENANT,8"; echo "$TENANT,9"; echo "$TENANT,1"' (FORMAT csv)
\echo == COPY of a missing reference
\copy lines (tenant, order_id) FROM PROGRAM 'echo "$TENANT,1"; echo "$TENANT,99"' (FORMAT csv)
\echo == COPY with a missing column
\if :proven
COPY logged FROM PROGRAM 'true';
\endif
\echo == COPY of an unknown column
COPY orders (nothing) TO STDOUT;
\echo == COPY with a wrong option
COPY orders TO STDOUT (FORMAT yaml);
\echo == COPY TO of a failing query
COPY (SELECT 1 / (id - 3) FROM orders WHERE tenant = :tenant ORDER BY id) TO STDOUT;
\echo == COPY of a row that a trigger refuses
\copy logged FROM PROGRAM 'echo "$TENANT,5"; echo "$TENANT,-7"' (FORMAT csv)
\echo == COPY of a wrong value, later on
\copy measures (tenant, value) FROM PROGRAM 'echo "$TENANT,5"; echo "$TENANT,x"' (FORMAT csv)

\echo == prepared statement with wrong arguments
PREPARE add (int, int) AS INSERT INTO logged VALUES ($1, $2);
EXECUTE add (1);
EXECUTE add (1, 'x');
EXECUTE add (:tenant, -3);
EXECUTE nothing;
PREPARE add AS SELECT 1;
\echo == prepared statement, generic plan
SET plan_cache_mode = force_generic_plan;
EXECUTE add (:tenant, -4);
RESET plan_cache_mode;
DEALLOCATE nothing;
\echo == cursor errors
FETCH nothing;
CLOSE nothing;
DECLARE outside CURSOR FOR SELECT 1;
BEGIN;
DECLARE c CURSOR FOR SELECT 1 / (id - 2) FROM orders WHERE tenant = :tenant ORDER BY id;
FETCH c;
FETCH c;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT 1 FROM orders;
FETCH BACKWARD c;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM orders WHERE tenant = :tenant;
DELETE FROM orders WHERE CURRENT OF c;
ROLLBACK;

\echo == aborted transaction
BEGIN;
SELECT 1 / 0;
SELECT 1;
INSERT INTO logged VALUES (:tenant, 1);
DROP TABLE nowhere;
COMMIT;
\echo == undefined savepoint
BEGIN;
ROLLBACK TO SAVEPOINT nothing;
SELECT 1;
ROLLBACK;
\echo == savepoint outside a transaction
SAVEPOINT s;
\echo == error in a savepoint
BEGIN;
SAVEPOINT s;
INSERT INTO logged VALUES (:tenant, -1);
ROLLBACK TO s;
INSERT INTO logged VALUES (:tenant, -2);
ROLLBACK;
\echo == read-only transaction
BEGIN READ ONLY;
INSERT INTO logged VALUES (:tenant, 1);
ROLLBACK;
BEGIN READ ONLY;
CREATE TABLE new ();
ROLLBACK;
\echo == transaction in a transaction, commands kept out of one
BEGIN;
BEGIN;
VACUUM logged;
ROLLBACK;
COMMIT;
\echo == isolation level too late
BEGIN;
SELECT 1 \g /dev/null
SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;
ROLLBACK;

\echo == statement timeout
SET statement_timeout = 20;
SELECT pg_sleep(10);
\echo == statement timeout in a write
UPDATE kept SET value = 2 WHERE tenant = :tenant AND pg_sleep(10) IS NOT NULL;
\echo == statement timeout in plpgsql
DO $$ BEGIN LOOP NULL; END LOOP; END $$;
RESET statement_timeout;
\echo == cancel
SELECT pg_cancel_backend(pg_backend_pid());
\echo == lock timeout
SET lock_timeout = 20;
\! psql -X -q -U postgres -d $SHOP -c "BEGIN" -c "LOCK TABLE held" -c "SELECT pg_sleep(0)" -c "PREPARE TRANSACTION 'holder'"
INSERT INTO held VALUES (:tenant, 2);
UPDATE held SET value = 2 WHERE tenant = :tenant;
\if :proven
LOCK TABLE held IN SHARE MODE NOWAIT;
\endif
\! psql -X -q -U postgres -d $SHOP -c "ROLLBACK PREPARED 'holder'"
RESET lock_timeout;
\echo == locked row
\! psql -X -q -U postgres -d $SHOP -c "BEGIN" -c "SELECT FROM held FOR UPDATE" -c "PREPARE TRANSACTION 'holder'"
SELECT * FROM held WHERE tenant = :tenant FOR UPDATE NOWAIT;
SET lock_timeout = 20;
UPDATE held SET value = 3 WHERE tenant = :tenant;
DELETE FROM held WHERE tenant = :tenant;
RESET lock_timeout;
\! psql -X -q -U postgres -d $SHOP -c "ROLLBACK PREPARED 'holder'"
\echo == serialization failure
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT value FROM kept WHERE tenant = :tenant;
\! psql -X -q -U $ROLE -d $SHOP -c "UPDATE kept SET value = value WHERE tenant = $TENANT"
UPDATE kept SET value = 3 WHERE tenant = :tenant;
ROLLBACK;
\echo == serialization failure of a delete
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT value FROM kept WHERE tenant = :tenant;
\! psql -X -q -U $ROLE -d $SHOP -c "UPDATE kept SET value = value WHERE tenant = $TENANT"
DELETE FROM kept WHERE tenant = :tenant;
ROLLBACK;

\echo == DROP of missing things
DROP TABLE nowhere;
DROP TABLE nowhere.at_all;
DROP FUNCTION nothing(int);
DROP FUNCTION nothing(nothing);
DROP TYPE nothing;
DROP SCHEMA nothing;
DROP TRIGGER nothing ON orders;
DROP TRIGGER nothing ON nowhere;
DROP POLICY nothing ON orders;
DROP RULE nothing ON orders;
DROP OPERATOR === (int, int);
DROP CAST (int AS orders);
DROP AGGREGATE nothing(*);
DROP INDEX nothing;
DROP VIEW nowhere;
DROP EXTENSION nothing;
DROP ROLE nobody;
\if :proven
DROP OWNED BY nobody;
\endif
DROP DATABASE nothing;
DROP OPERATOR CLASS nothing USING btree;
DROP OPERATOR FAMILY nothing USING hash;
DROP ACCESS METHOD nothing;
DROP TRANSFORM FOR nothing LANGUAGE sql;
DROP PUBLICATION nothing;
DROP COLLATION nothing;
DROP STATISTICS nothing;
DROP TEXT SEARCH PARSER nothing;
DROP SERVER nothing;
DROP FOREIGN DATA WRAPPER nothing;
\echo == DROP of the wrong kind
DROP TABLE cheap;
DROP VIEW orders;
DROP INDEX orders;
DROP SEQUENCE orders;
DROP MATERIALIZED VIEW cheap;
DROP PROCEDURE as_it_is();
DROP FUNCTION commit_midway();
DROP AGGREGATE as_it_is();
DROP TYPE;
\echo == DROP of what is ambiguous
DROP FUNCTION ambiguous;
DROP ROUTINE ambiguous;
\echo == DROP in another database
DROP TABLE elsewhere.public.orders;
DROP TABLE a.b.c.d;
\echo == DROP with dependents
CREATE TEMP TABLE base (id int PRIMARY KEY);
CREATE TEMP VIEW above AS SELECT * FROM base;
CREATE TEMP TABLE child (id int REFERENCES base);
DROP TABLE base;
ALTER TABLE base DROP COLUMN id;
DROP TABLE above;
TRUNCATE nowhere;
\if :proven
INSERT INTO orders (tenant, id) VALUES (NULL, 5);
DELETE FROM measures WHERE value > 0 OR 1 / 0 > 1;
DROP TABLE orders;
DROP VIEW totals;
DROP FUNCTION as_it_is();
DROP INDEX orders_pkey;
TRUNCATE exempt;
TRUNCATE hidden;
TRUNCATE countries;
DROP EXTENSION plpgsql;
DROP OWNED BY postgres;
DROP DATABASE shop;
\endif
\echo == session authorization
SET SESSION AUTHORIZATION postgres;
SET ROLE postgres;
\echo == unknown setting
SET nothing = 1;
SET work_mem = 'much';
SET work_mem = -5;
\echo == wire protocol
SELECT 1 \; SELECT 2 / 0 \; SELECT 3;
\echo == large object
SELECT lo_get(4711);
\if :proven
SELECT lo_unlink(4711);
\endif
\echo == advisory, notify
SELECT pg_notify('', 'x');
NOTIFY ch, :'long';
\echo == explain analyze of a failing write
EXPLAIN (ANALYZE, COSTS off, TIMING off) INSERT INTO logged VALUES (:tenant, -8);
EXPLAIN (NOTHING) SELECT 1;
\echo == create table as
CREATE TEMP TABLE made AS SELECT 1 / 0;
\echo == the session still works
SELECT 'yes';
