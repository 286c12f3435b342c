//! Starting programs so that none of them outlives the harness.
//!
//! The kernel's parent-death signal is sent when the *thread* that forked the child ends, so every
//! child is forked by one thread that lives as long as the process; test threads come and go.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

use crate::ui::Step;

type Job = (Command, mpsc::Sender<io::Result<Child>>);

static LAUNCHER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

/// Starts `command`; it is sent `on_death` when the harness dies, however that happens.
pub fn spawn(mut command: Command, on_death: Signal) -> Result<Child> {
    die_with_parent(&mut command, on_death);
    spawn_surviving(command)
}

/// Starts `command` such that it may outlive the harness.
pub fn spawn_surviving(command: Command) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (reply, child) = mpsc::channel();
    let launcher = LAUNCHER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in jobs {
                // The asker has gone only if it panicked; nobody is left to tell.
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    launcher.send((command, reply)).map_err(|_| anyhow!("the launcher thread has ended"))?;
    child.recv().context("the launcher thread has ended")?.with_context(|| format!("starting {program}"))
}

/// What a finished program left behind.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output and standard error, interleaved as they came.
    pub output: String,
}

impl Finished {
    /// The output, or an error that quotes all of it.
    pub fn succeeded(self, what: &str) -> Result<String> {
        if self.status.success() {
            Ok(self.output)
        } else {
            Err(anyhow!("{what} failed ({}):\n{}", self.status, self.output.trim_end()))
        }
    }
}

/// Runs `command` to its end with its last line of output as the step's note.
pub fn run_noting(mut command: Command, step: &Step) -> Result<Finished> {
    let (reader, writer) = io::pipe().context("creating a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    // `spawn` consumes the command and with it our ends for writing; else reading never ends.
    let mut child = spawn(command, Signal::SIGTERM)?;
    let mut output = Vec::new();
    let mut lines = BufReader::new(reader);
    loop {
        let start = output.len();
        if lines.read_until(b'\n', &mut output)? == 0 {
            break;
        }
        step.note(&String::from_utf8_lossy(&output[start..]));
    }
    let status = child.wait()?;
    Ok(Finished { status, output: String::from_utf8_lossy(&output).into_owned() })
}

/// Runs `command` to its end.
pub fn run(mut command: Command) -> Result<Finished> {
    let (mut reader, writer) = io::pipe().context("creating a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = spawn(command, Signal::SIGTERM)?;
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    let status = child.wait()?;
    Ok(Finished { status, output: String::from_utf8_lossy(&output).into_owned() })
}

/// Takes out of `command`'s environment what the outer `cargo run` put in for us, and what would
/// change how PostgreSQL's programs or the extension's build behave.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "PG"];
        let exact = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "LD_LIBRARY_PATH", "LD_PRELOAD"];
        if ours.iter().any(|prefix| text.starts_with(prefix)) || exact.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
}

#[allow(unsafe_code, reason = "the parent-death signal can only be asked for between fork and exec")]
fn die_with_parent(command: &mut Command, on_death: Signal) {
    let parent = getpid();
    let ask = move || {
        prctl::set_pdeathsig(on_death)?;
        // The parent may have died before the request was made.
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed; the closure makes two
    // plain system calls, captures Copy values only and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(ask);
    }
}
