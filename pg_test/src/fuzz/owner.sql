-- The application's tables belong to a role that the fuzzed login is a member of, as where both backends share an owner.
DO $$
DECLARE object record;
BEGIN
    FOR object IN
        SELECT format('ALTER %s %s OWNER TO {owner}', CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
                   oid::regclass) AS command
        FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm') AND relnamespace::regnamespace::text IN ('public', 'tenant_20', '"Billing Dept"')
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO {owner}', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    LOOP
        EXECUTE object.command;
    END LOOP;
END
$$;
GRANT ALL ON SCHEMA public, tenant_20, "Billing Dept" TO {owner};
GRANT {owner} TO {rebuilt};
