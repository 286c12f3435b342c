//! Tenant keys as they lie in rows. A *raw key* is a tag for the column's type and the value's bytes: it identifies a value
//! within this database and costs no conversion; many spellings of a key across types have one canonical form.

use pgrx::pg_sys;

use super::known::{NO_KEY, Short};
use super::{compat, session};
use crate::policy::tenant::{TenantKey, TenantType};

/// A column of a tenant key, in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its number there.
    pub attnum: pg_sys::AttrNumber,
    /// The family of its type.
    pub of: TenantType,
}

/// A value as it lies in the row.
enum Raw<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// An integer of any width.
    Integer(i64),
    /// Compressed or stored out of line: must be unpacked first.
    Packed,
}

/// Looks at a value in place. A plain frame.
///
/// # Safety
/// The value is of a type of this family, and stays where it is as long as the result is used.
unsafe fn look<'a>(of: TenantType, value: pg_sys::Datum) -> Raw<'a> {
    match of {
        // A narrower integer is stored sign-extended.
        TenantType::Integer => Raw::Integer(value.value() as i64),
        // SAFETY: a uuid is 16 bytes.
        TenantType::Uuid => Raw::Bytes(unsafe { std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), 16) }),
        TenantType::Text | TenantType::Citext | TenantType::Bytea => {
            let varlena = value.cast_mut_ptr::<pg_sys::varlena>();
            // SAFETY: these types are varlenas, and only a plain one is read in place.
            unsafe {
                if pgrx::varatt_is_1b_e(varlena) || pgrx::varatt_is_4b_c(varlena) {
                    Raw::Packed
                } else {
                    Raw::Bytes(pgrx::varlena_to_byte_slice(varlena))
                }
            }
        }
    }
}

/// Whether a value has this raw key. A plain frame; a packed value is said not to.
///
/// # Safety
/// As for [`look`].
pub unsafe fn is(raw: &[u8], of: TenantType, value: pg_sys::Datum) -> bool {
    // SAFETY: the caller gives a value of this family.
    match unsafe { look(of, value) } {
        Raw::Bytes(bytes) => raw.len() == bytes.len() + 1 && raw[0] == tag(of) && raw[1..] == *bytes,
        Raw::Integer(number) => raw.len() == 9 && raw[1..] == number.to_ne_bytes(),
        Raw::Packed => false,
    }
}

/// 16 bytes that only this value of its type has; none for what is longer. A plain frame.
///
/// # Safety
/// As for [`look`].
pub unsafe fn exact(of: TenantType, value: pg_sys::Datum) -> Option<Short> {
    // SAFETY: the caller gives a value of this family.
    let bytes = match unsafe { look(of, value) } {
        Raw::Integer(number) => return Some([number as u64, 0]),
        Raw::Bytes(bytes) => bytes,
        Raw::Packed => return None,
    };
    let mut key = [0; size_of::<Short>()];
    key.get_mut(..bytes.len())?.copy_from_slice(bytes);
    if of != TenantType::Uuid {
        // Tells bytes that are zero from those that aren't there.
        let last = key.last_mut().filter(|_| bytes.len() < size_of::<Short>())?;
        *last = u8::try_from(bytes.len()).ok()?;
    }
    let (low, high) = key.split_at(size_of::<u64>());
    let key = [u64::from_ne_bytes(low.try_into().ok()?), u64::from_ne_bytes(high.try_into().ok()?)];
    (key != NO_KEY).then_some(key)
}

/// Whether two values have the same raw key. A plain frame; packed ones are said not to.
///
/// # Safety
/// As for [`look`].
pub unsafe fn same(of: TenantType, one: pg_sys::Datum, other: pg_sys::Datum) -> bool {
    // SAFETY: the caller gives values of this family.
    match unsafe { (look(of, one), look(of, other)) } {
        (Raw::Bytes(one), Raw::Bytes(other)) => one == other,
        (Raw::Integer(one), Raw::Integer(other)) => one == other,
        _ => false,
    }
}

/// Tells apart equal bytes of different types.
fn tag(of: TenantType) -> u8 {
    match of {
        TenantType::Integer => b'i',
        TenantType::Uuid => b'u',
        TenantType::Text => b't',
        TenantType::Citext => b'c',
        TenantType::Bytea => b'b',
    }
}

/// The tag of a key of several columns. Behind it each is a raw key of its own, after its length.
const COMPOSITE: u8 = b'r';

/// The raw key in a row; none if one of its columns is null.
pub fn of_row(columns: &[KeyColumn], value: &dyn Fn(pg_sys::AttrNumber) -> Option<pg_sys::Datum>) -> Option<Vec<u8>> {
    if let [only] = columns {
        return Some(raw(only.of, value(only.attnum)?));
    }
    let mut key = vec![COMPOSITE];
    for column in columns {
        let component = raw(column.of, value(column.attnum)?);
        // A value is never longer than a gigabyte.
        key.extend_from_slice(&u32::try_from(component.len()).unwrap_or(u32::MAX).to_ne_bytes());
        key.extend_from_slice(&component);
    }
    Some(key)
}

/// What follows the tag of a key of several columns; none if it is one of a single column.
pub fn components(raw: &[u8]) -> Option<&[u8]> {
    raw.strip_prefix(&[COMPOSITE])
}

/// Takes the raw key of the next column from the front of what [`components`] gave. A plain frame.
pub fn next_component<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_ne_bytes(take(rest, size_of::<u32>())?.try_into().ok()?);
    take(rest, length as usize)
}

/// The raw key of a value.
fn raw(of: TenantType, value: pg_sys::Datum) -> Vec<u8> {
    let number;
    // SAFETY: the value is of the column's type.
    let bytes = match unsafe { look(of, value) } {
        Raw::Bytes(bytes) => bytes,
        Raw::Integer(integer) => {
            number = integer.to_ne_bytes();
            &number
        }
        Raw::Packed => unpacked(value),
    };
    let mut raw = Vec::with_capacity(1 + bytes.len());
    raw.push(tag(of));
    raw.extend_from_slice(bytes);
    raw
}

/// The raw key of a tenant that a table belongs to as a whole.
pub fn constant(tenant: &TenantKey) -> Vec<u8> {
    let mut raw = vec![tag(TenantType::Text)];
    raw.extend_from_slice(tenant.as_str().as_bytes());
    raw
}

/// The canonical key of a raw one.
pub fn canonical(raw: &[u8]) -> TenantKey {
    let (tag, bytes) = raw.split_first().unwrap_or((&b't', &[]));
    match *tag {
        b'i' => TenantKey::integer(i64::from_ne_bytes(bytes.try_into().unwrap_or_default())),
        b'u' => TenantKey::uuid(bytes.try_into().unwrap_or(&[0; 16])),
        b'c' => fold(&String::from_utf8_lossy(bytes)),
        b'b' => TenantKey::bytea(bytes),
        COMPOSITE => {
            let mut rest = bytes;
            let keys: Vec<TenantKey> = std::iter::from_fn(|| next_component(&mut rest)).map(canonical).collect();
            TenantKey::composite(&keys)
        }
        _ => TenantKey::text(&String::from_utf8_lossy(bytes)),
    }
}

/// Citext's way to lower case: by the database's default collation.
pub fn fold(text: &str) -> TenantKey {
    // SAFETY: str_tolower takes a length, and gives a palloc'd C string or raises an error, which the boundary turns into
    // a panic that unwinds over this frame.
    let lower = unsafe {
        compat::guarded(|| compat::str_tolower(text.as_ptr().cast(), text.len(), pg_sys::DEFAULT_COLLATION_OID))
    };
    // SAFETY: a C string.
    TenantKey::text(&unsafe { session::text(lower) })
}

/// Appends what identifies a value of any type among those of its type.
pub fn append_bytes(to: &mut Vec<u8>, of: pg_sys::Oid, value: pg_sys::Datum) {
    let (mut length, mut by_value) = (0, false);
    // SAFETY: a syscache look-up of a column's type.
    unsafe { pg_sys::get_typlenbyval(of, &mut length, &mut by_value) };
    match usize::try_from(length) {
        _ if by_value => to.extend_from_slice(&value.value().to_ne_bytes()),
        Ok(length) => {
            // SAFETY: a type of fixed length that is passed by reference has that many bytes.
            to.extend_from_slice(unsafe { std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), length) });
        }
        // A negative length means a varlena; of C strings no table is made.
        Err(_) => {
            let bytes = unpacked(value);
            to.extend_from_slice(&bytes.len().to_ne_bytes());
            to.extend_from_slice(bytes);
        }
    }
}

/// Takes a value that [`append_bytes`] appended from the front of `bytes`, in the current memory context.
pub fn take_value(bytes: &mut &[u8], of: pg_sys::Oid) -> Option<pg_sys::Datum> {
    let (mut length, mut by_value) = (0, false);
    // SAFETY: as above.
    unsafe { pg_sys::get_typlenbyval(of, &mut length, &mut by_value) };
    if by_value {
        return Some(pg_sys::Datum::from(usize::from_ne_bytes(take(bytes, size_of::<usize>())?.try_into().ok()?)));
    }
    if let Ok(length) = usize::try_from(length) {
        return Some(pg_sys::Datum::from(copy(take(bytes, length)?, 0)));
    }
    let length = usize::from_ne_bytes(take(bytes, size_of::<usize>())?.try_into().ok()?);
    let varlena = copy(take(bytes, length)?, pg_sys::VARHDRSZ).cast::<pg_sys::varlena>();
    // SAFETY: there is room for the header, and it fits: the value came out of one.
    unsafe { pgrx::set_varsize_4b(varlena, i32::try_from(length + pg_sys::VARHDRSZ).ok()?) };
    Some(pg_sys::Datum::from(varlena))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Copies bytes into the current memory context, behind room for a header.
fn copy(bytes: &[u8], header: usize) -> *mut u8 {
    // SAFETY: the memory is as long as header and bytes together.
    unsafe {
        let to = pg_sys::palloc0(header + bytes.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(header), bytes.len());
        to
    }
}

/// The bytes of a varlena, unpacked into the current memory context where it must be.
fn unpacked<'a>(value: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the callers give a varlena.
    unsafe { pgrx::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr::<pg_sys::varlena>())) }
}
