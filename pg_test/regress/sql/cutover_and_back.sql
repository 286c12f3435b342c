-- A tenant goes to the rebuilt backend and back; its history and its state can be read.
SET client_min_messages = warning;
CREATE EXTENSION holdfast;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int);
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT holdfast.guard_table('orders', 'tenant_id');
SELECT holdfast.allow_writes('rebuilt', 'orders');
SELECT holdfast.set_mode('enforce');
SELECT holdfast.owner_of('42');
INSERT INTO orders VALUES (1, 42);
SELECT tenant, from_backend, to_backend, epoch, paused < '2 s' AS in_time FROM holdfast.cutover('42', 'rebuilt');
INSERT INTO orders VALUES (2, 42);
SET holdfast.backend = 'rebuilt';
INSERT INTO orders VALUES (2, 42);
RESET holdfast.backend;
SELECT tenant, from_backend, to_backend, epoch FROM holdfast.rollback_cutover('42');
INSERT INTO orders VALUES (3, 42);
SELECT holdfast.freeze('42', 'import');
INSERT INTO orders VALUES (4, 42);
SELECT holdfast.unfreeze('42');
INSERT INTO orders VALUES (4, 42);
SELECT tenant, owner, state, epoch, previous_owner FROM holdfast.tenants;
SELECT tenant, action, from_backend, to_backend, epoch, reason FROM holdfast.ownership_history;
SELECT item, value FROM holdfast.status WHERE item NOT IN ('phase', 'ends on', 'audit', 'queue');

-- What was done is told again.
SELECT tenant, from_backend, to_backend, epoch FROM holdfast.cutover('42', 'legacy');

-- What can't be done changes nothing.
SELECT * FROM holdfast.cutover('42', 'nobody');
SELECT * FROM holdfast.cutover('forty-two', 'rebuilt');
SELECT * FROM holdfast.rollback_cutover('7');
SELECT holdfast.unfreeze('42');
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
BEGIN;
SELECT epoch FROM holdfast.cutover('42', 'rebuilt');
SELECT epoch FROM holdfast.cutover('43', 'rebuilt');
ROLLBACK;
SELECT tenant, owner, epoch FROM holdfast.tenants;
SELECT * FROM orders ORDER BY id;
SELECT holdfast.break_glass('the migration is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE orders;
