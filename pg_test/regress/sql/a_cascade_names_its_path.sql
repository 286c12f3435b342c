-- What a DELETE takes with it through foreign keys is judged, and the refusal says how it came there.
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

CREATE TABLE scans (id int PRIMARY KEY, item_id int REFERENCES items ON DELETE CASCADE, tenant_id int);
CREATE TABLE rates (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE);
INSERT INTO scans VALUES (100, 12, 10), (101, 14, 20);
SELECT holdfast.guard_table('scans', 'tenant_id'), holdfast.guard_global('rates'), holdfast.allow_writes('rebuilt', 'scans');
SET holdfast.backend = 'rebuilt';
DELETE FROM orders WHERE id = 2;
DELETE FROM orders WHERE id = 4;
RESET holdfast.backend;
INSERT INTO rates VALUES (1, 3);
SET holdfast.backend = 'rebuilt';
DELETE FROM orders WHERE id = 3;
RESET holdfast.backend;
DELETE FROM rates;
INSERT INTO orders VALUES (50, 50); INSERT INTO items SELECT 500 + n, 50 FROM generate_series(1, 5) n;
SELECT tenant FROM holdfast.cutover('50', 'rebuilt');
SELECT holdfast.set_limits('rebuilt', cascade_rows => 4);
SET holdfast.backend = 'rebuilt';
DELETE FROM orders WHERE id = 50;
RESET holdfast.backend;
SELECT holdfast.set_limits('rebuilt', cascade_rows => 5);
SET holdfast.backend = 'rebuilt';
DELETE FROM orders WHERE id = 50;
RESET holdfast.backend;
DROP TABLE scans, rates;

-- What is in the tables, and what is on record.
RESET holdfast.backend;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE items, orders, plans;
