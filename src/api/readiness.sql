-- The facts of readiness()'s advisory checks, as policy/readiness.rs names them. $1 is the tenant, $2 the receiver, $3 to $5 the tag
-- of the tenant's lock, $6 to $8 that of the lock on all tenants.
WITH loose AS MATERIALIZED (
    SELECT relation::text AS relation, finding <> 'not classified' AS like_tenants
    FROM holdfast.coverage WHERE class = 'unclassified'
), holder AS MATERIALIZED (
    SELECT * FROM holdfast.lock_holders($3, $4, $5)
    UNION ALL SELECT pid, virtual_transaction, writes, idle, began, description || ', which has written many tenants'
    FROM holdfast.lock_holders($6, $7, $8) WHERE writes OR pid IS NULL
), standby AS (
    SELECT s.*, CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.replay_lsn) END AS behind
    FROM pg_stat_replication s
), refusal AS (
    SELECT rule, relation, tenant IS NULL AS of_any, sum(occurrences) AS times
    FROM holdfast.blocked_writes
    -- That it isn't the owner is what a cutover settles; a freeze has a check of its own. Many a rule is broken by a statement before
    -- anybody knows of which tenant its rows are.
    WHERE at > clock_timestamp() - interval '1 hour' AND (tenant = $1 OR tenant IS NULL) AND backend = $2
        AND rule NOT IN ('not_owner', 'tenant_frozen')
    GROUP BY 1, 2, 3
)
SELECT jsonb_build_object(
    'unclassified', (SELECT coalesce(jsonb_agg(relation ORDER BY relation), '[]') FROM loose),
    'like_tenants', (SELECT coalesce(jsonb_agg(relation ORDER BY relation), '[]') FROM loose WHERE like_tenants),
    'open', (SELECT coalesce(jsonb_agg(description ORDER BY began), '[]') FROM holder WHERE pid IS NOT NULL),
    'prepared', (SELECT coalesce(jsonb_agg(description ORDER BY began), '[]') FROM holder WHERE pid IS NULL),
    'wal_level', current_setting('wal_level'),
    'in_recovery', pg_is_in_recovery(),
    'archive_mode', current_setting('archive_mode'),
    'archived', (SELECT format('%s, %s ago', last_archived_wal, date_trunc('second', clock_timestamp() - last_archived_time))
        FROM pg_stat_archiver WHERE last_archived_wal IS NOT NULL),
    'archive_fails', (SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) FROM pg_stat_archiver),
    'archive_waits', CASE WHEN current_setting('archive_mode') = 'off' THEN 0
        ELSE (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') END,
    'standbys', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'told', format('"%s" is in state %s, %s behind%s', application_name, state, pg_size_pretty(coalesce(behind, 0)),
                ', ' || date_trunc('milliseconds', replay_lag)),
            'keeps_up', state = 'streaming' AND coalesce(behind, 0) < 64 * 1024 * 1024
                AND coalesce(replay_lag, interval '0') < interval '10 s') ORDER BY application_name), '[]') FROM standby),
    'idle_slots', (SELECT coalesce(jsonb_agg(slot_name ORDER BY slot_name), '[]')
        FROM pg_replication_slots WHERE NOT active AND NOT temporary),
    'commits_hang', current_setting('synchronous_standby_names') <> ''
        AND current_setting('synchronous_commit') NOT IN ('off', 'local') AND NOT pg_is_in_recovery()
        AND NOT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
    'refusals', (SELECT coalesce(jsonb_agg(format('%s%s (%s%s)', rule, ' on ' || relation, times,
            CASE WHEN of_any THEN ', of whichever tenant' END) ORDER BY times DESC), '[]')
        FROM refusal),
    'freeze', (SELECT freeze_reason FROM holdfast.ownership
        WHERE tenant = $1 AND (frozen_until IS NULL OR frozen_until > clock_timestamp())))
