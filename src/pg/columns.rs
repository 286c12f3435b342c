//! Which columns can name a tenant.

use pgrx::pg_sys;

use super::keys::KeyColumn;
use super::session;
use crate::policy::tenant::TenantType;

/// Why a column can't be a tenant column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnProblem {
    /// It isn't there.
    Missing,
    /// It is a generated column.
    Generated,
    /// Its type, named here, isn't one.
    Type(String),
    /// Its collation calls unequal texts equal.
    Collation,
}

/// Whether a column can be a tenant column.
///
/// # Errors
/// Why not.
pub fn check(oid: pg_sys::Oid, column: &str) -> Result<(), ColumnProblem> {
    let name = std::ffi::CString::new(column).map_err(|_| ColumnProblem::Missing)?;
    // SAFETY: syscache look-ups inside a transaction; a missing column has number 0, a system column a negative one.
    unsafe {
        let attnum = pg_sys::get_attnum(oid, name.as_ptr());
        if attnum <= 0 {
            return Err(ColumnProblem::Missing);
        }
        if pg_sys::get_attgenerated(oid, attnum) != 0 {
            return Err(ColumnProblem::Generated);
        }
        let (mut of, mut modifier, mut collation) = (pg_sys::InvalidOid, 0, pg_sys::InvalidOid);
        pg_sys::get_atttypetypmodcoll(oid, attnum, &mut of, &mut modifier, &mut collation);
        if tenant_type(of).is_none() {
            return Err(ColumnProblem::Type(session::text(pg_sys::format_type_be(of))));
        }
        if collation != pg_sys::InvalidOid && !pg_sys::get_collation_isdeterministic(collation) {
            return Err(ColumnProblem::Collation);
        }
    }
    Ok(())
}

/// Whether a table has a column of this name.
pub fn exists(oid: pg_sys::Oid, column: &str) -> bool {
    // SAFETY: a syscache look-up inside a transaction.
    std::ffi::CString::new(column).is_ok_and(|name| unsafe { pg_sys::get_attnum(oid, name.as_ptr()) > 0 })
}

/// A column of a table, if it may be a tenant column.
pub fn find(oid: pg_sys::Oid, column: &str) -> Option<KeyColumn> {
    let name = std::ffi::CString::new(column).ok()?;
    // SAFETY: syscache look-ups inside a transaction; a missing column has number 0.
    unsafe {
        let attnum = pg_sys::get_attnum(oid, name.as_ptr());
        if attnum <= 0 || pg_sys::get_attgenerated(oid, attnum) != 0 {
            return None;
        }
        Some(KeyColumn { attnum, of: tenant_type(pg_sys::get_atttype(oid, attnum))? })
    }
}

/// The family of a type, through domains.
pub fn tenant_type(type_oid: pg_sys::Oid) -> Option<TenantType> {
    // SAFETY: syscache look-ups inside a transaction.
    let base = unsafe { pg_sys::getBaseType(type_oid) };
    match base {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Some(TenantType::Integer),
        pg_sys::UUIDOID => Some(TenantType::Uuid),
        pg_sys::TEXTOID | pg_sys::VARCHAROID => Some(TenantType::Text),
        pg_sys::BYTEAOID => Some(TenantType::Bytea),
        // Citext comes with an extension, so it has no fixed number; the name and the extension's make it that.
        other => is_citext(other).then_some(TenantType::Citext),
    }
}

fn is_citext(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction; what is missing gives InvalidOid or null.
    unsafe {
        let extension = pg_sys::getExtensionOfObject(pg_sys::TypeRelationId, type_oid);
        if extension == pg_sys::InvalidOid || session::text(pg_sys::get_extension_name(extension)) != "citext" {
            return false;
        }
        session::text(pg_sys::format_type_be(type_oid)).ends_with("citext")
    }
}
