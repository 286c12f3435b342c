//! The same script on servers with and without holdfast: what psql prints must not differ.

use anyhow::{Result, bail, ensure};

use crate::cluster::Cluster;

/// A script's surroundings.
pub struct Script<'a> {
    /// The database it runs in.
    pub database: &'a str,
    /// The login role.
    pub role: &'a str,
    /// psql's variables.
    pub variables: &'a [(&'a str, &'a str)],
    /// Environment of psql and of what the script starts.
    pub environment: &'a [(&'a str, &'a str)],
}

impl Script<'_> {
    /// What psql prints, errors in place with all that the server says, without what differs by nature: the database's
    /// name, and the process ids of notifications.
    pub fn run(&self, cluster: &Cluster, sql: &str) -> Result<String> {
        self.psql(cluster, "false", sql).map(|(_, printed)| printed)
    }

    /// The same for a script that must not fail.
    pub fn succeed(&self, cluster: &Cluster, sql: &str) -> Result<()> {
        let (success, printed) = self.psql(cluster, "true", sql)?;
        ensure!(success, "the script failed in {}:\n{printed}", self.database);
        Ok(())
    }

    fn psql(&self, cluster: &Cluster, stop: &str, sql: &str) -> Result<(bool, String)> {
        let mut command = cluster.command("/bin/sh");
        command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(cluster.postgres().bin("psql"));
        command.args(["-X", "-v", "VERBOSITY=verbose", "-v", "SHOW_CONTEXT=always"]);
        for (name, value) in self.variables.iter().chain(&[("ON_ERROR_STOP", stop)]) {
            command.args(["-v", &format!("{name}={value}")]);
        }
        command.args(["-f", "-", "-U", self.role, "-d", self.database]);
        // For what scripts run beside themselves.
        command.env("PATH", format!("{}:/usr/bin:/bin", cluster.postgres().bin("").display()));
        command.envs(self.environment.iter().copied());
        let done = cluster.output(command, sql)?;
        let text = String::from_utf8_lossy(&done.stdout);
        let text = text.replace(&format!("\"{}\"", self.database), "\"<database>\"");
        Ok((done.status.success(), without_process_ids(&text)))
    }
}

fn without_process_ids(text: &str) -> String {
    let mut parts = text.split(" with PID ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, rest| text + " with PID " + rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// An error that shows each differing case whole, both ways.
pub fn compare(place: &str, expected: &str, actual: &str) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    let (expected, actual) = (cases(expected), cases(actual));
    let mut report = format!("{place}:\n");
    for ((name, without), (_, with)) in expected.iter().zip(&actual).filter(|(a, b)| a != b) {
        report.push_str(&format!("--- {name}, without holdfast\n{without}\n--- {name}, with holdfast\n{with}\n"));
    }
    if expected.len() != actual.len() {
        report.push_str(&format!("{} cases without holdfast, {} with it\n", expected.len(), actual.len()));
    }
    bail!("{report}")
}

/// The parts between the lines `== name`.
fn cases(output: &str) -> Vec<(&str, &str)> {
    output.split("== ").filter_map(|case| case.split_once('\n')).collect()
}
