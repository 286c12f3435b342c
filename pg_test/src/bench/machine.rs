//! Where figures come from, told with them.

use std::process::Command;

use anyhow::{Context, Result};
use procfs::{CpuInfo, Current, LoadAverage, Meminfo};
use serde_json::{Value, json};

use crate::launcher::run;
use crate::setup::{Postgres, workspace};

/// The machine, the server, and how busy it all was.
pub struct Machine {
    processor: String,
    cores: usize,
    memory: u64,
    kernel: String,
    server: String,
    /// One minute's load average before the first round.
    load_before: f32,
    load_after: f32,
    /// The commit of the sources.
    pub commit: String,
}

impl Machine {
    /// Looks at it, before anything is measured.
    pub fn look(postgres: &Postgres) -> Result<Machine> {
        let processors = CpuInfo::current().context("/proc/cpuinfo")?;
        let processor = processors.model_name(0).unwrap_or("unknown processor").to_owned();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let load = load()?;
        Ok(Machine {
            processor,
            cores: std::thread::available_parallelism()?.get(),
            memory: Meminfo::current().context("/proc/meminfo")?.mem_total,
            kernel,
            server: server_version(postgres)?,
            load_before: load,
            load_after: load,
            commit: commit()?,
        })
    }

    /// Looks again, when everything is measured.
    pub fn finish(&mut self) -> Result<()> {
        self.load_after = load()?;
        Ok(())
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        format!(
            "{}, {} cores, {} GB of memory, Linux {}, {}; load average {:.1} before, {:.1} after",
            self.processor,
            self.cores,
            self.memory.div_ceil(1 << 30),
            self.kernel,
            self.server,
            self.load_before,
            self.load_after
        )
    }

    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "processor": self.processor, "cores": self.cores, "memory_bytes": self.memory, "kernel": self.kernel,
            "server": self.server, "load_before": self.load_before, "load_after": self.load_after,
            "commit": self.commit,
        })
    }
}

fn load() -> Result<f32> {
    Ok(LoadAverage::current().context("/proc/loadavg")?.one)
}

/// The server's version.
pub fn server_version(postgres: &Postgres) -> Result<String> {
    let mut ask = postgres.server_command("postgres");
    ask.arg("--version");
    let version = run(ask)?.succeeded("postgres --version")?;
    Ok(version.trim().replace("postgres (PostgreSQL)", "PostgreSQL"))
}

/// The commit that is checked out, and whether something isn't committed.
pub fn commit() -> Result<String> {
    let mut git = Command::new("git");
    // What this writes itself isn't a change of what is measured.
    let written = [":(exclude)README.md", ":(exclude)pg_test/src/bench/instructions.md"];
    git.current_dir(workspace()).args(["rev-parse", "--short=12", "HEAD"]);
    let commit = run(git)?.succeeded("git rev-parse")?.trim().to_owned();
    let mut git = Command::new("git");
    git.current_dir(workspace()).args(["status", "--porcelain", "--untracked-files=no", "--", "."]).args(written);
    let changed = run(git)?.succeeded("git status")?;
    Ok(if changed.trim().is_empty() { commit } else { format!("{commit}, with changes") })
}
