//! README.md's ways to make a token: each is run as it stands there, and what it prints is shown to the server.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Test;
use super::documentation::readme::Readme;
use super::guarded::{FOREIGN_WRITE, Guarded};
use crate::cluster::Cluster;
use crate::launcher::{clean_environment, run};
use crate::setup::{Program, python_with_jwt};

const OPENSSL: Program = Program::Debian("openssl", "openssl");

/// What README.md shows.
pub fn tests() -> Vec<Test> {
    vec![
        Test::shared("a_shell_makes_a_token", in_a_shell).needs_program(OPENSSL),
        Test::shared("python_makes_a_token", in_python).needs_program(Program::PythonWithJwt),
        Test::shared("node_makes_a_token", in_node).needs_program(Program::Debian("node", "nodejs")),
    ]
}

fn in_a_shell(cluster: &Cluster) -> Result<()> {
    makes_a_token(cluster, "sh", Command::new("sh"), "-c")
}

fn in_python(cluster: &Cluster) -> Result<()> {
    makes_a_token(cluster, "python", python_with_jwt(), "-c")
}

fn in_node(cluster: &Cluster) -> Result<()> {
    makes_a_token(cluster, "js", Command::new("node"), "-e")
}

/// The keys are made as README.md says, and so is the token, which raises a session of the rebuilt backend.
fn makes_a_token(cluster: &Cluster, language: &str, mut program: Command, takes: &str) -> Result<()> {
    let guarded = Guarded::enforcing(cluster, "minting")?;
    let folder = cluster.postgres().folder(&format!("minting_{language}"))?;
    let readme = Readme::read()?;
    let keys = readme.commands_with("genpkey")?;
    let mut shell = Command::new("sh");
    shell.arg("-ec").arg(keys.join("\n")).current_dir(&folder);
    let public = run(shell)?.succeeded("making keys")?;
    let public = public.lines().last().context("no public key")?;
    let mut dba = guarded.database.connect()?;
    dba.exec(&format!("SELECT holdfast.add_key('legacy', '{public}', label => 'an issuer')"))?;

    clean_environment(&mut program);
    program.arg(takes).arg(readme.code(language)?).current_dir(&folder);
    program.env("LABEL", "an issuer").env("DATABASE", &guarded.database.name);
    let token = run(program)?.succeeded(language)?;
    let token = token.trim();
    ensure!(token.split('.').count() == 3, "{token}");
    let mut session = guarded.rebuilt()?;
    let mut transaction = session.transaction()?;
    let backend: String = transaction.query_one("SELECT holdfast.identify($1)", &[&token])?.try_get(0)?;
    ensure!(backend == "legacy", "{backend}");
    transaction.batch_execute(FOREIGN_WRITE)?;
    transaction.commit()?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}
