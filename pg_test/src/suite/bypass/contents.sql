-- Everything that an attempt might change, a line each: what it is, and a checksum. One SELECT for each table, sequence
-- and large object comes from stage.rs. The worker makes partitions of the event table when it needs them.
WITH watched AS MATERIALIZED (
    SELECT oid AS schema FROM pg_namespace WHERE nspname IN ('shop', 'holdfast', 'public')
), relations AS MATERIALIZED (
    SELECT c.* FROM pg_class c JOIN watched ON c.relnamespace = schema WHERE relname !~ '^event_\d'
)
SELECT 'relations', md5(string_agg((c.oid, relname, relnamespace, relowner, relkind, relpersistence, relacl, reloptions,
        relrowsecurity, relforcerowsecurity, relispartition, pg_get_expr(relpartbound, c.oid), relreplident)::text, ''
        ORDER BY c.oid))
    FROM relations c
UNION ALL SELECT 'columns', md5(string_agg((attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attgenerated,
        attidentity, attisdropped, attislocal, attacl)::text, '' ORDER BY attrelid, attnum))
    FROM pg_attribute JOIN relations ON attrelid = relations.oid AND relkind IN ('r', 'p') AND attnum > 0
UNION ALL SELECT 'defaults', md5(string_agg((adrelid, adnum, adbin)::text, '' ORDER BY adrelid, adnum))
    FROM pg_attrdef JOIN relations ON adrelid = relations.oid
UNION ALL SELECT 'triggers', md5(string_agg((t.oid, tgrelid, tgname, tgfoid, tgtype, tgenabled, tgargs, tgqual)::text, ''
        ORDER BY t.oid))
    FROM pg_trigger t JOIN relations ON tgrelid = relations.oid
UNION ALL SELECT 'rules', md5(string_agg((ev_class, rulename, ev_enabled, is_instead)::text, '' ORDER BY ev_class, rulename))
    FROM pg_rewrite JOIN pg_class c ON ev_class = c.oid
    WHERE c.oid >= 16384 AND relnamespace <> 'carriers'::regnamespace AND relpersistence = 'p'
UNION ALL SELECT 'policies', md5(string_agg((polrelid, polname)::text, '' ORDER BY polrelid, polname))
    FROM pg_policy JOIN relations ON polrelid = relations.oid
UNION ALL SELECT 'constraints', md5(string_agg((c.oid, conname, conrelid, convalidated)::text, '' ORDER BY c.oid))
    FROM pg_constraint c JOIN watched ON connamespace = schema WHERE conrelid::regclass::text !~ '^holdfast.event_\d'
UNION ALL SELECT 'inheritance', md5(string_agg((inhrelid, inhparent)::text, '' ORDER BY inhrelid, inhparent))
    FROM pg_inherits JOIN relations ON inhparent = relations.oid
    WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = inhrelid AND c.relname ~ '^event_\d'
        AND c.relnamespace = 'holdfast'::regnamespace)
UNION ALL SELECT 'functions', md5(string_agg((p.oid, proname, prosrc, probin, proowner, proconfig, prosecdef, proacl)::text, ''
        ORDER BY p.oid))
    FROM pg_proc p JOIN watched ON pronamespace = schema
UNION ALL SELECT 'types and operators', md5(string_agg(name, '' ORDER BY name)) FROM (
        SELECT typname FROM pg_type JOIN watched ON typnamespace = schema WHERE typname !~ '^_?event_\d'
        UNION ALL SELECT oprname FROM pg_operator JOIN watched ON oprnamespace = schema) AS named (name)
UNION ALL SELECT 'schemas', md5(string_agg((oid, nspname, nspowner, nspacl)::text, '' ORDER BY oid))
    FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
UNION ALL SELECT 'extensions', md5(string_agg((oid, extname, extowner, extnamespace, extversion)::text, '' ORDER BY oid))
    FROM pg_extension
UNION ALL SELECT 'event triggers', md5(string_agg((evtname, evtenabled)::text, '' ORDER BY evtname)) FROM pg_event_trigger
UNION ALL SELECT 'publications', md5(string_agg(pubname, '' ORDER BY pubname)) FROM pg_publication
UNION ALL SELECT 'foreign servers', md5(string_agg(srvname, '' ORDER BY srvname)) FROM pg_foreign_server
UNION ALL SELECT 'default privileges', md5(string_agg(defaclacl::text, '' ORDER BY oid)) FROM pg_default_acl
UNION ALL SELECT 'roles', md5(string_agg((oid, rolname, rolinherit, rolcanlogin, rolbypassrls, rolconnlimit)::text, '' ORDER BY oid))
    FROM pg_roles WHERE rolname IN (':legacy', ':rebuilt')
UNION ALL SELECT 'memberships', md5(string_agg((roleid, member, admin_option)::text, '' ORDER BY roleid, member))
    FROM pg_auth_members WHERE member IN (':legacy'::regrole, ':rebuilt'::regrole)
UNION ALL SELECT 'subscriptions', md5(string_agg(subname, '' ORDER BY subname)) FROM pg_subscription
    WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = ':database')
UNION ALL SELECT 'settings of roles and databases', md5(string_agg((setdatabase, setrole, setconfig)::text, '' ORDER BY setdatabase, setrole))
    FROM pg_db_role_setting WHERE setrole IN (':legacy'::regrole, ':rebuilt'::regrole)
        OR setdatabase = (SELECT oid FROM pg_database WHERE datname = ':database')
UNION ALL SELECT 'database', md5(string_agg((datname, datdba, datacl, datconnlimit, datallowconn)::text, ''))
    FROM pg_database WHERE datname = ':database'
UNION ALL SELECT 'large objects', md5(string_agg((m.oid, lomowner, lomacl, l.pageno, l.data)::text, '' ORDER BY m.oid, l.pageno))
    FROM pg_largeobject_metadata m LEFT JOIN pg_largeobject l ON l.loid = m.oid
UNION ALL SELECT 'legacy''s session', count(*)::text FROM pg_stat_activity
    WHERE datname = ':database' AND usename = ':legacy' AND application_name = 'bystander'
UNION ALL SELECT 'prepared transactions', count(*)::text FROM pg_prepared_xacts WHERE database = ':database'
