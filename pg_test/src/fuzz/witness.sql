-- What legacy must be able to do whatever the fuzzed login has done; rolled back.
BEGIN;
INSERT INTO orders (tenant_id, net) VALUES (10, 1), (30, 1);
UPDATE orders SET note = 'w' WHERE tenant_id = 10;
UPDATE order_items SET what = 'w' WHERE order_id IN (SELECT id FROM orders WHERE tenant_id = 10);
DELETE FROM orders WHERE tenant_id = 10;
UPDATE customers SET name = 'w' WHERE tenant_id = 10;
UPDATE by_bigint SET id = id WHERE tenant = 10;
UPDATE by_text SET id = id WHERE tenant = '10';
INSERT INTO log VALUES (10, '2024-02-02', 'w'), (10, '2020-02-02', 'w');
UPDATE assets SET name = 'w' WHERE tenant_id = 10;
INSERT INTO "Billing Dept"."Invoice ""2""" VALUES (99, 10, 1);
UPDATE plans SET name = name || '.';
INSERT INTO ledger VALUES (99, 'w');
UPDATE loose SET note = 'w';
ROLLBACK;
