-- The tables of the cases. Each guarded table has a row trigger of its own, because any BEFORE ROW trigger makes COPY
-- insert row by row, which shows in the CONTEXT of its errors.
CREATE ROLE legacy_app LOGIN;
CREATE ROLE rebuilt_app LOGIN;
-- roles end here

CREATE FUNCTION as_it_is() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF TG_OP = ''DELETE'' THEN RETURN OLD; END IF; RETURN NEW; END';

CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (
    tenant int NOT NULL,
    id int,
    country text REFERENCES countries,
    amount numeric(6, 2) CONSTRAINT amount_is_positive CHECK (amount > 0),
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED,
    code varchar(5) UNIQUE,
    serial_number int GENERATED ALWAYS AS IDENTITY,
    secret text,
    PRIMARY KEY (tenant, id)
);
CREATE TABLE lines (
    tenant int NOT NULL, order_id int NOT NULL, n int, mark int, CONSTRAINT lines_mark UNIQUE (mark) DEFERRABLE INITIALLY IMMEDIATE,
    FOREIGN KEY (tenant, order_id) REFERENCES orders ON UPDATE CASCADE
);
CREATE TABLE rooms (tenant int NOT NULL, room int4range, EXCLUDE USING gist (room WITH &&));
CREATE DOMAIN percentage AS int CONSTRAINT percentage_in_range CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE slots (tenant int NOT NULL, at timestamptz, share percentage, colour text) PARTITION BY RANGE (at);
CREATE TABLE slots_2024 PARTITION OF slots FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE measures (tenant int NOT NULL, value int, small smallint, at date, doc jsonb, mark uuid);
CREATE TABLE logged (tenant int NOT NULL, value int);
CREATE TABLE kept (tenant int NOT NULL, value int);
CREATE TABLE held (tenant int NOT NULL, value int, PRIMARY KEY (tenant));
CREATE TABLE exempt (id int PRIMARY KEY);
CREATE TABLE exempt_child (id int REFERENCES exempt);
CREATE TABLE hidden (id int);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY '{orders,lines,rooms,slots,measures,logged,kept,held,countries}'::text[] LOOP
        EXECUTE format('CREATE TRIGGER as_it_is BEFORE INSERT OR UPDATE OR DELETE ON %I '
                       'FOR EACH ROW EXECUTE FUNCTION as_it_is()', name);
    END LOOP;
END $$;

INSERT INTO countries VALUES ('no', 'Norway');
INSERT INTO orders (tenant, id, country, amount, code)
SELECT tenant, id, 'no', 10, tenant || '-' || id FROM generate_series(1, 2) tenant, generate_series(1, 3) id;
INSERT INTO lines SELECT tenant, 1, 1, tenant FROM generate_series(1, 2) tenant;
INSERT INTO rooms SELECT tenant, int4range(tenant * 10, tenant * 10 + 5) FROM generate_series(1, 2) tenant;
INSERT INTO slots SELECT tenant, '2024-06-01', 50, 'red' FROM generate_series(1, 2) tenant;
INSERT INTO measures SELECT tenant, 1, 1, '2024-01-01', '{"a": 1}' FROM generate_series(1, 2) tenant;
INSERT INTO kept SELECT tenant, 1 FROM generate_series(1, 2) tenant;
INSERT INTO held SELECT tenant, 1 FROM generate_series(1, 2) tenant;

CREATE FUNCTION refuse_negative() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.value < 0 THEN
        RAISE EXCEPTION 'value % is negative', NEW.value
        USING ERRCODE = 'Z0001', DETAIL = 'a detail', HINT = 'a hint', COLUMN = 'value', CONSTRAINT = 'no_negative',
              TABLE = TG_TABLE_NAME, SCHEMA = TG_TABLE_SCHEMA, DATATYPE = 'int4';
    END IF;
    PERFORM 1 / NEW.value;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_negative BEFORE INSERT OR UPDATE ON logged FOR EACH ROW EXECUTE FUNCTION refuse_negative();
CREATE FUNCTION refuse_nine() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF NEW.value = 9 THEN RAISE ''nine'' USING ERRCODE = ''check_violation''; END IF; RETURN NULL; END';
CREATE TRIGGER refuse_nine AFTER INSERT ON logged FOR EACH ROW EXECUTE FUNCTION refuse_nine();
CREATE CONSTRAINT TRIGGER refuse_nine_late AFTER UPDATE ON kept DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse_nine();

CREATE FUNCTION inner_insert(tenant int, value int) RETURNS void LANGUAGE plpgsql AS
    'BEGIN INSERT INTO logged VALUES (tenant, value); END';
CREATE FUNCTION outer_insert(tenant int, value int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE twice int := value * 2;
BEGIN
    FOR n IN 1..2 LOOP PERFORM inner_insert(tenant, twice); END LOOP;
END $$;
CREATE FUNCTION sql_insert(tenant int, amount numeric) RETURNS void
    BEGIN ATOMIC INSERT INTO orders (tenant, id, amount) VALUES (tenant, 77, amount); END;
CREATE FUNCTION sql_divide(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT a / b';
CREATE FUNCTION endless(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN endless(n + 1); END';
CREATE FUNCTION endless_insert() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO kept VALUES (NEW.tenant, NEW.value + 1); RETURN NEW; END';
CREATE TRIGGER endless_insert BEFORE INSERT ON kept FOR EACH ROW WHEN (NEW.value > 1000) EXECUTE FUNCTION endless_insert();
CREATE FUNCTION ambiguous(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION ambiguous(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE commit_midway() LANGUAGE plpgsql AS 'BEGIN COMMIT; PERFORM 1 / 0; END';
CREATE FUNCTION swallow(tenant int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE message text; detail text; hint text; context text; constraint_ text; table_ text; code text;
BEGIN
    INSERT INTO orders (tenant, id) VALUES (tenant, 1);
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT,
        context = PG_EXCEPTION_CONTEXT, constraint_ = CONSTRAINT_NAME, table_ = TABLE_NAME, code = RETURNED_SQLSTATE;
    RETURN concat_ws('|', code, message, detail, hint, context, constraint_, table_);
END $$;

CREATE VIEW ratios AS SELECT tenant, 1 / (id - 1) AS ratio FROM orders;
CREATE VIEW totals AS SELECT tenant, sum(amount) AS total FROM orders GROUP BY tenant;
CREATE VIEW cheap AS SELECT tenant, id, amount FROM orders WHERE amount < 100 WITH CHECK OPTION;
CREATE MATERIALIZED VIEW snapshot AS SELECT tenant FROM orders;

GRANT ALL ON ALL TABLES IN SCHEMA public TO legacy_app, rebuilt_app;
REVOKE ALL ON hidden FROM legacy_app, rebuilt_app;
REVOKE ALL ON orders FROM legacy_app, rebuilt_app;
GRANT DELETE, TRUNCATE, REFERENCES, TRIGGER ON orders TO legacy_app, rebuilt_app;
GRANT SELECT (tenant, id, country, amount, doubled, code, serial_number), UPDATE (tenant, id, country, amount, doubled, code, serial_number), INSERT
    ON orders TO legacy_app, rebuilt_app;
GRANT CREATE ON SCHEMA public TO legacy_app, rebuilt_app;
