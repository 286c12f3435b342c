//! The spool: a file for each database that needs one, `holdfast/<oid>.<birth>.spool` in the data directory, to which
//! events are appended that no worker could commit in time. Every record is on disk before its refusal is raised.
//!
//! A worker that takes a spool in renames it first, to `holdfast/<oid>.<birth>.taken`, so that nobody writes to it any
//! more, and removes it when its events are committed. The same transaction writes the file's birth to
//! `holdfast.audit_batch`: neither a crash before the removal nor a copy of the file in a base backup counts twice.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pgrx::pg_sys;

use super::memory::{self, Uninterrupted};
use crate::pg::{compat, gucs};

/// In the data directory, where every process of the server has its working directory.
const DIRECTORY: &str = "holdfast";

/// Why an event is not in the spool.
#[derive(Debug)]
pub enum SpoolError {
    /// It has reached `holdfast.audit_spool_size`.
    Full,
    /// The system says no.
    Io(io::Error),
    /// The event is none.
    Unreadable(serde_json::Error),
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpoolError::Full => f.write_str("the spool has reached holdfast.audit_spool_size"),
            SpoolError::Io(error) => write!(f, "the spool can't be written: {error}"),
            SpoolError::Unreadable(error) => write!(f, "it can't be read: {error}"),
        }
    }
}

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> SpoolError {
        SpoolError::Io(error)
    }
}

/// Appends a record to a database's spool; it is taken in even if this process is killed now, but outlives the machine only
/// when it is synced.
///
/// # Errors
/// When the spool has no room or can't be written. Nothing of the record is in it then.
pub fn append(database: pg_sys::Oid, record: &[u8]) -> Result<Appended, SpoolError> {
    match memory::spool_locked(|| append_locked(database, record)) {
        Some(appended) => Ok(Appended { file: appended?, record: record.to_vec() }),
        None => Err(SpoolError::Io(io::ErrorKind::NotFound.into())),
    }
}

/// A record that was appended.
pub struct Appended {
    file: File,
    record: Vec<u8>,
}

impl Appended {
    /// Brings the file as it is to the disk. Not under the lock: writers that sync together share the disk's effort.
    pub fn sync(self) {
        if let Err(error) = self.file.sync_data() {
            // It will be taken in unless the machine fails first; then the log has it. Without interrupts, since others may
            // wait for this process.
            let _uninterrupted = Uninterrupted::begin();
            let record = String::from_utf8_lossy(&self.record);
            pgrx::log!("holdfast: event in the spool that could not be synced: {error}: {record}");
        }
    }
}

fn append_locked(database: pg_sys::Oid, record: &[u8]) -> Result<File, SpoolError> {
    let own: Vec<SpoolFile> = files()?.into_iter().filter(|f| f.database == database).collect();
    let used: u64 = own.iter().map(SpoolFile::size).sum();
    if used + record.len() as u64 > gucs::audit_spool_size() {
        return Err(SpoolError::Full);
    }
    let mut file = match own.into_iter().find(|f| !f.taken) {
        Some(open) => OpenOptions::new().append(true).open(open.path)?,
        None => create(database)?,
    };
    let length = file.metadata()?.len();
    if let Err(error) = file.write_all(record) {
        // Half a record would be taken for damage.
        file.set_len(length)?;
        return Err(error.into());
    }
    Ok(file)
}

fn create(database: pg_sys::Oid) -> io::Result<File> {
    if !Path::new(DIRECTORY).exists() {
        // SAFETY: set at start; a group of operating system users may be let in to make backups.
        DirBuilder::new().mode(unsafe { compat::pg_dir_create_mode } as u32).create(DIRECTORY)?;
        sync_directory(Path::new("."))?;
    }
    let path = Path::new(DIRECTORY).join(format!("{}.{}.spool", database.to_u32(), memory::now()));
    // SAFETY: as above.
    let mode = unsafe { compat::pg_file_create_mode } as u32;
    let file = OpenOptions::new().append(true).create_new(true).mode(mode).open(&path)?;
    if let Err(error) = sync_directory(Path::new(DIRECTORY)) {
        // So that the next one tries again.
        fs::remove_file(&path)?;
        return Err(error);
    }
    Ok(file)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A spool that a worker takes in.
pub struct TakenFile {
    path: PathBuf,
    /// When the file was made, in microseconds since 2000-01-01 UTC; names it for ever.
    pub birth: i64,
}

impl TakenFile {
    /// The whole file.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        fs::read(&self.path)
    }

    /// It can't be read, and must not be in the way of others.
    pub fn set_aside(self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("unreadable"))
    }

    /// Its events are committed.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        sync_directory(Path::new(DIRECTORY))
    }
}

/// The oldest spool of a database, which nobody writes to any more. None if there is none.
pub fn take(database: pg_sys::Oid) -> io::Result<Option<TakenFile>> {
    let taken = memory::spool_locked(|| {
        let own = files()?.into_iter().filter(|f| f.database == database);
        let Some(oldest) = own.min_by_key(|f| f.birth) else { return Ok(None) };
        let path = oldest.path.with_extension("taken");
        if !oldest.taken {
            fs::rename(&oldest.path, &path)?;
        }
        Ok(Some(TakenFile { path, birth: oldest.birth }))
    });
    taken.unwrap_or(Ok(None))
}

/// Removes what a database has in the spool.
pub fn remove(database: pg_sys::Oid) -> io::Result<()> {
    for file in files()?.into_iter().filter(|f| f.database == database) {
        fs::remove_file(file.path)?;
    }
    Ok(())
}

/// The databases that have something in the spool, each once.
pub fn databases() -> Vec<pg_sys::Oid> {
    let mut databases: Vec<u32> = files().unwrap_or_default().into_iter().map(|f| f.database.to_u32()).collect();
    databases.sort_unstable();
    databases.dedup();
    databases.into_iter().map(pg_sys::Oid::from).collect()
}

/// Whether a database has something in the spool.
pub fn is_used(database: pg_sys::Oid) -> io::Result<bool> {
    Ok(files()?.iter().any(|f| f.database == database))
}

/// How many bytes a database has in the spool.
pub fn size(database: pg_sys::Oid) -> u64 {
    files().unwrap_or_default().iter().filter(|f| f.database == database).map(SpoolFile::size).sum()
}

struct SpoolFile {
    path: PathBuf,
    database: pg_sys::Oid,
    birth: i64,
    taken: bool,
}

impl SpoolFile {
    fn size(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |m| m.len())
    }
}

fn files() -> io::Result<Vec<SpoolFile>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(entries.flatten().filter_map(|entry| parse(&entry.path())).collect())
}

fn parse(path: &Path) -> Option<SpoolFile> {
    let taken = match path.extension()?.to_str()? {
        "spool" => false,
        "taken" => true,
        _ => return None,
    };
    let (database, birth) = path.file_stem()?.to_str()?.split_once('.')?;
    let database = pg_sys::Oid::from(database.parse::<u32>().ok()?);
    Some(SpoolFile { path: path.to_owned(), database, birth: birth.parse().ok()?, taken })
}
