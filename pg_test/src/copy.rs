//! Copying folder trees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use walkdir::WalkDir;

/// Copies the tree `from` into the folder `to`, adding to what is there. Permissions are kept,
/// owners not; links that lead out of the tree lead to the same place afterwards.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        copy_entry(entry.path(), from, &target).with_context(|| format!("copying {}", entry.path().display()))?;
    }
    Ok(())
}

fn copy_entry(source: &Path, root: &Path, target: &Path) -> Result<()> {
    let metadata = source.symlink_metadata()?;
    if metadata.is_dir() {
        fs::create_dir_all(target)?;
        fs::set_permissions(target, metadata.permissions())?;
    } else if metadata.is_symlink() {
        match source.canonicalize() {
            Ok(inside) if inside.starts_with(root) => symlink(fs::read_link(source)?, target)?,
            Ok(outside) => symlink(outside, target)?,
            // A dangling link is of no use to anybody.
            Err(_) => {}
        }
    } else if metadata.is_file() {
        fs::copy(source, target)?;
    }
    Ok(())
}
