-- A tenant key of several columns is named as a row of them.
SET client_min_messages = warning;
CREATE EXTENSION holdfast;
CREATE TABLE accounts (region text, account_no int, note text, PRIMARY KEY (region, account_no));
CREATE TABLE bookings (id int PRIMARY KEY, region text, account_no int, FOREIGN KEY (region, account_no) REFERENCES accounts);
CREATE TABLE lines (id int PRIMARY KEY, booking_id int NOT NULL REFERENCES bookings ON DELETE CASCADE);
INSERT INTO accounts VALUES ('eu', 42), ('eu', 43), ('us', 42), ('a,b', 1), ('"', 2);
INSERT INTO bookings VALUES (1, 'eu', 42), (2, 'eu', 43), (3, 'us', 42), (9, NULL, 42);
INSERT INTO lines VALUES (1, 1), (2, 2);
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT relation, tenant_column, via, action, reason FROM holdfast.guard_schema('public', 'region, account_no', dry_run => false);
SELECT relation, class, tenant_column, via, guard, finding FROM holdfast.coverage;
SELECT holdfast.allow_writes('rebuilt', oid::regclass) FROM pg_class WHERE relname IN ('accounts', 'bookings', 'lines');
SELECT holdfast.set_mode('enforce');
SELECT tenant, to_backend FROM holdfast.cutover(ROW('eu', 42)::text, 'rebuilt');
SELECT a.region, a.account_no, holdfast.owner_of(ROW(a.region, a.account_no)::text) FROM accounts a ORDER BY 1, 2;
-- As typed; not as a row of other columns.
SELECT holdfast.owner_of(' ("eu", 042)');
SELECT holdfast.owner_of('eu');
SELECT holdfast.owner_of('(eu,forty-two)');

SET holdfast.backend = 'rebuilt';
UPDATE accounts SET note = 'x' WHERE region = 'eu' AND account_no = 42;
UPDATE accounts SET note = 'x' WHERE region = 'eu';
UPDATE bookings SET account_no = 43 WHERE id = 1;
UPDATE bookings SET region = 'us' WHERE id = 1;
UPDATE bookings SET region = NULL WHERE id = 1;
UPDATE bookings SET region = 'eu' WHERE id = 9;
INSERT INTO bookings VALUES (4, 'eu', 42), (5, 'eu', 42), (6, 'us', 42);
UPDATE lines SET id = id WHERE id = 1;
UPDATE lines SET id = id WHERE id = 2;
RESET holdfast.backend;
UPDATE accounts SET note = 'y' WHERE region = 'eu' AND account_no = 42;
UPDATE accounts SET note = 'y' WHERE region = 'us';
SELECT path, tenant, rows FROM holdfast.cascade_preview('bookings', 'true');

-- No column of the key is lost, nor replaced by another of its name.
ALTER TABLE bookings RENAME region TO area;
ALTER TABLE bookings ALTER account_no TYPE bigint;
ALTER TABLE bookings DROP account_no, ADD account_no int DEFAULT 42;

-- What isn't a list of columns.
SELECT holdfast.guard_table('bookings', 'region, nothing');
SELECT holdfast.guard_table('bookings', 'region, Region');
SELECT holdfast.guard_table('bookings', 'region account_no,');
SELECT holdfast.guard_table('bookings', 'a,b,c,d,e,f,g,h,i');
-- Another key, at once.
SELECT holdfast.guard_table('bookings', 'account_no, region');
UPDATE bookings SET id = id WHERE id = 1;
SET holdfast.backend = 'rebuilt';
UPDATE bookings SET id = id WHERE id = 1;
RESET holdfast.backend;

SELECT * FROM accounts ORDER BY region, account_no;
SELECT * FROM bookings ORDER BY id;
SELECT holdfast.flush_events() > -1 AS flushed;
SELECT backend, rule, sqlstate, outcome, command, relation, tenant FROM holdfast.blocked_writes ORDER BY id;
SELECT holdfast.break_glass('the test is over');
DROP EXTENSION holdfast CASCADE;
DROP TABLE lines, bookings, accounts;
