-- What DROP EXTENSION takes along and what it leaves, for uninstall_preview(). First what a DBA would miss, then the rest.
WITH RECURSIVE extension AS (
    SELECT oid, extnamespace FROM pg_extension WHERE extname = 'holdfast'
), part AS MATERIALIZED (
    SELECT d.classid, d.objid FROM pg_depend d, extension e
    WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
), way AS (
    -- How far a table is from the one whose own rows tell their tenants.
    SELECT relation, 0 AS length FROM holdfast.classified_table WHERE parent IS NULL
    UNION ALL
    SELECT c.relation, w.length + 1 FROM holdfast.classified_table c JOIN way w ON c.parent = w.relation
    -- No way is longer; one that leads to itself would have no end.
    WHERE c.relation <> w.relation AND w.length < 100
), found AS (
    -- Of guards those that are nobody's copy, children before the tables that their tenants come from.
    SELECT 1 AS n, 'trigger' AS kind, format('%s on %s', quote_ident(t.tgname), t.tgrelid::regclass) AS object,
        'dropped; DROP EXTENSION asks for CASCADE' AS fate,
        format('SELECT holdfast.unguard_table(%L);', t.tgrelid::regclass) AS statement,
        row_number() OVER (ORDER BY w.length DESC NULLS LAST, t.tgrelid::regclass::text) AS place
    FROM pg_trigger t LEFT JOIN (SELECT relation, max(length) AS length FROM way GROUP BY relation) w ON w.relation = t.tgrelid
    WHERE t.tgfoid = 'holdfast.guard_row()'::regprocedure AND t.tgparentid = 0
    UNION ALL
    -- What others have built on the extension's views, functions and types.
    SELECT DISTINCT ON (i.type, i.identity) 2, i.type, i.identity, 'dropped; DROP EXTENSION asks for CASCADE', NULL, 0
    FROM part JOIN pg_depend d ON d.refclassid = part.classid AND d.refobjid = part.objid AND d.deptype IN ('n', 'a')
    LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    CROSS JOIN LATERAL (SELECT CASE WHEN w.oid IS NULL THEN d.classid ELSE 'pg_class'::regclass END AS class,
        coalesce(w.ev_class, d.objid) AS object) AS built
    CROSS JOIN LATERAL pg_identify_object(built.class, built.object, 0) AS i
    WHERE NOT EXISTS (SELECT FROM part own WHERE own.classid = built.class AND own.objid = built.object)
      AND i.schema IS DISTINCT FROM 'holdfast' AND i.type NOT IN ('trigger', 'default value')
    UNION ALL
    -- finish_migration() asks the same of those that are watched.
    SELECT 3, 'wave', format('%s (%s)', quote_ident(w.wave), w.state),
        'dropped; tenants that wait are not moved, those that have moved are not watched',
        format('SELECT holdfast.abort_wave(%L);', w.wave), w.id
    FROM holdfast.wave w WHERE w.state NOT IN ('passed', 'aborted')
    UNION ALL
    SELECT 4, 'record', format('%s (%s rows)', r.relation, r.rows), 'dropped',
        format('COPY (SELECT * FROM %s) TO STDOUT (FORMAT csv, HEADER);', r.relation), r.place
    FROM (VALUES
        (1, 'holdfast.policy_log', (SELECT count(*) FROM holdfast.policy_change) + (SELECT count(*) FROM holdfast.ownership_change)),
        (2, 'holdfast.ownership_history', (SELECT count(*) FROM holdfast.ownership_change)),
        (3, 'holdfast.tenants', (SELECT count(*) FROM holdfast.ownership)),
        (4, 'holdfast.waves', (SELECT count(*) FROM holdfast.wave)),
        (5, 'holdfast.blocked_summary', (SELECT count(*) FROM holdfast.event_hour)),
        (6, 'holdfast.blocked_writes', (SELECT count(*) FROM holdfast.event) + (SELECT count(*) FROM holdfast.event_overflow))
    ) AS r (place, relation, rows)
    UNION ALL
    SELECT 5, 'partition', i.inhrelid::regclass::text, 'dropped', NULL, 0
    FROM pg_inherits i WHERE i.inhparent = 'holdfast.event'::regclass
    UNION ALL
    SELECT DISTINCT 6, 'grant', format('to %s', quote_ident(pg_get_userbyid(a.grantee))), 'dropped', NULL, 0::bigint
    FROM pg_proc p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
    WHERE p.pronamespace = 'holdfast'::regnamespace AND a.grantee <> 0 AND a.grantee <> p.proowner
    UNION ALL
    SELECT DISTINCT 7, 'publication', format('%s of %s', r.prrelid::regclass, quote_ident(p.pubname)),
        'the table leaves it, the publication stays', NULL, 0::bigint
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN part ON part.objid = r.prrelid
    UNION ALL
    SELECT 8, 'schema', 'holdfast', CASE
            WHEN obj_description(e.extnamespace, 'pg_namespace') IS NULL THEN 'stays: it was there before'
            ELSE 'dropped, if nothing else is in it' END, NULL, 0
    FROM extension e
    UNION ALL
    SELECT 9, 'setting', format('%s, of %s', s.setting, CASE WHEN s.setrole = 0 THEN 'everybody' ELSE 'role ' || quote_ident(pg_get_userbyid(s.setrole)) END
            || CASE WHEN s.setdatabase = 0 THEN ' in all databases' ELSE ' in this database' END),
        'stays',
        CASE WHEN s.setrole = 0 THEN format('ALTER DATABASE %I RESET %s;', current_database(), s.name)
             WHEN s.setdatabase = 0 THEN format('ALTER ROLE %I RESET %s;', pg_get_userbyid(s.setrole), s.name)
             ELSE format('ALTER ROLE %I IN DATABASE %I RESET %s;', pg_get_userbyid(s.setrole), current_database(), s.name) END, 0
    FROM (SELECT d.setrole, d.setdatabase, c.setting, split_part(c.setting, '=', 1) AS name
          FROM pg_db_role_setting d CROSS JOIN LATERAL unnest(d.setconfig) AS c (setting)
          WHERE d.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))) AS s
    WHERE s.name LIKE 'holdfast.%'
    UNION ALL
    SELECT 10, 'setting', format('%s = %s, in %s', name, setting, sourcefile), 'stays',
        CASE WHEN sourcefile LIKE '%/postgresql.auto.conf' THEN format('ALTER SYSTEM RESET %s;', name) END, 0
    FROM pg_settings WHERE name LIKE 'holdfast.%' AND sourcefile IS NOT NULL
    UNION ALL
    SELECT 11, 'spool', format('%s bytes, in the data directory', h.spooled), 'stays; no database will take it in',
        'SELECT holdfast.flush_events();', 0
    FROM holdfast.audit_health() h WHERE h.spooled > 0
    UNION ALL
    SELECT 12, 'library', 'shared_preload_libraries = ' || current_setting('shared_preload_libraries'),
        'stays; take holdfast out when no other database has the extension, and restart', NULL, 0
)
SELECT kind, object, fate, statement FROM found ORDER BY n, place, object
