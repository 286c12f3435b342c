-- What an application does to every tenant's rows, in the ways applications have. Sections begin with ==.

\echo == writes of every tenant
UPDATE orders SET note = 'all';
UPDATE orders SET net = net + 1 WHERE net > 2 RETURNING id, tenant_id, net;
INSERT INTO orders (tenant_id, net) SELECT t, t FROM unnest(ARRAY[10, 20, 30, 40, 50, NULL]) AS t RETURNING tenant_id;
DELETE FROM orders WHERE net > 4 RETURNING tenant_id;
UPDATE orders SET tenant_id = tenant_id + 1 WHERE net = 1;
UPDATE log SET at = at - 400;
DELETE FROM log USING plans WHERE plans.id = 1;
INSERT INTO log SELECT t, d FROM unnest(ARRAY[10, 20, 30]) AS t, unnest('{2023-01-01,2024-01-01}'::date[]) AS d;
UPDATE assets SET name = upper(name);
DELETE FROM ONLY assets;
UPDATE plans SET name = name || '!';
INSERT INTO by_uuid SELECT n, gen_random_uuid() FROM generate_series(10, 200) AS n;
UPDATE by_text SET tenant = tenant || 'x';
UPDATE order_items SET order_id = order_id + 1;
INSERT INTO order_items (order_id) SELECT id FROM orders RETURNING id;
INSERT INTO shipments (item_id) SELECT id FROM order_items;
DELETE FROM order_items WHERE id % 3 = 0;
UPDATE tenant_20.settings SET value = 'red';
INSERT INTO ledger VALUES (2, 'b');
INSERT INTO sessions VALUES (1, '2024-01-01');

\echo == writes in one statement that aren't one command
WITH gone AS (DELETE FROM by_bigint RETURNING *), back AS (INSERT INTO by_bigint SELECT id + 100, tenant FROM gone RETURNING *)
SELECT * FROM back ORDER BY id;
INSERT INTO customers (id, tenant_id, name) VALUES (1, 10, 'again'), (99, 20, 'new')
ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING id, name;
INSERT INTO plans VALUES (1, 'x') ON CONFLICT DO NOTHING;
MERGE INTO by_varchar AS t USING (VALUES (1, '10'), (3, '30')) AS s (id, tenant) ON t.id = s.id
WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.tenant);
UPDATE orders SET note = c.name FROM customers c WHERE c.id = orders.customer;
UPDATE paid_orders SET note = 'paid';
DELETE FROM orders o USING plans p WHERE p.id = o.plan AND p.name = 'plan 3!';

\echo == cascades and deferred constraints
DELETE FROM customers WHERE id = 2;
SELECT count(*) FROM orders WHERE customer = 2;
BEGIN;
ALTER TABLE orders ALTER CONSTRAINT orders_plan_fkey DEFERRABLE INITIALLY DEFERRED;
UPDATE orders SET plan = 77;
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK;
UPDATE orders SET plan = 77;

\echo == savepoints as an ORM sets them
BEGIN;
SAVEPOINT active_record_1;
INSERT INTO plans VALUES (1, 'twice');
ROLLBACK TO SAVEPOINT active_record_1;
UPDATE orders SET note = 'after a savepoint';
SAVEPOINT active_record_1;
SAVEPOINT active_record_2;
INSERT INTO orders (tenant_id) VALUES (60), (61);
RELEASE SAVEPOINT active_record_2;
ROLLBACK TO SAVEPOINT active_record_1;
SELECT count(*) FROM orders WHERE tenant_id >= 60;
COMMIT;

\echo == functions
CREATE FUNCTION bill(who int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE changed int; total int := 0; r record;
BEGIN
    FOR r IN SELECT DISTINCT tenant_id FROM orders WHERE tenant_id IS NOT NULL LOOP
        BEGIN
            UPDATE orders SET net = net + who WHERE tenant_id = r.tenant_id;
            GET DIAGNOSTICS changed = ROW_COUNT;
            total := total + changed;
            IF r.tenant_id = 30 THEN RAISE EXCEPTION 'not this one'; END IF;
        EXCEPTION WHEN raise_exception THEN RAISE NOTICE '% for %', SQLERRM, r.tenant_id;
        END;
    END LOOP;
    EXECUTE 'DELETE FROM by_smallint';
    RETURN total;
END $$;
SELECT bill(1);
SELECT bill(1);
CREATE FUNCTION bill_all() RETURNS bigint LANGUAGE sql SECURITY DEFINER
BEGIN ATOMIC
    UPDATE orders SET note = 'atomic';
    SELECT count(*) FROM orders WHERE note LIKE 'atomic%';
END;
SELECT bill_all();
DO $$ BEGIN UPDATE plans SET name = 'p' || id; COMMIT; UPDATE plans SET name = 'q' || id; ROLLBACK; END $$;
SELECT name FROM plans ORDER BY id;
CREATE PROCEDURE sweep() LANGUAGE plpgsql AS $$
BEGIN FOR n IN 1..3 LOOP UPDATE orders SET note = n::text; COMMIT; END LOOP; END $$;
CALL sweep();

\echo == rules, views and triggers of the application
CREATE RULE keep AS ON DELETE TO ledger DO INSTEAD UPDATE ledger SET line = 'kept' WHERE id = OLD.id;
DELETE FROM ledger;
SELECT * FROM ledger ORDER BY id;
CREATE VIEW seen AS SELECT id, note FROM orders;
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN UPDATE orders SET note = NEW.note WHERE id = NEW.id; RETURN NEW; END $$;
CREATE TRIGGER see INSTEAD OF UPDATE ON seen FOR EACH ROW EXECUTE FUNCTION see();
UPDATE seen SET note = 'seen';
DROP VIEW seen; DROP FUNCTION see; DROP RULE keep ON ledger;

\echo == prepared statements, past the point where plans become generic
PREPARE touch (int) AS UPDATE orders SET note = 'prepared' WHERE tenant_id = $1;
EXECUTE touch (10); EXECUTE touch (20); EXECUTE touch (30); EXECUTE touch (40); EXECUTE touch (10); EXECUTE touch (20); EXECUTE touch (30);
DEALLOCATE touch;

\echo == cursors
BEGIN;
DECLARE kept SCROLL CURSOR WITH HOLD FOR SELECT id, tenant_id FROM orders ORDER BY id;
DECLARE each CURSOR FOR SELECT id, net FROM orders WHERE net IS NOT NULL FOR UPDATE;
FETCH 1 FROM each;
UPDATE orders SET note = 'here' WHERE CURRENT OF each;
MOVE 1 FROM each;
DELETE FROM orders WHERE CURRENT OF each;
COMMIT;
FETCH 3 FROM kept;
UPDATE orders SET note = 'behind a held cursor';
FETCH BACKWARD 2 FROM kept;
CLOSE kept;

\echo == COPY
COPY orders (tenant_id, note) FROM STDIN;
10	a
20	b
\N	c
\.
COPY log FROM STDIN (FORMAT csv, HEADER);
tenant_id,at,line
20,2020-02-02,x
77,2025-02-02,y
\.
COPY (SELECT tenant_id, count(*) FROM orders GROUP BY 1 ORDER BY 1) TO STDOUT (FORMAT csv);
COPY plans TO STDOUT;
COPY orders (tenant_id, plan) FROM STDIN;
10	999
\.
\copy (SELECT * FROM plans ORDER BY id) TO STDOUT
BEGIN; CREATE TABLE loaded (LIKE plans); COPY loaded FROM STDIN (FREEZE);
1	x
\.
COMMIT; DROP TABLE loaded;

\echo == temporary tables
CREATE TEMP TABLE work ON COMMIT DROP AS SELECT * FROM orders;
BEGIN; CREATE TEMP TABLE work ON COMMIT DELETE ROWS AS SELECT * FROM orders; UPDATE work SET note = 'x'; COMMIT; TABLE work;
CREATE TEMP TABLE plans (id int); INSERT INTO plans VALUES (1); DELETE FROM plans; DROP TABLE pg_temp.plans;
CREATE TEMP SEQUENCE numbers; SELECT nextval('numbers'); DISCARD TEMP;

\echo == transactions
BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) > 0 FROM orders; UPDATE orders SET note = 'serial'; COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT count(*) > 0 FROM orders; DELETE FROM orders; ROLLBACK;
BEGIN TRANSACTION READ ONLY; SELECT nextval('orders_id_seq'); ROLLBACK;
BEGIN; UPDATE orders SET note = 'chained'; COMMIT AND CHAIN; UPDATE plans SET name = name; ROLLBACK;
BEGIN; SELECT 1 / 0; UPDATE orders SET note = 'x'; COMMIT;

\echo == two-phase commit
BEGIN; UPDATE orders SET note = 'two phases'; DELETE FROM log; PREPARE TRANSACTION 'phase one';
SELECT gid FROM pg_prepared_xacts; COMMIT PREPARED 'phase one';
BEGIN; INSERT INTO orders (tenant_id) VALUES (10); PREPARE TRANSACTION 'never'; ROLLBACK PREPARED 'never';
BEGIN; CREATE TEMP TABLE t (id int); PREPARE TRANSACTION 'not with temporary tables';

\echo == locks
BEGIN; LOCK TABLE orders, plans IN ACCESS EXCLUSIVE MODE; LOCK log IN SHARE ROW EXCLUSIVE MODE; LOCK ONLY assets NOWAIT; COMMIT;
BEGIN; SELECT id FROM orders ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED; SELECT id FROM plans ORDER BY id FOR NO KEY UPDATE; COMMIT;
-- Any key: the guard's own locks are advisory locks of another class.
SELECT pg_advisory_lock(n), pg_advisory_lock(n, 18502), pg_advisory_lock(18503, n) FROM generate_series(-2, 2) AS n;
SELECT pg_advisory_xact_lock(-9223372036854775808), pg_try_advisory_lock(9223372036854775807), pg_try_advisory_xact_lock_shared(0);
SELECT count(*), sum(objsubid) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT pg_advisory_unlock_all();
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
UPDATE orders SET note = 'after unlocking all';

\echo == notifications
LISTEN orders; LISTEN holdfast_not; NOTIFY orders, 'changed'; SELECT pg_notify('orders', 'again'); UNLISTEN *;

\echo == large objects
SELECT lo_create(424242), lo_put(424242, 0, 'content');
BEGIN; SELECT lo_open(424242, x'60000'::int) AS fd \gset
SELECT lowrite(:fd, 'written'), lo_truncate(:fd, 3); COMMIT;
SELECT convert_from(lo_get(424242), 'UTF8'), lo_unlink(424242);

\echo == sequences
SELECT setval('orders_id_seq', 10000), nextval('orders_id_seq'), currval('orders_id_seq');
ALTER SEQUENCE orders_id_seq RESTART WITH 20000;
INSERT INTO orders (tenant_id) VALUES (20) RETURNING id;
INSERT INTO customers (id, tenant_id) OVERRIDING SYSTEM VALUE VALUES (5000, 20);

\echo == settings
SET statement_timeout = '1min'; SET LOCAL work_mem = '1MB'; SET search_path = public, pg_catalog; SET TIME ZONE 'UTC';
SET session_replication_role = replica;
SET ROLE nobody_there; SELECT set_config('application_name', 'worker 7', false); UPDATE orders SET note = 'renamed'; RESET ALL; DISCARD ALL;
UPDATE orders SET note = 'discarded';

\echo == plans
EXPLAIN (COSTS OFF) UPDATE orders SET note = 'x' WHERE id = 7;
EXPLAIN (COSTS OFF, VERBOSE) DELETE FROM log WHERE tenant_id = 20;
EXPLAIN (COSTS OFF) INSERT INTO orders (id, tenant_id) SELECT id, tenant_id FROM orders ON CONFLICT (id) DO UPDATE SET note = 'x';

\echo == hidden columns
UPDATE orders SET note = 'by ctid' WHERE ctid = (SELECT min(ctid) FROM orders);
SELECT tableoid::regclass, count(*) FROM assets GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM orders WHERE xmin IS NULL;

\echo == row security
ALTER TABLE customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON customers USING (tenant_id = 10) WITH CHECK (tenant_id = 10);
SELECT count(*) FROM customers; UPDATE customers SET name = 'mine'; INSERT INTO customers (tenant_id) VALUES (20);
DROP POLICY mine ON customers; ALTER TABLE customers NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;

\echo == errors
INSERT INTO orders (id, tenant_id) SELECT min(id), 10 FROM orders;
UPDATE orders SET gross = 1;
INSERT INTO orders (tenant_id) VALUES ('many');
INSERT INTO by_domain VALUES (9, '');
DELETE FROM plans;
UPDATE nothing SET x = 1;
SELECT * FROM orders WHERE note ~ '[';

\echo == everything goes
TRUNCATE orders;
TRUNCATE orders RESTART IDENTITY CASCADE;
TRUNCATE customers, log CASCADE;
SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM customers), (SELECT count(*) FROM log);
