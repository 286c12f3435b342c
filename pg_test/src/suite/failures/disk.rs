//! No room left for what a handover writes.

use super::super::Test;

/// Tests of full disks.
pub fn tests() -> Vec<Test> {
    Vec::new()
}
