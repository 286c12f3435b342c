-- TRUNCATE fires no row trigger. It is refused wherever it could reach a tenant that somebody else owns.
SET client_min_messages = warning;
CREATE EXTENSION holdfast;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int);
CREATE TABLE items (id int REFERENCES orders, tenant_id int);
CREATE TABLE plans (id int PRIMARY KEY);
CREATE TABLE prices (plan int REFERENCES plans, order_id int REFERENCES orders);
CREATE TABLE log (id int, tenant_id int) PARTITION BY LIST (id);
CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1);
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT holdfast.guard_table('orders', 'tenant_id'), holdfast.guard_table('items', 'tenant_id'), holdfast.guard_table('log', 'tenant_id');
SELECT holdfast.guard_global('plans');
SELECT holdfast.set_mode('enforce');

-- As long as legacy owns every tenant it may.
TRUNCATE orders CASCADE;
SELECT epoch FROM holdfast.cutover('20', 'rebuilt');
TRUNCATE items;
TRUNCATE orders CASCADE;
TRUNCATE log;
TRUNCATE log_1;
TRUNCATE plans CASCADE;
TRUNCATE prices, items;
DO $$ BEGIN TRUNCATE items; END $$;
SELECT epoch FROM holdfast.rollback_cutover('20');
TRUNCATE items;

-- The rebuilt backend empties nothing but its own.
SELECT holdfast.exempt_table('prices', 'rebuilt');
SET holdfast.backend = 'rebuilt';
TRUNCATE plans CASCADE;
TRUNCATE orders CASCADE;
TRUNCATE prices;
CREATE TEMP TABLE scratch (id int);
TRUNCATE scratch;
RESET holdfast.backend;
SELECT rule, command, relation, tenant, owner FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the migration is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE orders, items, plans, prices, log, scratch;
