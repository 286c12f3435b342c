-- What a DBA's jobs do at night, on tables whose tenants belong to several backends.

\echo == vacuum and statistics
VACUUM;
VACUUM (FULL, FREEZE) orders;
VACUUM FULL log;
VACUUM (ANALYZE, PARALLEL 2) assets, customers;
ANALYZE;
ANALYZE orders (tenant_id);
CREATE STATISTICS order_tenants ON tenant_id, customer FROM orders;
ALTER TABLE orders ALTER COLUMN note SET STATISTICS 500, ALTER COLUMN tenant_id SET STATISTICS 500;
ANALYZE orders;
SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'orders';

\echo == reordering
CLUSTER orders USING orders_pkey;
CLUSTER orders;
CLUSTER;
REINDEX TABLE orders;
REINDEX (CONCURRENTLY) TABLE orders;
REINDEX INDEX orders_note;
REINDEX TABLE CONCURRENTLY log;
REINDEX SCHEMA public;
CREATE INDEX CONCURRENTLY orders_state ON orders (state);
CREATE UNIQUE INDEX CONCURRENTLY orders_net ON orders (net);
DROP INDEX CONCURRENTLY IF EXISTS orders_net;
DROP INDEX CONCURRENTLY orders_state;
CREATE INDEX ON log (at);
ALTER TABLE orders SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01), SET TABLESPACE pg_default;
ALTER TABLE sessions SET LOGGED;
ALTER INDEX orders_note RENAME TO orders_note_lower;
COMMENT ON TABLE orders IS 'orders of all tenants';

\echo == materialized views
REFRESH MATERIALIZED VIEW order_counts;
REFRESH MATERIALIZED VIEW CONCURRENTLY order_counts;
REFRESH MATERIALIZED VIEW order_counts WITH NO DATA;
REFRESH MATERIALIZED VIEW order_counts;
SELECT * FROM order_counts ORDER BY 1;

\echo == partitions come and go
CREATE TABLE log_next PARTITION OF log_new FOR VALUES IN (60);
INSERT INTO log VALUES (60, '2025-01-01', 'next');
ALTER TABLE log_new DETACH PARTITION log_next;
ALTER TABLE log_new ATTACH PARTITION log_next FOR VALUES IN (60);
ALTER TABLE log DETACH PARTITION log_old CONCURRENTLY;
DROP TABLE log_old;
SELECT count(*) FROM log;

\echo == a table is copied and swapped, as tools without privileges do it
CREATE TABLE copied (LIKE by_bigint INCLUDING ALL);
INSERT INTO copied SELECT * FROM by_bigint;
BEGIN;
LOCK TABLE by_bigint;
ALTER TABLE by_bigint RENAME TO by_bigint_old;
ALTER TABLE copied RENAME TO by_bigint;
COMMIT;
INSERT INTO by_bigint VALUES (7, 10);
SELECT * FROM by_bigint ORDER BY id;
DROP TABLE by_bigint_old;

\echo == a table is copied while a trigger logs what changes meanwhile
CREATE TABLE changes (n bigserial PRIMARY KEY, id int, gone bool);
CREATE FUNCTION log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (id, gone) VALUES (coalesce(NEW.id, OLD.id), NEW IS NULL);
    RETURN NULL;
END $$;
CREATE TRIGGER log_change AFTER INSERT OR UPDATE OR DELETE ON by_text FOR EACH ROW EXECUTE FUNCTION log_change();
CREATE TABLE fresh (LIKE by_text INCLUDING ALL EXCLUDING INDEXES);
INSERT INTO fresh SELECT * FROM by_text;
UPDATE by_text SET id = id + 50 WHERE tenant = '10';
INSERT INTO by_text VALUES (8, '30');
DELETE FROM by_text WHERE id = 8;
CREATE UNIQUE INDEX fresh_key ON fresh (id);
ALTER TABLE fresh ADD CONSTRAINT fresh_pkey PRIMARY KEY USING INDEX fresh_key;
WITH done AS (DELETE FROM changes RETURNING *) SELECT id, gone FROM done ORDER BY n;
DROP TRIGGER log_change ON by_text;
DROP TABLE fresh, changes;

\echo == privileges and owners
GRANT SELECT ON orders TO PUBLIC;
REVOKE SELECT ON orders FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM PUBLIC;
