-- Holdfast in force: every table guarded, every tenant that is listed $OWNER's, and the sessions of role app $OWNER's.
CREATE EXTENSION holdfast;
-- As from a dump: owners that exist before the migration does are no change of it.
SET check_function_bodies = off;
INSERT INTO holdfast.ownership (tenant, owner, epoch, changed_at, changed_by)
    SELECT tenant, '$OWNER', 1, now(), session_user FROM (
        SELECT n::text FROM generate_series(0, $REGISTERED) n
        UNION SELECT 'tenant ' || n FROM generate_series(0, least($REGISTERED, $TENANTS)) n
        UNION SELECT (md5(n::text)::uuid)::text FROM generate_series(0, least($REGISTERED, $TENANTS)) n) AS listed (tenant);
RESET check_function_bodies;
ANALYZE holdfast.ownership;
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT holdfast.add_identity('$OWNER', role => 'app');
SELECT holdfast.add_identity('rebuilt', role => 'app_rebuilt');
SELECT holdfast.guard_table(name::regclass, key) FROM (VALUES ('items', 'tenant'), ('hot', 'tenant'), ('wide', 'tenant'),
    ('by_uuid', 'tenant'), ('by_text', 'tenant'), ('parted', 'tenant'), ('parents', 'tenant'), ('pgbench_accounts', 'bid'),
    ('pgbench_branches', 'bid'), ('pgbench_tellers', 'bid'), ('pgbench_history', 'bid')) AS t (name, key);
SELECT holdfast.guard_table('children', via => 'parent');
SELECT holdfast.guard_table('grandchildren', via => 'parent');
SELECT holdfast.guard_table('great_grandchildren', via => 'parent');
SELECT holdfast.allow_writes('rebuilt', name::regclass) FROM unnest('{items,hot,wide,by_uuid,by_text,parted,parents,children,
    grandchildren,great_grandchildren,pgbench_accounts,pgbench_branches,pgbench_tellers,pgbench_history}'::text[]) AS name;
-- Counted, and never reached.
SELECT holdfast.set_limits('rebuilt', rows_per_statement => 1000000000, rows_per_transaction => 1000000000,
    tenants_per_statement => 1000000000, cascade_rows => 1000000000, statement_timeout => '1 day', lock_timeout => '1 day',
    idle_in_transaction_timeout => '1 day');
SELECT holdfast.set_mode('enforce');
