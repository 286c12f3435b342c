//! Who is who: whether backends are told apart by roles that can't get past the guard.

use super::Severity::{Error, Notice, Warning};
use super::{Check, check, listed};

/// Roles by which sessions are told to belong to an unproven backend.
macro_rules! of_unproven {
    () => {
        "(SELECT DISTINCT i.backend, r.* FROM holdfast.identity i JOIN holdfast.backend b USING (backend)
          JOIN pg_roles r ON r.oid = i.role WHERE b.trust = 'unproven') AS r"
    };
}

pub(super) const CHECKS: &[Check] = &[
    check(
        Error,
        "application_is_superuser",
        "SELECT format('Role %I of backend %I is a superuser: it can take the guard away.', rolname, backend),
             format('ALTER ROLE %I NOSUPERUSER;', rolname)
         FROM (SELECT DISTINCT i.backend, r.rolname FROM holdfast.identity i JOIN pg_roles r ON r.oid = i.role
               WHERE r.rolsuper) AS r ORDER BY 1",
    ),
    check(
        Warning,
        "application_is_operator",
        "SELECT format('Role %I of backend %I may call the policy functions: it can hand itself any tenant.', rolname, backend),
             'Let operators log in by roles of their own.'
         FROM (SELECT DISTINCT i.backend, r.oid, r.rolname FROM holdfast.identity i JOIN pg_roles r ON r.oid = i.role
               WHERE NOT r.rolsuper) AS r
         WHERE has_function_privilege(oid, 'holdfast.cutover(text, text, interval, boolean)', 'EXECUTE') ORDER BY 1",
    ),
    check(
        Warning,
        "backend_without_identity",
        "SELECT format('No session belongs to backend %I: no identity rule names it, and it is not the default.', backend),
             format('SELECT holdfast.add_identity(%L, role => ''...'');', backend)
         FROM holdfast.backend b
         WHERE trust <> 'retired' AND NOT EXISTS (SELECT FROM holdfast.identity i WHERE i.backend = b.backend)
           AND backend IS DISTINCT FROM (SELECT default_backend FROM holdfast.migration) ORDER BY backend",
    ),
    check(
        Error,
        "identity_of_recreated",
        "SELECT format('Role %I of backend %I (identity rule %s) is another one than the rule was added for, which was dropped or renamed: the rule can only lower its trust.',
                 role_name, backend, id),
             concat('SELECT holdfast.add_identity(', concat_ws(', ', quote_literal(backend), 'role => ' || quote_literal(role_name),
                 'database => ' || quote_literal(database), 'application_name => ' || quote_literal(application_name),
                 'client_network => ' || quote_literal(client_network), 'priority => ' || priority),
                 '), holdfast.drop_identity(', id, ');',
                 CASE WHEN EXISTS (SELECT FROM pg_roles r WHERE r.oid = role)
                     THEN format(' And for its own role, which is %I now, as well.', pg_get_userbyid(role)) END)
         FROM holdfast.identity i
         WHERE EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name AND r.oid <> role
                 AND NOT EXISTS (SELECT FROM holdfast.identity own WHERE own.role = r.oid)) ORDER BY id",
    ),
    check(
        Warning,
        "identity_of_nobody",
        "SELECT format('Identity rule %s of backend %I is for a role that is gone: %s.', id, backend, coalesce(quote_ident(role_name), role::text)),
             format('SELECT holdfast.drop_identity(%s); unless a role of this name is to come back, whose trust the rule still lowers.', id)
         FROM holdfast.identity WHERE role IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = role) ORDER BY id",
    ),
    check(
        Notice,
        "roles_by_default",
        concat!(
            "SELECT format('No identity rule is for these login roles: %s. Their sessions belong to %s.', ",
            listed!("quote_ident(rolname)"),
            ", coalesce('backend ' || quote_ident((SELECT default_backend FROM holdfast.migration)), 'no backend')),
                 'SELECT holdfast.add_identity(...) for those that are an application''s.'
             FROM pg_roles r
             WHERE rolcanlogin AND NOT rolsuper AND has_database_privilege(r.oid, current_database(), 'CONNECT')
               AND EXISTS (SELECT FROM holdfast.identity)
               AND NOT EXISTS (SELECT FROM holdfast.identity i WHERE i.role = r.oid OR i.role IS NULL OR i.role_name = r.rolname)
             HAVING count(*) > 0"
        ),
    ),
    check(
        Error,
        "unproven_owns_tables",
        concat!(
            "SELECT format('Role %I of the unproven backend %I owns guarded tables, or may act as who does: %s.', rolname, r.backend, ",
            listed!("relation::text"),
            "), 'ALTER TABLE ... OWNER TO a role that no application logs in as.'
             FROM ",
            of_unproven!(),
            " JOIN holdfast.classified_table c ON c.class IN ('tenant', 'global')
             JOIN pg_class t ON t.oid = c.relation AND pg_has_role(r.oid, t.relowner, 'MEMBER')
             WHERE NOT rolsuper GROUP BY r.backend, rolname ORDER BY 1"
        ),
    ),
    check(
        Error,
        "unproven_reaches_server",
        concat!(
            "SELECT format('Role %I of the unproven backend %I is a member of %s: it reaches the server''s files or programs.', rolname, backend, power),
                 format('REVOKE %I FROM %I;', power, rolname)
             FROM ",
            of_unproven!(),
            " CROSS JOIN unnest('{pg_execute_server_program,pg_write_server_files,pg_read_server_files}'::name[]) AS power
             WHERE NOT rolsuper AND pg_has_role(r.oid, power, 'MEMBER') ORDER BY 1"
        ),
    ),
    check(
        Warning,
        "unproven_has_powers",
        concat!(
            "SELECT format('Role %I of the unproven backend %I has %s.', rolname, backend, power),
                 CASE WHEN power LIKE 'pg\\_%' THEN format('REVOKE %s FROM %I;', power, rolname)
                 ELSE format('ALTER ROLE %I NO%s;', rolname, power) END
             FROM ",
            of_unproven!(),
            " CROSS JOIN LATERAL (VALUES ('BYPASSRLS', rolbypassrls), ('CREATEROLE', rolcreaterole), ('CREATEDB', rolcreatedb),
                 ('REPLICATION', rolreplication), ('pg_write_all_data', pg_has_role(r.oid, 'pg_write_all_data', 'MEMBER')),
                 ('pg_signal_backend', pg_has_role(r.oid, 'pg_signal_backend', 'MEMBER'))) AS p (power, has)
             WHERE NOT rolsuper AND has ORDER BY 1"
        ),
    ),
    check(
        Warning,
        "unproven_in_other_backend",
        concat!(
            "SELECT format('Role %I of the unproven backend %I is a member of role %I of backend %I: it has its privileges and owns what it owns.',
                     r.rolname, r.backend, other.rolname, i.backend),
                 format('REVOKE %I FROM %I;', other.rolname, r.rolname)
             FROM ",
            of_unproven!(),
            " JOIN holdfast.identity i ON i.backend <> r.backend AND i.role <> r.oid
             JOIN pg_roles other ON other.oid = i.role
             WHERE NOT r.rolsuper AND pg_has_role(r.oid, other.oid, 'MEMBER') ORDER BY 1"
        ),
    ),
];
