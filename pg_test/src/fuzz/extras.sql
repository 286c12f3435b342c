-- What the fuzzed login finds beside the application's tables: things to write through.

-- Two tenants more that the rebuilt backend will own; the second is frozen then.
INSERT INTO customers (tenant_id, name) VALUES (60, 'customer 60'), (70, 'customer 70');
INSERT INTO orders (tenant_id, customer, plan, net) SELECT c.tenant_id, c.id, 1, n FROM customers c, generate_series(1, 5) AS n WHERE c.tenant_id IN (60, 70);
INSERT INTO order_items (order_id, what) SELECT id, 'item of ' || id FROM orders WHERE tenant_id IN (60, 70);
-- Beyond the keys that statements give by themselves, which would stand in legacy's way as anybody's would.
SELECT setval('orders_id_seq', 1000);
CREATE TABLE loose (id int PRIMARY KEY, tenant_id int, note text);
INSERT INTO loose VALUES (1, 10, 'a'), (2, 20, 'b');
CREATE VIEW all_orders AS SELECT * FROM orders;
CREATE VIEW plan_names AS SELECT id, name FROM plans;
CREATE FUNCTION bill(who int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC
    UPDATE orders SET net = coalesce(net, 0) + 1 WHERE tenant_id = who;
    SELECT count(*) FROM orders WHERE tenant_id = who;
END;
CREATE FUNCTION bill_as_owner(who int) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
DECLARE changed bigint;
BEGIN
    UPDATE orders SET net = coalesce(net, 0) + 1 WHERE tenant_id = who OR who IS NULL;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END $$;
CREATE FUNCTION note_plan() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    UPDATE plans SET name = NEW.note WHERE id = 1;
    RETURN NULL;
END $$;
-- Somebody's trigger that would carry a write of the surface to a table outside of it.
CREATE TRIGGER note_plan AFTER UPDATE ON orders FOR EACH ROW WHEN (NEW.note = 'plan') EXECUTE FUNCTION note_plan();
CREATE RULE loose_copy AS ON INSERT TO sessions WHERE NEW.id = 666 DO ALSO INSERT INTO loose VALUES (NEW.id, 10, 'rule');
SELECT lo_from_bytea(4242, 'kept');
