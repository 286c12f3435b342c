-- The functions that triggers call, written in Rust as plain V1 functions (src/pg/trigger.rs, src/pg/invalidation.rs).

CREATE FUNCTION holdfast.guard_row() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'holdfast_guard_row';
CREATE FUNCTION holdfast.policy_changed() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'holdfast_policy_changed';

DO $$
DECLARE policy_table text;
BEGIN
    FOREACH policy_table IN ARRAY '{migration,backend,mode_override,identity,identity_key,classified_table,write_permission,backend_limit,readiness_check,ownership,wave}'::text[] LOOP
        -- Per row, because an apply worker fires no statement triggers.
        EXECUTE format(
            'CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE ON holdfast.%I '
            'FOR EACH ROW EXECUTE FUNCTION holdfast.policy_changed()', policy_table);
        EXECUTE format(
            'CREATE TRIGGER policy_truncated AFTER TRUNCATE ON holdfast.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION holdfast.policy_changed()', policy_table);
        EXECUTE format('ALTER TABLE holdfast.%I ENABLE ALWAYS TRIGGER policy_changed', policy_table);
        EXECUTE format('ALTER TABLE holdfast.%I ENABLE ALWAYS TRIGGER policy_truncated', policy_table);
    END LOOP;
END
$$;
