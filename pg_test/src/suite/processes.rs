//! The extension's processes as the operating system sees them; the launcher has no database, so no view shows it.

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;

use crate::cluster::Cluster;

/// Process ids of the launcher: one, unless it is being replaced.
pub fn launchers(cluster: &Cluster) -> Result<Vec<i32>> {
    titled(cluster, "holdfast launcher")
}

/// Process ids of the drain workers.
pub fn drains(cluster: &Cluster) -> Result<Vec<i32>> {
    titled(cluster, "holdfast worker")
}

/// Process ids of the cluster's server processes whose title begins so: a kind of process, or a role.
pub fn titled(cluster: &Cluster, title: &str) -> Result<Vec<i32>> {
    titled_below(cluster.postmaster_pid()?, title)
}

/// The same by the postmaster's process id, for threads that outlive a borrow of the cluster.
pub fn titled_below(postmaster: i32, title: &str) -> Result<Vec<i32>> {
    let title = format!("postgres: {title} ");
    let children = procfs::process::all_processes()?.flatten().filter(|process| {
        // A process may end while it is looked at.
        let ours = process.stat().is_ok_and(|stat| stat.ppid == postmaster && stat.state != 'Z');
        ours && process.cmdline().is_ok_and(|words| format!("{} ", words.join(" ")).starts_with(&title))
    });
    Ok(children.map(|process| process.pid).collect())
}

/// Sends a signal; an error if there is no such process any more.
pub fn send(pid: i32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(pid), signal)?)
}

/// Bytes of a process that no other has; 0 if it has ended.
pub fn own_memory(pid: i32) -> u64 {
    let status = Process::new(pid).and_then(|process| process.status());
    status.ok().and_then(|status| status.rssanon).unwrap_or_default() * 1024
}
