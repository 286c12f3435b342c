-- What a DBA types to begin a migration.
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 90);
SELECT holdfast.grant_operator('migration_operator');

SELECT holdfast.add_identity('legacy', role => 'legacy_app');
SELECT holdfast.add_identity('rebuilt', role => 'rebuilt_app');

SELECT holdfast.guard_table('brokerages', 'id');
SELECT holdfast.guard_table(relation, 'brokerage_id')
FROM unnest('{agents,homeowners,properties,valuations,messages,documents,appointments,notification_preferences,
              activity_log,tenant_clock,operations}'::regclass[]) relation;
SELECT holdfast.guard_global('plans');
SELECT holdfast.guard_global('feature_flags');
-- Neither backend's: the cutovers' marks.
SELECT holdfast.exempt_table('demo_marks');

-- The write surface of the rebuilt backend. notification_preferences has been forgotten: observe mode will tell.
SELECT holdfast.allow_writes('rebuilt', relation, '{insert,update}')
FROM unnest('{properties,valuations}'::regclass[]) relation;
SELECT holdfast.allow_writes('rebuilt', relation, '{insert}')
FROM unnest('{messages,documents,activity_log,operations}'::regclass[]) relation;
SELECT holdfast.allow_writes('rebuilt', 'appointments', '{insert,delete}');
SELECT holdfast.allow_writes('rebuilt', 'tenant_clock', '{update}', '{sequence}');
SELECT holdfast.allow_writes('rebuilt', 'homeowners', '{update}', '{message_count,written_by,operation_id}');

-- A partition made after its parent was guarded is guarded too; today's activity goes there.
DO $$
BEGIN
    EXECUTE format('CREATE TABLE activity_log_now PARTITION OF activity_log FOR VALUES FROM (%L) TO (MAXVALUE)',
                   date_trunc('month', current_date)::date);
END $$;
