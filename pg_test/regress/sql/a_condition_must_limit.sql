-- An UPDATE or DELETE of an unproven backend needs a condition that leaves rows out.
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

SET holdfast.backend = 'rebuilt';
SET enable_seqscan = on;
DELETE FROM orders;
UPDATE orders SET note = 'x' WHERE true;
UPDATE orders SET note = 'x' WHERE id = id;
DELETE FROM orders WHERE id IS NOT NULL OR note = 'b';
DELETE FROM orders USING plans;
MERGE INTO orders USING (VALUES (1)) AS v (n) ON true WHEN MATCHED THEN UPDATE SET note = 'x';
PREPARE everything AS DELETE FROM orders WHERE $1;
EXECUTE everything (true);
UPDATE orders SET note = 'limited' WHERE tenant_id = 20;
MERGE INTO orders USING (VALUES (3)) AS v (n) ON id = n WHEN MATCHED THEN UPDATE SET note = 'merged';
-- Legacy may.
RESET holdfast.backend;
BEGIN; UPDATE plans SET name = 'x'; ROLLBACK;
DEALLOCATE everything;

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
