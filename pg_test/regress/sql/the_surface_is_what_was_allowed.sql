-- What an unproven backend may write is what was allowed: tables, commands, columns.
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

CREATE TABLE fresh (id int);
SELECT holdfast.allow_writes('rebuilt', 'orders', '{insert}'), holdfast.disallow_writes('rebuilt', 'orders', '{delete}');
SELECT holdfast.allow_writes('rebuilt', 'orders', '{update}', columns => '{note}');
SELECT backend, relation, command, columns FROM holdfast.write_surface;
SET holdfast.backend = 'rebuilt';
INSERT INTO orders VALUES (5, 20);
UPDATE orders SET note = 'x' WHERE id = 2;
UPDATE orders SET tenant_id = 20 WHERE id = 2;
DELETE FROM orders WHERE id = 2;
INSERT INTO orders VALUES (5, 20) ON CONFLICT (id) DO UPDATE SET tenant_id = 20;
INSERT INTO orders VALUES (5, 20) ON CONFLICT (id) DO UPDATE SET note = 'upserted';
MERGE INTO orders USING (VALUES (5)) v (n) ON id = n WHEN MATCHED THEN DELETE;
INSERT INTO plans VALUES (1, 'basic');
INSERT INTO fresh VALUES (1);
UPDATE orders SET note = 'x' WHERE id = 9;
RESET holdfast.backend;
SELECT holdfast.set_default_backend(NULL);
INSERT INTO plans VALUES (2, 'nobody''s');
SELECT holdfast.set_default_backend('legacy');
SELECT holdfast.freeze('10', 'audit');
UPDATE orders SET note = 'x' WHERE id = 1;
SELECT holdfast.unfreeze('10');
DROP TABLE fresh;

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
