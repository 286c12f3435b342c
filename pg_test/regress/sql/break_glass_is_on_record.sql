-- An operator can break the glass: for a reason, for a time, and on record.
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

UPDATE orders SET note = 'x' WHERE id = 2;
SELECT holdfast.break_glass('');
SELECT holdfast.break_glass('ticket 4711', '2 days');
SELECT holdfast.break_glass('ticket 4711');
UPDATE orders SET note = 'mended' WHERE id = 2;
ALTER TABLE orders DISABLE TRIGGER "~holdfast_guard"; ALTER TABLE orders ENABLE ALWAYS TRIGGER "~holdfast_guard";
SELECT holdfast.end_break_glass();
UPDATE orders SET note = 'y' WHERE id = 2;
BEGIN; SELECT holdfast.break_glass('for one transaction', scope => 'transaction');
UPDATE orders SET note = 'mended again' WHERE id = 3;
COMMIT;
UPDATE orders SET note = 'y' WHERE id = 3;

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
