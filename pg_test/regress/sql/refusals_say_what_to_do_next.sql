-- A DBA reads a refusal: who tried what on whose tenant, and what to type next.
SET client_min_messages = warning;
CREATE EXTENSION holdfast;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int, note text);
CREATE TABLE plans (id int PRIMARY KEY, name text);
INSERT INTO orders VALUES (1, 10), (2, 20), (3, 30);
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT holdfast.guard_table('orders', 'tenant_id');
SELECT holdfast.guard_global('plans');
SELECT holdfast.set_mode('enforce');
SELECT tenant, from_backend, to_backend, epoch FROM holdfast.cutover('20', 'rebuilt');
SELECT holdfast.freeze('30', 'data audit until Monday');

-- The superuser is a session of the default backend, and bound by ownership like the application.
SELECT backend, trust, source, mode FROM holdfast.whoami();
UPDATE orders SET note = 'x' WHERE id = 2;
INSERT INTO orders VALUES (4, 30);
TRUNCATE orders;

-- From here on this session says that it is the rebuilt backend, which restricts it.
SET holdfast.backend = 'rebuilt';
SELECT backend, trust, source FROM holdfast.whoami();
UPDATE orders SET note = 'x' WHERE id = 2;
RESET holdfast.backend;
SELECT holdfast.allow_writes('rebuilt', 'orders', '{insert,update}', '{id,tenant_id}');
SET holdfast.backend = 'rebuilt';
UPDATE orders SET note = 'x' WHERE id = 2;
UPDATE orders SET tenant_id = 21 WHERE id = 2;
UPDATE orders SET tenant_id = 20;
INSERT INTO orders (id) VALUES (5);
INSERT INTO plans VALUES (1, 'basic');
DROP TABLE orders CASCADE;
SET holdfast.backend = 'rebiult';
INSERT INTO orders VALUES (5, 20);
RESET holdfast.backend;

-- Nothing was written, and every refusal is on record.
SELECT * FROM orders ORDER BY id;
SELECT backend, rule, sqlstate, command, relation, tenant, owner FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the migration is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE orders, plans;
