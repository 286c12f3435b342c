-- An unproven backend can lower a capped timeout, not lift it, whichever way it tries.
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

SELECT holdfast.set_limits('rebuilt', statement_timeout => '30 s');
SET holdfast.backend = 'rebuilt';
SHOW statement_timeout;
SET statement_timeout = '10 s';
SHOW statement_timeout;
SET statement_timeout = 0;
SET LOCAL statement_timeout = '1 min';
SELECT set_config('statement_timeout', '0', false);
UPDATE pg_settings SET setting = '60000' WHERE name = 'statement_timeout';
CREATE FUNCTION slow() RETURNS int LANGUAGE sql SET statement_timeout = 0 AS 'SELECT 1';
SET session_replication_role = replica;
SHOW statement_timeout;
RESET statement_timeout;
SHOW statement_timeout;
RESET holdfast.backend;
SET statement_timeout = 0;
SHOW statement_timeout;

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
