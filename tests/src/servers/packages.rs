//! Finds the programs of servers, and installs their Debian packages where that is possible.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name, as on the PATH.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// The server of Redis. It is its own Sentinel, too.
pub const REDIS: Program = Program { name: "redis-server", package: "redis-server" };
/// The watcher of Redis servers.
pub const SENTINEL: Program = Program { name: "redis-sentinel", package: "redis-sentinel" };
/// The server of NATS.
pub const NATS: Program = Program { name: "nats-server", package: "nats-server" };

/// Where the program is. Installs its package if it is missing, once for all test processes.
///
/// # Panics
/// If it is missing and cannot be installed; the message names the package.
pub fn find(program: &Program) -> PathBuf {
    look_for(program).unwrap_or_else(|why| panic!("{why}"))
}

/// The same; what is missing and cannot be installed is an error that names the package.
pub fn look_for(program: &Program) -> Result<PathBuf, String> {
    if let Some(path) = on_path(program.name) {
        return Ok(path);
    }
    let lock = File::create(std::env::temp_dir().join("net-test-packages.lock"));
    let lock = lock.expect("a folder for temporary files");
    lock.lock().expect("a lock between test processes");
    // Somebody else may have installed it while this waited.
    let why = match on_path(program.name) {
        Some(path) => return Ok(path),
        None => install(program.package),
    };
    let why = why.err().unwrap_or_else(|| "the package does not have it".to_owned());
    on_path(program.name).ok_or_else(|| {
        format!(
            "this test needs the program {}; install the Debian package {} or put it on the PATH: {why}",
            program.name, program.package
        )
    })
}

/// Whether this may install packages.
pub fn is_root() -> bool {
    run("id", &["-u"]).is_ok_and(|id| id.trim() == "0")
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where the PATH of plain users does not look.
    let also = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(also).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn install(package: &str) -> Result<(), String> {
    if !is_root() {
        return Err("only root can install it from here".to_owned());
    }
    if on_path("apt-get").is_none() {
        return Err("there is no apt-get to install it with".to_owned());
    }
    let _quiet = NoServices::new()?;
    run("apt-get", &["update"])?;
    run("apt-get", &["install", "--yes", "--no-install-recommends", package]).map(|_| ())
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{program} {}` failed: {}", arguments.join(" "), said.trim()))
}

/// For as long as this lives, packages start no services when they are installed.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Result<Self, String> {
        // One that is there already is the administrator's.
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let written =
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").map_err(|error| format!("{POLICY}: {error}"));
        let quiet = Self { ours: true };
        written?;
        run("chmod", &["755", POLICY])?;
        Ok(quiet)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            _ = fs::remove_file(POLICY);
        }
    }
}

#[test]
fn what_cannot_be_had_is_named() {
    let program = Program { name: "net-no-such-program", package: "net-no-such-package" };
    let why = std::panic::catch_unwind(|| find(&program)).expect_err("it does not exist");
    let why = why.downcast_ref::<String>().expect("a message");
    assert!(why.contains("net-no-such-program") && why.contains("package net-no-such-package"), "{why}");
}
