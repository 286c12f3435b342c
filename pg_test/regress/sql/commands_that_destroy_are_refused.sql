-- An unproven backend writes rows; whatever destroys more is refused, by whatever way.
SET client_min_messages = warning;
CREATE EXTENSION holdfast;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int, note text);
CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE, note text);
CREATE TABLE plans (id int PRIMARY KEY, name text);
INSERT INTO orders VALUES (1, 10, 'a'), (2, 20, 'b'), (3, 21, 'c'), (4, 20, 'd'), (9, NULL, 'everybody');
INSERT INTO items VALUES (11, 1), (12, 2), (13, 3), (14, 4);
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT holdfast.guard_table('orders', 'tenant_id'), holdfast.guard_table('items', via => 'order_id'), holdfast.guard_global('plans');
SELECT holdfast.allow_writes('rebuilt', 'orders'), holdfast.allow_writes('rebuilt', 'items');
SELECT holdfast.set_mode('enforce');
SELECT tenant FROM holdfast.cutover('20', 'rebuilt');
SELECT tenant FROM holdfast.cutover('21', 'rebuilt');

CREATE SEQUENCE numbers; SELECT lo_create(4242) AS large_object;
CREATE FUNCTION cleanup() RETURNS void LANGUAGE plpgsql AS 'BEGIN TRUNCATE orders CASCADE; END';
SET holdfast.backend = 'rebuilt';
TRUNCATE items;
DROP TABLE items;
DROP SCHEMA public CASCADE;
SELECT cleanup();
DO 'BEGIN EXECUTE ''DROP TABLE items''; END';
ALTER TABLE orders ADD COLUMN extra int;
GRANT ALL ON orders TO PUBLIC;
LOCK TABLE orders IN EXCLUSIVE MODE;
SELECT setval('numbers', 1);
SELECT lo_unlink(4242);
COPY orders TO PROGRAM 'cat';
ALTER SYSTEM SET work_mem = '1GB';
CREATE RULE r AS ON DELETE TO orders DO INSTEAD NOTHING;
SELECT pg_terminate_backend(1);
-- What is temporary is the session's own, and reading is free.
CREATE TEMP TABLE scratch (id int); TRUNCATE scratch; DROP TABLE scratch;
SELECT nextval('numbers');
BEGIN; LOCK TABLE orders IN ROW EXCLUSIVE MODE; SELECT id FROM orders ORDER BY id FOR UPDATE; COMMIT;
RESET holdfast.backend;
BEGIN; SELECT setval('numbers', 100); ALTER TABLE orders ADD COLUMN extra int; DROP TABLE items; ROLLBACK;
SELECT lo_unlink(4242); DROP SEQUENCE numbers; DROP FUNCTION cleanup();

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
