-- The owner table of contenders that have to bring their own. A tenant that isn't listed belongs to legacy.
CREATE TABLE owners (tenant text PRIMARY KEY, owner text NOT NULL);
INSERT INTO owners SELECT n::text, 'app' FROM generate_series(0, $TENANTS) n
    UNION SELECT 'tenant ' || n, 'app' FROM generate_series(0, $TENANTS) n
    UNION SELECT (md5(n::text)::uuid)::text, 'app' FROM generate_series(0, $TENANTS) n;
ANALYZE owners;
GRANT SELECT ON owners TO app;
