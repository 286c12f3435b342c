-- A row without a tenant column belongs to the tenant of its parent row, or of its table.
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

CREATE SCHEMA acme; CREATE TABLE acme.notes (id int);
SELECT holdfast.guard_table('acme.notes', tenant => 'acme'), holdfast.allow_writes('rebuilt', 'acme.notes');
SET holdfast.backend = 'rebuilt';
UPDATE items SET note = 'x' WHERE id = 12;
UPDATE items SET note = 'x' WHERE id = 11;
INSERT INTO items VALUES (20, 2), (21, 4);
INSERT INTO items VALUES (22, 1);
INSERT INTO items VALUES (23, NULL);
INSERT INTO items VALUES (24, 4711);
UPDATE items SET order_id = 1 WHERE id = 12;
INSERT INTO acme.notes VALUES (1);
RESET holdfast.backend;
UPDATE items SET note = 'x' WHERE id = 11;
UPDATE items SET note = 'x' WHERE id = 12;
INSERT INTO acme.notes VALUES (1);
SELECT tenant FROM holdfast.cutover('acme', 'rebuilt');
INSERT INTO acme.notes VALUES (2);
SET holdfast.backend = 'rebuilt';
INSERT INTO acme.notes VALUES (2);
RESET holdfast.backend;
SELECT * FROM items ORDER BY id;
SELECT * FROM acme.notes ORDER BY id;
DROP SCHEMA acme CASCADE;

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
