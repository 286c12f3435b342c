-- What a DELETE would take is told before it happens, and is what it then takes.
SET client_min_messages = warning;
CREATE EXTENSION holdfast;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int);
CREATE TABLE order_items (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders ON DELETE CASCADE);
CREATE TABLE shipments (id int PRIMARY KEY, item_id int NOT NULL REFERENCES order_items ON DELETE CASCADE);
CREATE TABLE complaints (id int PRIMARY KEY, shipment_id int REFERENCES shipments ON DELETE SET NULL, answers int REFERENCES complaints ON DELETE CASCADE);
CREATE TABLE invoices (number text PRIMARY KEY, order_id int REFERENCES orders);
INSERT INTO orders SELECT n, n % 2 FROM generate_series(1, 4) n;
INSERT INTO order_items SELECT n, (n - 1) / 2 + 1 FROM generate_series(1, 8) n;
INSERT INTO shipments SELECT n, n FROM generate_series(1, 8) n;
INSERT INTO complaints VALUES (1, 1, NULL), (2, NULL, 1), (3, 3, 1);
INSERT INTO invoices VALUES ('2026-3', 3);
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT relation, class, via, action FROM holdfast.guard_schema('public', dry_run => false);

SELECT * FROM holdfast.cascade_preview('orders', 'id < 3');
SELECT * FROM holdfast.cascade_preview('complaints', 'id = 1');

-- A foreign key that would stop it.
SELECT action, relation, rows, example FROM holdfast.cascade_preview('orders', 'tenant_id = 1') WHERE action = 'restricted';
DELETE FROM orders WHERE tenant_id = 1;

-- And it has changed nothing.
SELECT (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM shipments) AS shipments;
DELETE FROM orders WHERE id < 3;
SELECT (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM shipments) AS shipments, (SELECT count(shipment_id) FROM complaints) AS delivered;

-- The predicate is one condition, and reads only.
SELECT * FROM holdfast.cascade_preview('orders', 'true); DROP TABLE orders; --');
SELECT * FROM holdfast.cascade_preview('orders', 'true ORDER BY id');
CREATE FUNCTION clear() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN DELETE FROM orders; RETURN true; END $$;
SELECT * FROM holdfast.cascade_preview('orders', 'clear()');
SELECT * FROM holdfast.cascade_preview('holdfast.status');
DROP FUNCTION clear;
DROP EXTENSION holdfast CASCADE;
DROP TABLE orders, order_items, shipments, complaints, invoices;
