-- A schema that was there before keeps what it had. The comment tells, too, which one goes with the extension
-- (src/pg/hooks/uninstall.rs). Numbers of savepoints are greater than their transaction's.
DO $$
BEGIN
    IF (SELECT pg_catalog.age(xmin) <= pg_catalog.age(pg_catalog.xid(pg_catalog.pg_current_xact_id())) FROM pg_catalog.pg_namespace WHERE nspname = 'holdfast') THEN
        COMMENT ON SCHEMA holdfast IS 'Guards this database while tenants move from a legacy to a rebuilt backend';
    END IF;
END
$$;

COMMENT ON TABLE holdfast.migration IS 'Where the migration stands; at most one row';
COMMENT ON TABLE holdfast.backend IS 'Registered application backends';
COMMENT ON TABLE holdfast.mode_override IS 'Exceptions from the global mode';
COMMENT ON TABLE holdfast.identity IS 'Which sessions belong to which backend';
COMMENT ON TABLE holdfast.identity_key IS 'The public keys that tokens of each backend are signed with';
COMMENT ON TABLE holdfast.classified_table IS 'Whose rows each table holds';
COMMENT ON TABLE holdfast.write_permission IS 'What each unproven backend may write';
COMMENT ON TABLE holdfast.backend_limit IS 'How much each unproven backend may write';
COMMENT ON TABLE holdfast.readiness_check IS 'Readiness checks that block, or don''t, as they wouldn''t by default';
COMMENT ON TABLE holdfast.ownership IS 'Tenants that differ from the default owner or have history';
COMMENT ON TABLE holdfast.ownership_change IS 'Every cutover, rollback, freeze and unfreeze';
COMMENT ON TABLE holdfast.audit_batch IS 'Which of the workers'' transactions are committed, so that no event is stored twice';
COMMENT ON TABLE holdfast.audit_loss IS 'Events that are known to have happened and could not be recorded';
COMMENT ON TABLE holdfast.policy_change IS 'Every change of the policy tables: by whom, from where, the row before and after';
COMMENT ON TABLE holdfast.event IS 'Every refusal and would-be refusal, and what is done in break-glass';
COMMENT ON TABLE holdfast.event_overflow IS 'Events whose day has no partition';
COMMENT ON TABLE holdfast.event_hour IS 'Events counted by hour, backend, rule, table and tenant';
COMMENT ON TABLE holdfast.wave IS 'Tenants that move together: how they are watched, and where they stand';
COMMENT ON TABLE holdfast.wave_tenant IS 'The tenants of each wave, and what became of them';

COMMENT ON VIEW holdfast.status IS 'Where the migration stands, a line each';
COMMENT ON VIEW holdfast.stats IS 'How often each rule was asked, and what came of it, since the server started';
COMMENT ON VIEW holdfast.backends IS 'Registered application backends';
COMMENT ON VIEW holdfast.identities IS 'Identity rules in the order in which they are tried';
COMMENT ON VIEW holdfast.keys IS 'The public keys that tokens of each backend are signed with';
COMMENT ON VIEW holdfast.tenants IS 'Tenants that differ from the default owner or have history';
COMMENT ON VIEW holdfast.ownership_history IS 'Every cutover, rollback, freeze and unfreeze, newest first';
COMMENT ON VIEW holdfast.write_surface IS 'What each unproven backend may write';
COMMENT ON VIEW holdfast.limits IS 'How much each unproven backend may write, by the parameters of set_limits; null = no limit';
COMMENT ON VIEW holdfast.coverage IS 'Every table, whose rows it holds, and whether its guard stands';
COMMENT ON VIEW holdfast.policy_log IS 'Who changed the policy, handed tenants over or broke the glass, newest first';
COMMENT ON VIEW holdfast.blocked_writes IS 'Every refusal and would-be refusal, and what is done in break-glass, newest first';
COMMENT ON VIEW holdfast.blocked_summary IS 'Refusals and would-be refusals, counted by hour, backend, rule, table and tenant';
COMMENT ON VIEW holdfast.waves IS 'Waves in their order, where each stands, and what comes next';
COMMENT ON VIEW holdfast.wave_progress IS 'How far each wave is, in numbers';
COMMENT ON VIEW holdfast.wave_tenants IS 'The tenants of each wave in their order, and what became of them';
COMMENT ON VIEW holdfast.wave_limits IS 'How each wave is run and watched, by the parameters of add_wave';
COMMENT ON VIEW holdfast.wave_refusals IS 'Refusals of the new owner''s clients that count for each wave; tenant null: nobody can tell it';

COMMENT ON FUNCTION holdfast.begin_migration IS 'Registers both backends and begins to observe; legacy owns every tenant';
COMMENT ON FUNCTION holdfast.add_backend IS 'Registers a backend; trust is proven, unproven or retired';
COMMENT ON FUNCTION holdfast.set_trust IS 'Changes how far a backend is trusted';
COMMENT ON FUNCTION holdfast.set_default_backend IS 'Sets the backend of sessions that no identity rule matches; NULL = none';
COMMENT ON FUNCTION holdfast.set_mode IS 'Sets off, observe or enforce: everywhere, or for a backend, a rule, or both';
COMMENT ON FUNCTION holdfast.set_end_date IS 'Sets the day by which the migration should end, and whether cutovers are refused from then on';
COMMENT ON FUNCTION holdfast.set_default_owner IS 'Sets the owner of every tenant that has no row of its own';
COMMENT ON FUNCTION holdfast.retire IS 'Retires a backend that owns nothing and has not been seen lately';
COMMENT ON FUNCTION holdfast.finish_migration IS 'Ends the migration: nothing is refused any more';
COMMENT ON FUNCTION holdfast.uninstall_preview IS 'What DROP EXTENSION would take along, and what would stay';
COMMENT ON FUNCTION holdfast.add_identity IS 'Says which sessions belong to a backend; returns the rule''s number';
COMMENT ON FUNCTION holdfast.drop_identity IS 'Removes an identity rule';
COMMENT ON FUNCTION holdfast.add_key IS 'Registers the public key that tokens of a backend are signed with; replaces none';
COMMENT ON FUNCTION holdfast.drop_key IS 'Takes a key out of use, at once and in every session';
COMMENT ON FUNCTION holdfast.identify IS 'Shows a signed token that says which backend this transaction, or session, belongs to';
COMMENT ON FUNCTION holdfast.current_backend IS 'The backend of this session; NULL = unidentified';
COMMENT ON FUNCTION holdfast.whoami IS 'Who this session is, and why';
COMMENT ON FUNCTION holdfast.guard_table IS 'Guards a table whose rows belong to the tenant in a column';
COMMENT ON FUNCTION holdfast.guard_schema IS 'Whose rows the tables of a schema seem to hold; guards those that are certain';
COMMENT ON FUNCTION holdfast.guard_global IS 'Declares that a table''s rows belong to everybody';
COMMENT ON FUNCTION holdfast.exempt_table IS 'Takes a table out of the guard, or makes it private to one backend';
COMMENT ON FUNCTION holdfast.unguard_table IS 'Makes a table unclassified again';
COMMENT ON FUNCTION holdfast.allow_writes IS 'Lets a backend run commands on a table, on some of its columns or all';
COMMENT ON FUNCTION holdfast.disallow_writes IS 'Takes commands on a table back from a backend';
COMMENT ON FUNCTION holdfast.set_limits IS 'Limits how much an unproven backend may write; -1 lifts a limit';
COMMENT ON FUNCTION holdfast.owner_of IS 'The backend that owns a tenant';
COMMENT ON FUNCTION holdfast.readiness IS 'Whether a tenant is ready to be handed over, a line a check';
COMMENT ON FUNCTION holdfast.set_check IS 'Has a check of readiness() block handovers, or not; NULL = as by default';
COMMENT ON FUNCTION holdfast.cutover IS 'Hands a tenant to another backend; writers are held for max_pause at most';
COMMENT ON FUNCTION holdfast.rollback_cutover IS 'Hands a tenant back to the backend that owned it before';
COMMENT ON FUNCTION holdfast.freeze IS 'Stops all writes to a tenant, until a time or until it is unfrozen';
COMMENT ON FUNCTION holdfast.unfreeze IS 'Ends a freeze';
COMMENT ON FUNCTION holdfast.add_wave IS 'Plans to move tenants together; returns how many';
COMMENT ON FUNCTION holdfast.drop_wave IS 'Forgets a wave that hasn''t begun or is over';
COMMENT ON FUNCTION holdfast.skip_tenant IS 'Leaves a tenant that hasn''t moved out of its wave';
COMMENT ON FUNCTION holdfast.resume_wave IS 'Lets a halted wave go on; what clients did wrong before doesn''t count any more';
COMMENT ON FUNCTION holdfast.abort_wave IS 'Ends a wave; its tenants stay where they are';
COMMENT ON PROCEDURE holdfast.run_wave IS 'Moves the tenants of a wave, a transaction each';
COMMENT ON FUNCTION holdfast.wave_begin IS 'Begins a CALL of run_wave';
COMMENT ON FUNCTION holdfast.wave_step IS 'Moves the next tenant, for run_wave; whether there may be another';
COMMENT ON FUNCTION holdfast.watch_waves IS 'Looks after waves, for the worker; microseconds until it should look again';
COMMENT ON FUNCTION holdfast.cascade_preview IS 'What a DELETE would take with it through foreign keys';
COMMENT ON FUNCTION holdfast.flush_events IS 'Waits until the events queued now are committed; returns how many';
COMMENT ON FUNCTION holdfast.prune_events IS 'Removes events older than that; returns how many refusals they stood for';
COMMENT ON FUNCTION holdfast.report_html IS 'Where the migration stands, as a page of HTML that needs nothing else';
COMMENT ON FUNCTION holdfast.grant_operator IS 'Lets a role call every function and read every view';
COMMENT ON FUNCTION holdfast.grant_auditor IS 'Lets a role read every view';
COMMENT ON FUNCTION holdfast.break_glass IS 'Lets no rule stop this session for a while, and records what it does';
COMMENT ON FUNCTION holdfast.end_break_glass IS 'Ends break-glass of this session';
COMMENT ON FUNCTION holdfast.lock_holders IS 'Who holds a tenant''s lock, for cutovers';
COMMENT ON FUNCTION holdfast.guard_state IS 'The state of a table''s guard, for coverage';
COMMENT ON FUNCTION holdfast.metrics IS 'This database''s state as OpenMetrics text';
COMMENT ON FUNCTION holdfast.check_setup IS 'What to look at before trusting the guard, the most urgent first';
COMMENT ON FUNCTION holdfast.audit_health IS 'How the audit is doing, for status';
COMMENT ON FUNCTION holdfast.table_counts IS 'Tables by class and state of their guard, for status';
COMMENT ON FUNCTION holdfast.rule_counts IS 'What was counted, for stats';
COMMENT ON FUNCTION holdfast.stats_reset IS 'Begins to count anew in this database, for stats';
COMMENT ON FUNCTION holdfast.guard_row IS 'The row guard';
COMMENT ON FUNCTION holdfast.log_policy_change IS 'Puts a change of the policy on record';
COMMENT ON FUNCTION holdfast.policy_changed IS 'Makes every session read the policy again';

-- Nothing that changes policy can be called by PUBLIC. Four functions can: applications and routers need them.

REVOKE ALL ON ALL ROUTINES IN SCHEMA holdfast FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA holdfast FROM PUBLIC;

GRANT USAGE ON SCHEMA holdfast TO PUBLIC;
GRANT EXECUTE ON FUNCTION holdfast.current_backend(), holdfast.whoami(), holdfast.owner_of(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION holdfast.identify(text, boolean) TO PUBLIC;
-- Postgres copies triggers to a new partition with the rights of whoever creates it. The function can't be called otherwise.
GRANT EXECUTE ON FUNCTION holdfast.guard_row() TO PUBLIC;

-- One long query, once in a while: to compile it takes ten times as long as to run it.
ALTER FUNCTION holdfast.report_html() SET jit = off;
