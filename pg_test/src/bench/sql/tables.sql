-- What every contender has: the tables of pgbench, and these. $ROWS and $TENANTS are the scale's.
CREATE TABLE items (id int PRIMARY KEY, tenant int NOT NULL, amount int NOT NULL, note text);
INSERT INTO items SELECT n, n % $TENANTS, n, 'note ' || n FROM generate_series(1, $ROWS) n;

-- Rows of one tenant.
CREATE TABLE hot (id int PRIMARY KEY, tenant int NOT NULL, amount int NOT NULL, note text);
INSERT INTO hot SELECT n, 1, n, 'note ' || n FROM generate_series(1, $ROWS) n;

-- The tenant is the last of 64 columns.
DO $$
BEGIN
    EXECUTE (SELECT 'CREATE TABLE wide (id int PRIMARY KEY, '
                 || string_agg(CASE n % 3 WHEN 0 THEN format('c%s text', n) ELSE format('c%s int', n) END, ', ')
                 || ', tenant int NOT NULL)' FROM generate_series(2, 63) n);
    EXECUTE (SELECT 'INSERT INTO wide SELECT i, '
                 || string_agg(CASE n % 3 WHEN 0 THEN '''text''' ELSE 'i' END, ', ')
                 || ', i % $TENANTS FROM generate_series(1, $ROWS / 10) i' FROM generate_series(2, 63) n);
END
$$;

CREATE TABLE by_uuid (id int PRIMARY KEY, tenant uuid NOT NULL, amount int NOT NULL);
INSERT INTO by_uuid SELECT n, md5((n % $TENANTS)::text)::uuid, n FROM generate_series(1, $ROWS / 10) n;
CREATE TABLE by_text (id int PRIMARY KEY, tenant text NOT NULL, amount int NOT NULL);
INSERT INTO by_text SELECT n, 'tenant ' || n % $TENANTS, n FROM generate_series(1, $ROWS / 10) n;

-- Rows that have their tenants from a parent, one foreign key away and three.
CREATE TABLE parents (id int PRIMARY KEY, tenant int NOT NULL);
INSERT INTO parents SELECT n, n % $TENANTS FROM generate_series(1, $ROWS / 10) n;
CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES parents);
INSERT INTO children SELECT n, n FROM generate_series(1, $ROWS / 10) n;
CREATE TABLE grandchildren (id int PRIMARY KEY, parent int NOT NULL REFERENCES children);
INSERT INTO grandchildren SELECT n, n FROM generate_series(1, $ROWS / 10) n;
CREATE TABLE great_grandchildren (id int PRIMARY KEY, parent int NOT NULL REFERENCES grandchildren);

CREATE TABLE parted (id int PRIMARY KEY, tenant int NOT NULL, amount int NOT NULL) PARTITION BY HASH (id);
DO $$
BEGIN
    FOR n IN 0..99 LOOP
        EXECUTE format('CREATE TABLE parted_%s PARTITION OF parted FOR VALUES WITH (MODULUS 100, REMAINDER %s)', n, n);
    END LOOP;
END
$$;
INSERT INTO parted SELECT n, n % $TENANTS, n FROM generate_series(1, $ROWS / 10) n;

-- What a client does that can't tell beforehand whether a row is there.
CREATE FUNCTION insert_with_savepoints(rows int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..rows LOOP
        BEGIN
            INSERT INTO hot VALUES (-n, 1, n, 'note');
        EXCEPTION WHEN unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;

GRANT ALL ON ALL TABLES IN SCHEMA public TO app, app_rebuilt;
