//! One postmaster process: starting it as our child, waiting until it answers, ending it in the
//! four ways it can end.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::endpoint::Endpoint;
use crate::launcher::{spawn, spawn_surviving};
use crate::lifecycle::{hold_if_interrupted, postmaster_ended, postmaster_started};
use crate::setup::Postgres;
use crate::wait::within;

/// Crash recovery included.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// How a server goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Waits for the sessions to end.
    Smart,
    /// Ends the sessions, writes a checkpoint.
    Fast,
    /// Without a checkpoint; recovers at the next start.
    Immediate,
    /// kill -9 of the postmaster and everything it started.
    Kill9,
}

/// A running server.
pub struct Server {
    child: Child,
    left: bool,
}

impl Server {
    /// Starts postgres on `data` and waits until it answers at `endpoint`. A `keepable` server may
    /// be left running; it isn't stopped when the harness is killed.
    pub fn start(postgres: &Postgres, data: &Path, log: &Path, endpoint: &Endpoint, keepable: bool) -> Result<Server> {
        Server::launch(postgres.server_command("postgres"), data, log, endpoint, keepable)
    }

    /// As [`start`](Server::start), run by another program: the first of `wrapper`, with the others as arguments.
    pub fn start_below(
        wrapper: &[String],
        postgres: &Postgres,
        data: &Path,
        log: &Path,
        endpoint: &Endpoint,
    ) -> Result<Server> {
        let (program, arguments) = wrapper.split_first().context("no program to run the server")?;
        let mut command = postgres.server_command(program);
        command.args(arguments).arg(postgres.bin("postgres"));
        Server::launch(command, data, log, endpoint, false)
    }

    fn launch(mut command: Command, data: &Path, log: &Path, endpoint: &Endpoint, keepable: bool) -> Result<Server> {
        hold_if_interrupted();
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        // A process group of its own: ^C in the terminal is for the harness, which then stops us.
        command.arg("-D").arg(data).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = if keepable {
            spawn_surviving(command)?
        } else {
            // SIGQUIT: immediate shutdown. Nobody needs the data any more.
            spawn(command, Signal::SIGQUIT)?
        };
        let mut server = Server { child, left: false };
        postmaster_started(server.pid());
        let ready = within(START_DEADLINE, "the server to accept connections", || {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended while starting ({status})");
            }
            Ok(endpoint.config("postgres", "postgres").connect(postgres::NoTls).is_ok())
        });
        match ready {
            Ok(()) => Ok(server),
            Err(error) => {
                let _ = server.kill9();
                Err(error.context(format!("server log:\n{}", tail(log, 0, 40))))
            }
        }
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Whether the postmaster has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Brings the server down and waits until nothing of it is left.
    pub fn stop(&mut self, how: Shutdown) -> Result<()> {
        let signal = match how {
            Shutdown::Smart => Signal::SIGTERM,
            Shutdown::Fast => Signal::SIGINT,
            Shutdown::Immediate => Signal::SIGQUIT,
            Shutdown::Kill9 => return self.kill9(),
        };
        if self.child.try_wait()?.is_none() {
            kill(self.pid(), signal).context("signalling the postmaster")?;
            let child = &mut self.child;
            within(STOP_DEADLINE, "the server to stop", || Ok(child.try_wait()?.is_some()))?;
        }
        postmaster_ended(self.pid());
        Ok(())
    }

    /// Lets it run on after the harness has ended.
    pub fn leave_running(mut self) {
        postmaster_ended(self.pid());
        self.left = true;
    }

    fn kill9(&mut self) -> Result<()> {
        let postmaster = self.pid();
        // As when a machine fails: nobody goes on while others are gone. A session that notices the postmaster's end gives its locks
        // to others.
        let runs = self.child.try_wait()?.is_none();
        if runs {
            kill(postmaster, Signal::SIGSTOP).context("stopping the postmaster")?;
        }
        let sessions = children(postmaster)?;
        for pid in &sessions {
            let _ = kill(*pid, Signal::SIGSTOP);
        }
        // The postmaster first, so that it can't react to the loss of its children.
        if runs {
            kill(postmaster, Signal::SIGKILL).context("killing the postmaster")?;
            self.child.wait()?;
        }
        postmaster_ended(postmaster);
        for pid in &sessions {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        within(STOP_DEADLINE, "the killed server's processes to vanish", || {
            Ok(sessions.iter().all(|pid| !is_running(*pid)))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        if self.stop(Shutdown::Immediate).or_else(|_| self.kill9()).is_err() {
            hold_if_interrupted();
            eprintln!("could not stop the server with process id {}", self.child.id());
        }
    }
}

/// Sessions leave the postmaster's process group at once, but it stays their parent.
fn children(parent: Pid) -> Result<Vec<Pid>> {
    let processes = procfs::process::all_processes().context("reading /proc")?;
    Ok(processes
        .flatten()
        .filter_map(|process| process.stat().ok())
        .filter(|stat| stat.ppid == parent.as_raw())
        .map(|stat| Pid::from_raw(stat.pid))
        .collect())
}

fn is_running(pid: Pid) -> bool {
    let stat = procfs::process::Process::new(pid.as_raw()).and_then(|process| process.stat());
    // An orphan stays a zombie where the container's first process doesn't reap.
    stat.is_ok_and(|stat| stat.state != 'Z')
}

/// The last `lines` lines of a log, not before the byte `from`.
pub fn tail(log: &Path, from: u64, lines: usize) -> String {
    match read_from(log, from) {
        Ok(text) => {
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({error:#})"),
    }
}

/// A log from the byte `from` on.
pub fn read_from(log: &Path, from: u64) -> Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(log).map_err(|error| anyhow!("no log at {}: {error}", log.display()))?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
