-- Row level security with a look at the owner table. No lock: a transaction that began to write a tenant goes on after the
-- tenant was handed over.
DO $$
DECLARE guarded text; key text; allowed text;
BEGIN
    FOR guarded, key IN VALUES ('items', 'tenant'), ('hot', 'tenant'), ('wide', 'tenant'), ('by_uuid', 'tenant'),
        ('by_text', 'tenant'), ('parted', 'tenant'), ('pgbench_accounts', 'bid'), ('pgbench_branches', 'bid'),
        ('pgbench_tellers', 'bid'), ('pgbench_history', 'bid') LOOP
        allowed := format('EXISTS (SELECT FROM owners o WHERE o.tenant = %I.%I::text AND o.owner = session_user)', guarded, key);
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', guarded);
        EXECUTE format('CREATE POLICY reads ON %I FOR SELECT USING (true)', guarded);
        EXECUTE format('CREATE POLICY inserts ON %I FOR INSERT WITH CHECK (%s)', guarded, allowed);
        EXECUTE format('CREATE POLICY updates ON %I FOR UPDATE USING (%s) WITH CHECK (%s)', guarded, allowed, allowed);
        EXECUTE format('CREATE POLICY deletes ON %I FOR DELETE USING (%s)', guarded, allowed);
    END LOOP;
END
$$;
