-- Nobody takes the guard apart, a superuser of the legacy backend included, but an operator in break-glass.
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

ALTER TABLE orders DISABLE TRIGGER "~holdfast_guard";
ALTER TABLE orders DISABLE TRIGGER ALL;
DROP TRIGGER "~holdfast_guard" ON orders;
ALTER TRIGGER "~holdfast_guard" ON orders RENAME TO "a";
ALTER TABLE orders RENAME tenant_id TO other;
ALTER TABLE orders ALTER tenant_id TYPE bigint;
ALTER TABLE orders ALTER tenant_id TYPE int USING 20;
ALTER TABLE items ALTER order_id TYPE int USING 2;
ALTER TABLE items DROP CONSTRAINT items_order_id_fkey;
UPDATE holdfast.ownership SET owner = 'rebuilt';
DELETE FROM holdfast.event;
TRUNCATE holdfast.classified_table;
CREATE TABLE holdfast.mine (id int);
ALTER SCHEMA holdfast RENAME TO gone;
DROP EXTENSION holdfast CASCADE;
-- A table goes with its guard; columns that tell no tenant are free.
BEGIN; ALTER TABLE orders ADD COLUMN extra int; ALTER TABLE orders DROP COLUMN note; DROP TABLE items; ROLLBACK;
SELECT relation, class, guard, finding FROM holdfast.coverage WHERE relation IN ('orders', 'items', 'plans') ORDER BY 1;

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
