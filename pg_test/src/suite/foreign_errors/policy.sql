-- The policy under which none of the cases may be refused.
CREATE EXTENSION holdfast;
SELECT holdfast.begin_migration('legacy', 'rebuilt', current_date + 30);
SELECT holdfast.add_identity('legacy', role => 'legacy_app');
SELECT holdfast.add_identity('rebuilt', role => 'rebuilt_app');
SELECT holdfast.guard_table(relation, 'tenant')
FROM unnest('{orders,lines,slots,measures,logged,rooms,kept,held}'::regclass[]) relation;
SELECT holdfast.guard_global('countries');
SELECT holdfast.allow_writes('rebuilt', relation)
FROM unnest('{orders,lines,slots,measures,logged,rooms,kept,held,countries}'::regclass[]) relation;
SELECT holdfast.exempt_table('exempt');
SELECT holdfast.set_mode('enforce');
SELECT holdfast.cutover('2', 'rebuilt', require_ready => false);
