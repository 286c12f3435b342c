-- Installing the extension changes nothing until a migration is begun.
CREATE EXTENSION holdfast;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int NOT NULL, note text);
INSERT INTO orders VALUES (1, 10, 'one'), (2, 20, 'two');
UPDATE orders SET note = 'changed';
DELETE FROM orders WHERE id = 2;
ALTER TABLE orders ADD COLUMN extra int;
SELECT * FROM orders;
TRUNCATE orders;
DROP TABLE orders;
