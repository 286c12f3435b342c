-- A statement of an unproven backend writes one tenant, counted by the rows that it writes.
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
UPDATE orders SET note = 'x' WHERE id IN (2, 4);
UPDATE orders SET note = 'y' WHERE id IN (2, 3);
UPDATE orders SET note = 'y' WHERE id = 2;
UPDATE orders SET note = 'y' WHERE id = 3;
INSERT INTO orders VALUES (5, 20), (6, 21);
UPDATE orders SET tenant_id = 21 WHERE id = 4;
WITH one AS (UPDATE orders SET note = 'z' WHERE id = 2) UPDATE orders SET note = 'z' WHERE id = 3;
DO $$BEGIN UPDATE orders SET note = 'z' WHERE id = 2; UPDATE orders SET note = 'z' WHERE id = 3; END$$;
RESET holdfast.backend;
SELECT holdfast.set_limits('rebuilt', tenants_per_statement => 2);
SET holdfast.backend = 'rebuilt';
UPDATE orders SET note = 'two' WHERE id IN (2, 3);
-- Legacy is never limited: every tenant of its own at once.
RESET holdfast.backend;
UPDATE orders SET note = 'legacy' WHERE id IN (1, 9);

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
