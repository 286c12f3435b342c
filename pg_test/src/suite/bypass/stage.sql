-- What the attempts are made on. Legacy owns the shop; the rebuilt backend has every privilege on it, a table of its own,
-- and may become legacy by SET ROLE. :legacy and :rebuilt are the login roles.
--
-- Tenants: 10, 30 legacy · 20, 21 rebuilt · 40 legacy, frozen · 50 rebuilt, frozen. 'acme' and the keys that stand with it rebuilt.

-- A server without contrib modules has no citext.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext') THEN CREATE EXTENSION citext;
    ELSE CREATE DOMAIN public.citext AS text; END IF;
END $$;
CREATE SCHEMA shop AUTHORIZATION :legacy;
CREATE SCHEMA carriers;
CREATE SCHEMA shop_view; CREATE SCHEMA shop_barrier; CREATE SCHEMA shop_instead; CREATE SCHEMA shop_rules;
GRANT ALL ON SCHEMA public TO :legacy, :rebuilt;

CREATE TABLE shop.orders (id int PRIMARY KEY, tenant_id int, note text, extra int, twice int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO shop.orders VALUES (1, 10), (11, 10), (2, 20), (3, 20), (21, 20), (22, 20), (23, 20), (4, 40), (5, 50), (9, NULL), (12, 21);
CREATE SEQUENCE shop.orders_seq;
SELECT nextval('shop.orders_seq') FROM generate_series(1, 5);

-- What hangs on orders: the row of another tenant, of everybody, of nobody knows whom.
CREATE TABLE shop.items (id int PRIMARY KEY, tenant_id int, note text,
    order_id int REFERENCES shop.orders ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO shop.items VALUES (1, 20, NULL, 2), (2, 10, NULL, 3), (3, 20, NULL, 23), (4, 10, NULL, 1);
CREATE TABLE shop.shipments (id int PRIMARY KEY, tenant_id int, note text, item_id int REFERENCES shop.items ON DELETE CASCADE);
INSERT INTO shop.shipments VALUES (1, 20, NULL, 1), (2, 10, NULL, 3);
CREATE TABLE shop.reviews (id int PRIMARY KEY, tenant_id int, note text, order_id int REFERENCES shop.orders ON DELETE SET NULL);
INSERT INTO shop.reviews VALUES (1, 10, NULL, 21);
CREATE TABLE shop.labels (id int PRIMARY KEY, tenant_id int, note text,
    order_id int DEFAULT 2 REFERENCES shop.orders ON DELETE SET DEFAULT);
INSERT INTO shop.labels VALUES (1, 10, NULL, 22);
CREATE TABLE shop.baskets (id int PRIMARY KEY, tenant_id int, note text);
CREATE TABLE shop.carts (id int PRIMARY KEY, tenant_id int, note text);
INSERT INTO shop.baskets VALUES (1, 20); INSERT INTO shop.carts VALUES (1, 20);
CREATE TABLE shop.stock (id int PRIMARY KEY, tenant_id int, note text, basket_id int REFERENCES shop.baskets ON DELETE CASCADE);
INSERT INTO shop.stock VALUES (1, NULL, NULL, 1);
CREATE TABLE shop.stray (id int PRIMARY KEY, tenant_id int, note text, cart_id int REFERENCES shop.carts ON DELETE CASCADE);
INSERT INTO shop.stray VALUES (1, NULL, NULL, 1);

CREATE TABLE shop.plans (id int PRIMARY KEY, tenant_id int, note text);
CREATE TABLE shop.loose (id int PRIMARY KEY, tenant_id int, note text);
CREATE TABLE shop.ledger (id int PRIMARY KEY, tenant_id int, note text);
INSERT INTO shop.plans VALUES (1); INSERT INTO shop.loose VALUES (1); INSERT INTO shop.ledger VALUES (1);

CREATE TABLE shop.log (id int, tenant_id int, note text, region text, day int, PRIMARY KEY (id, region, day)) PARTITION BY LIST (region);
CREATE TABLE shop.log_eu PARTITION OF shop.log FOR VALUES IN ('eu') PARTITION BY RANGE (day);
CREATE TABLE shop.log_eu_1 PARTITION OF shop.log_eu FOR VALUES FROM (0) TO (10);
-- Another order of columns than its parent's.
CREATE TABLE shop.log_eu_2 (day int NOT NULL, note text, tenant_id int, region text NOT NULL, id int NOT NULL);
ALTER TABLE shop.log_eu ATTACH PARTITION shop.log_eu_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE shop.log_us PARTITION OF shop.log FOR VALUES IN ('us');
INSERT INTO shop.log VALUES (1, 10, NULL, 'eu', 1), (2, 20, NULL, 'eu', 1), (3, 10, NULL, 'eu', 11), (4, 20, NULL, 'eu', 11),
    (5, 10, NULL, 'us', 1), (6, 20, NULL, 'us', 1);

CREATE TABLE shop.vehicles (id int PRIMARY KEY, tenant_id int, note text);
CREATE TABLE shop.trucks (load int, PRIMARY KEY (id)) INHERITS (shop.vehicles);
INSERT INTO shop.vehicles VALUES (1, 10), (2, 20); INSERT INTO shop.trucks VALUES (3, 10), (4, 20);

-- Tables whose tenant is told by a foreign key, over two of them, or once for all rows.
CREATE TABLE shop.lines (id int PRIMARY KEY, tenant_id int, note text, order_id int REFERENCES shop.orders DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE shop.taxes (id int PRIMARY KEY, tenant_id int, note text, line_id int REFERENCES shop.lines);
INSERT INTO shop.lines VALUES (1, 20, NULL, 1), (2, 20, NULL, 12), (9, 20, NULL, NULL);
SET CONSTRAINTS ALL IMMEDIATE;
INSERT INTO shop.taxes VALUES (1, 20, NULL, 1), (2, 20, NULL, 2);
CREATE TABLE shop.tens (id int PRIMARY KEY, tenant_id int, note text);
INSERT INTO shop.tens VALUES (1, 20);

-- Triggers of the application: one moves a row before the guard sees it, one writes another table.
CREATE TABLE shop.moved (id int PRIMARY KEY, tenant_id int, note text);
INSERT INTO shop.moved VALUES (2, 20);
CREATE FUNCTION shop.move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.tenant_id := 10; RETURN new; END';
CREATE TRIGGER move BEFORE INSERT OR UPDATE ON shop.moved FOR EACH ROW EXECUTE FUNCTION shop.move();
CREATE TABLE shop.echoed (id int PRIMARY KEY, tenant_id int, note text);
CREATE FUNCTION shop.echo() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN UPDATE shop.orders SET note = ''echo'' WHERE id = 1; RETURN NULL; END';
ALTER FUNCTION shop.echo() OWNER TO :legacy;
CREATE TRIGGER echo AFTER INSERT ON shop.echoed FOR EACH ROW EXECUTE FUNCTION shop.echo();

-- Tenant keys of every type; 1 is a row of legacy's tenant, 2 of the rebuilt backend's.
CREATE DOMAIN shop.tenant AS int CHECK (value <> 0);
CREATE TABLE shop.by_int8 (id int PRIMARY KEY, tenant_id int8, note text);
CREATE TABLE shop.by_int2 (id int PRIMARY KEY, tenant_id int2, note text);
CREATE TABLE shop.by_domain (id int PRIMARY KEY, tenant_id shop.tenant, note text);
CREATE TABLE shop.by_text (id int PRIMARY KEY, tenant_id text, note text);
CREATE TABLE shop.by_varchar (id int PRIMARY KEY, tenant_id varchar(20), note text);
CREATE TABLE shop.by_citext (id int PRIMARY KEY, tenant_id citext, note text);
CREATE TABLE shop.by_uuid (id int PRIMARY KEY, tenant_id uuid, note text);
CREATE TABLE shop.by_bytea (id int PRIMARY KEY, tenant_id bytea, note text);
INSERT INTO shop.by_int8 VALUES (1, 10), (2, 20); INSERT INTO shop.by_int2 VALUES (1, 10), (2, 20);
INSERT INTO shop.by_domain VALUES (1, 10), (2, 20);
INSERT INTO shop.by_text VALUES (1, 'beta'), (2, 'acme'); INSERT INTO shop.by_varchar VALUES (1, 'beta'), (2, 'acme');
INSERT INTO shop.by_citext VALUES (1, 'Beta'), (2, 'Acme');
INSERT INTO shop.by_uuid VALUES (1, 'bbbbbbbb-0000-4000-8000-000000000000'), (2, 'aaaaaaaa-0000-4000-8000-000000000000');
INSERT INTO shop.by_bytea VALUES (1, '\xbb'), (2, '\xaa');
-- Keys of several columns.
CREATE TABLE shop.by_pair (id int PRIMARY KEY, tenant_id int, note text);
INSERT INTO shop.by_pair VALUES (1, 10, 'eu'), (2, 20, 'eu'), (3, 20, 'us'), (4, NULL, 'eu');
CREATE TABLE shop.by_texts (id int PRIMARY KEY, tenant_id text, note text);
INSERT INTO shop.by_texts VALUES (1, 'a', 'b,c'), (2, 'a,b', 'c');
CREATE TABLE shop.pair_lines (id int PRIMARY KEY, tenant_id int, note text, pair_id int REFERENCES shop.by_pair ON UPDATE CASCADE);
INSERT INTO shop.pair_lines VALUES (1, 20, NULL, 1), (2, 20, NULL, 2);

DO $$
DECLARE made regclass;
BEGIN
    FOR made IN SELECT oid FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'p', 'S') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO :legacy', made);
    END LOOP;
END $$;
GRANT ALL ON SCHEMA shop TO :rebuilt;
GRANT ALL ON ALL TABLES IN SCHEMA shop TO :rebuilt;
GRANT ALL ON ALL SEQUENCES IN SCHEMA shop TO :rebuilt;

-- The rebuilt backend's own, all the same guarded.
CREATE TABLE shop.notes (id int PRIMARY KEY, tenant_id int, note text);
INSERT INTO shop.notes VALUES (1, 10), (2, 20);
CREATE SEQUENCE shop.notes_seq;
SELECT nextval('shop.notes_seq') FROM generate_series(1, 5);
ALTER TABLE shop.notes OWNER TO :rebuilt;
ALTER SEQUENCE shop.notes_seq OWNER TO :rebuilt;
GRANT ALL ON shop.notes, shop.notes_seq TO :legacy;

SELECT lo_from_bytea(70001, '\x0102'), lo_from_bytea(70002, '\x0304');
ALTER LARGE OBJECT 70001 OWNER TO :legacy;
ALTER LARGE OBJECT 70002 OWNER TO :rebuilt;

-- The same tables as views: updatable by themselves, with security_barrier, with INSTEAD OF triggers, with rules.
CREATE FUNCTION carriers.instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF tg_op = 'DELETE' THEN
        EXECUTE format('DELETE FROM shop.%I WHERE id = $1', tg_table_name) USING old.id;
        RETURN old;
    ELSIF tg_op = 'UPDATE' THEN
        EXECUTE format('UPDATE shop.%I SET id = $1, tenant_id = $2, note = $3 WHERE id = $4', tg_table_name)
            USING new.id, new.tenant_id, new.note, old.id;
    ELSE
        EXECUTE format('INSERT INTO shop.%I (id, tenant_id, note) VALUES ($1, $2, $3)', tg_table_name)
            USING new.id, new.tenant_id, new.note;
    END IF;
    RETURN new;
END $$;
DO $$
DECLARE made name;
BEGIN
    FOR made IN SELECT relname FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'p') LOOP
        EXECUTE format('CREATE VIEW shop_view.%1$I AS SELECT * FROM shop.%1$I', made);
        EXECUTE format('CREATE VIEW shop_barrier.%1$I WITH (security_barrier) AS SELECT * FROM shop.%1$I WHERE id > 0', made);
        EXECUTE format('CREATE VIEW shop_instead.%1$I AS SELECT * FROM shop.%1$I', made);
        EXECUTE format('CREATE TRIGGER instead INSTEAD OF INSERT OR UPDATE OR DELETE ON shop_instead.%I
            FOR EACH ROW EXECUTE FUNCTION carriers.instead()', made);
        EXECUTE format('CREATE VIEW shop_rules.%1$I AS SELECT * FROM shop.%1$I', made);
        EXECUTE format('CREATE RULE i AS ON INSERT TO shop_rules.%1$I DO INSTEAD
            INSERT INTO shop.%1$I (id, tenant_id, note) VALUES (new.id, new.tenant_id, new.note) RETURNING *', made);
        EXECUTE format('CREATE RULE u AS ON UPDATE TO shop_rules.%1$I DO INSTEAD
            UPDATE shop.%1$I SET id = new.id, tenant_id = new.tenant_id, note = new.note WHERE id = old.id', made);
        EXECUTE format('CREATE RULE d AS ON DELETE TO shop_rules.%1$I DO INSTEAD DELETE FROM shop.%1$I WHERE id = old.id', made);
    END LOOP;
END $$;

-- One that is private to it, with room for others.
CREATE TABLE shop.private (id int NOT NULL, tenant_id int, note text) PARTITION BY LIST (id);
ALTER TABLE shop.private OWNER TO :rebuilt;
-- Another one of its own, of which there are no views.
CREATE TABLE shop.drafts (id int PRIMARY KEY, tenant_id int, note text);
INSERT INTO shop.drafts VALUES (1, 10), (2, 20);
ALTER TABLE shop.drafts OWNER TO :rebuilt;
GRANT ALL ON shop.drafts TO :legacy;

-- What carries a statement that the client doesn't send itself. All of them are outside the guard, and run what they are given.
CREATE FUNCTION carriers.run(statement text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN EXECUTE statement; RETURN true; END';
CREATE FUNCTION carriers.run_as_legacy(statement text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN EXECUTE statement; RETURN true; END';
ALTER FUNCTION carriers.run_as_legacy OWNER TO :legacy;
CREATE FUNCTION carriers.run_as_superuser(statement text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN EXECUTE statement; RETURN true; END';
CREATE PROCEDURE carriers.call(statement text) LANGUAGE plpgsql AS 'BEGIN COMMIT; EXECUTE statement; COMMIT; END';
CREATE FUNCTION carriers.step(state boolean, statement text) RETURNS boolean LANGUAGE sql AS 'SELECT carriers.run(statement)';
CREATE AGGREGATE carriers.gather(text) (SFUNC = carriers.step, STYPE = boolean);
CREATE OPERATOR carriers.!!! (FUNCTION = carriers.run, RIGHTARG = text);
CREATE DOMAIN carriers.checked AS text CHECK (carriers.run(value));

CREATE TABLE carriers.door (k int);
CREATE TABLE carriers.bell (statement text);
CREATE FUNCTION carriers.ring() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE new.statement; RETURN new; END';
CREATE TRIGGER ring BEFORE INSERT ON carriers.bell FOR EACH ROW EXECUTE FUNCTION carriers.ring();
CREATE TABLE carriers.late (statement text);
CREATE CONSTRAINT TRIGGER ring AFTER INSERT ON carriers.late DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION carriers.ring();
CREATE TABLE carriers.listed (statement text, CHECK (carriers.run(statement)));
CREATE TABLE carriers.secured AS SELECT 1 AS id;
ALTER TABLE carriers.secured ENABLE ROW LEVEL SECURITY;
CREATE POLICY secured ON carriers.secured USING (carriers.run(current_setting('try.statement')));
CREATE FUNCTION carriers.overhear() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('try.statement', true), '') <> '' THEN EXECUTE current_setting('try.statement'); END IF;
END $$;
CREATE EVENT TRIGGER overhear ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION carriers.overhear();

GRANT USAGE ON SCHEMA carriers, shop_view, shop_barrier, shop_instead, shop_rules TO :legacy, :rebuilt;
GRANT ALL ON ALL TABLES IN SCHEMA carriers, shop_view, shop_barrier, shop_instead, shop_rules TO :legacy, :rebuilt;
GRANT CREATE ON DATABASE :database TO :rebuilt;
ALTER ROLE :rebuilt NOINHERIT;
GRANT :legacy TO :rebuilt;
-- Whoever waits for a lock waits for an attempt that went wrong.
ALTER ROLE :rebuilt SET lock_timeout = '5 s';
SET lock_timeout = '5 s';

SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT holdfast.add_identity('legacy', role => ':legacy'), holdfast.add_identity('rebuilt', role => ':rebuilt');
DO $$
DECLARE guarded text;
BEGIN
    FOREACH guarded IN ARRAY '{orders,items,shipments,reviews,labels,baskets,carts,log,vehicles,trucks,moved,echoed,notes,drafts,by_int8,by_int2,by_domain,by_text,by_varchar,by_citext,by_uuid,by_bytea}'::text[] LOOP
        PERFORM holdfast.guard_table(format('shop.%I', guarded), 'tenant_id');
        PERFORM holdfast.allow_writes('rebuilt', format('shop.%I', guarded));
    END LOOP;
    PERFORM holdfast.allow_writes('rebuilt', 'shop.orders', '{insert,update}', '{id,tenant_id,note}');
    PERFORM holdfast.guard_table('shop.lines', via => 'order_id'), holdfast.guard_table('shop.taxes', via => 'line_id'),
        holdfast.guard_table('shop.tens', tenant => '10');
    PERFORM holdfast.allow_writes('rebuilt', 'shop.lines'), holdfast.allow_writes('rebuilt', 'shop.taxes'),
        holdfast.allow_writes('rebuilt', 'shop.tens');
    PERFORM holdfast.guard_table('shop.by_pair', 'note, tenant_id'), holdfast.guard_table('shop.by_texts', 'tenant_id, note'),
        holdfast.guard_table('shop.pair_lines', via => 'pair_id');
    PERFORM holdfast.allow_writes('rebuilt', 'shop.by_pair'), holdfast.allow_writes('rebuilt', 'shop.by_texts'),
        holdfast.allow_writes('rebuilt', 'shop.pair_lines');
    PERFORM holdfast.guard_global('shop.plans'), holdfast.guard_global('shop.stock');
    PERFORM holdfast.exempt_table('shop.ledger', 'legacy'), holdfast.exempt_table('shop.private', 'rebuilt');
    PERFORM holdfast.exempt_table(oid) FROM pg_class WHERE relnamespace = 'carriers'::regnamespace AND relkind = 'r';
    -- How many tenants a statement may write is another subject.
    PERFORM holdfast.set_limits('rebuilt', tenants_per_statement => -1, statement_timeout => '1 h');
END $$;
