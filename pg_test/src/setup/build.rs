//! Building the extension with cargo-pgrx, and not building it when nothing changed.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use walkdir::WalkDir;

use super::assertions::{self, has_assertions};
use super::locate::{Server, newest_llvm_lib, on_path};
use crate::launcher::{clean_environment, run_noting};
use crate::ui::Ui;

/// What the packaged extension is made of, relative to the workspace.
const INGREDIENTS: [&str; 5] = ["src", "sql", "Cargo.toml", "Cargo.lock", "holdfast.control"];

/// The top of the workspace this harness was compiled in.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where cargo builds, and where this harness keeps what it needs from run to run.
pub fn target_folder() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => workspace().join(folder),
        None => workspace().join("target"),
    }
}

/// The cargo that runs us, at the top of the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// What any cargo command needs to compile the extension for one server: pgrx's configuration in
/// a home of our own, and the way to libclang.
#[derive(Clone, Debug)]
pub struct BuildEnvironment {
    target: PathBuf,
    pgrx_home: PathBuf,
    libclang: Option<PathBuf>,
    feature: String,
    assertions: bool,
}

impl BuildEnvironment {
    /// Writes pgrx's configuration for `server`.
    pub fn prepare(server: &Server) -> Result<BuildEnvironment> {
        let assertions = has_assertions(server)?;
        let target = if assertions { assertions::build_folder() } else { target_folder() };
        let pgrx_home = target.join("pgrx-home");
        fs::create_dir_all(&pgrx_home)?;
        let feature = format!("pg{}", server.major);
        configure_pgrx(&pgrx_home.join("config.toml"), &feature, &server.pg_config)?;
        // bindgen asks an llvm-config on PATH by itself. The variable is part of cargo's
        // fingerprint: setting it needlessly makes a plain `cargo build` compile everything anew.
        let told = env::var_os("LIBCLANG_PATH").is_some() || on_path("llvm-config").is_some();
        let libclang = if told { None } else { newest_llvm_lib() };
        Ok(BuildEnvironment { target, pgrx_home, libclang, feature, assertions })
    }

    /// A cargo command with this environment. RUSTFLAGS would break pgrx's schema generation.
    pub fn cargo(&self) -> Command {
        let mut command = cargo();
        self.apply(&mut command);
        command
    }

    /// The arguments that choose the server's version.
    pub fn features(&self) -> [&str; 3] {
        ["--no-default-features", "--features", &self.feature]
    }

    fn apply(&self, command: &mut Command) {
        clean_environment(command);
        command.env("PGRX_HOME", &self.pgrx_home);
        command.env("CARGO_TARGET_DIR", &self.target);
        if let Some(libclang) = &self.libclang {
            command.env("LIBCLANG_PATH", libclang);
        }
        if self.assertions {
            // Ours, and the standard library's checks of what unsafe code promises it. Such a build needn't be fast.
            for (setting, value) in [
                ("DEBUG_ASSERTIONS", "true"),
                ("OVERFLOW_CHECKS", "true"),
                ("OPT_LEVEL", "1"),
                ("LTO", "off"),
                ("CODEGEN_UNITS", "16"),
            ] {
                command.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
            }
        }
    }
}

/// Sets one line `pgN = "…"` and keeps those of other majors. The file isn't touched without need:
/// pgrx-pg-sys is compiled anew whenever it changes.
fn configure_pgrx(file: &Path, feature: &str, pg_config: &Path) -> Result<()> {
    let before = fs::read_to_string(file).unwrap_or_default();
    let line = format!("{feature} = {}", serde_json::to_string(pg_config)?);
    let start = format!("{feature} =");
    let mut lines: Vec<&str> = before
        .lines()
        .filter(|other| other.starts_with("pg") && !other.starts_with(&start))
        .chain([line.as_str()])
        .collect();
    lines.sort_unstable();
    let after = format!("[configs]\n{}\n", lines.join("\n"));
    if after != before {
        fs::write(file, after).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// Builds the extension for `server`; returns the folder with its files below their absolute paths.
pub fn package(server: &Server, environment: &BuildEnvironment, cargo_pgrx: &Path, ui: &Ui) -> Result<PathBuf> {
    let folder = environment.target.join("package").join(format!("pg{}", server.major));
    let stamp = folder.with_extension("stamp");
    let print = fingerprint(server)?;
    if folder.is_dir() && fs::read_to_string(&stamp).is_ok_and(|last| last == print) {
        return Ok(folder);
    }
    ui.step(&format!("Building holdfast for PostgreSQL {}", server.major), |step| {
        for stale in [&stamp, &folder] {
            remove_any(stale)?;
        }
        let mut build = Command::new(cargo_pgrx);
        build.current_dir(workspace());
        environment.apply(&mut build);
        build.args(["pgrx", "package", "--package", "holdfast", "--pg-config"]);
        build.arg(&server.pg_config).args(environment.features()).arg("--out-dir").arg(&folder);
        run_noting(build, step)?.succeeded("building the extension")
    })?;
    fs::write(&stamp, print)?;
    Ok(folder)
}

fn remove_any(path: &Path) -> Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)?;
    } else if path.exists() {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// A hash over everything that decides what the package looks like.
fn fingerprint(server: &Server) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (&server.version, &server.pg_config, env!("CARGO_PKG_RUST_VERSION")).hash(&mut hasher);
    for ingredient in INGREDIENTS {
        for entry in WalkDir::new(workspace().join(ingredient)).sort_by_file_name() {
            // A workspace may lack a folder; what is there decides.
            let Ok(entry) = entry else { continue };
            if entry.file_type().is_file() {
                entry.path().hash(&mut hasher);
                fs::read(entry.path())?.hash(&mut hasher);
            }
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}
