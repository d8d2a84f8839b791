//! The state directory: which one, and the little that this program keeps there besides the SDK.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use net_sdk::{Error, Mesh, MeshBuilder};

use crate::args::Listen;
use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::Output;

/// The addresses that the last run of `net recv` had bound, one a line.
const BOUND: &str = "recv-bound";

/// The directory that was asked for, or the platform's usual place.
pub fn dir(asked: Option<PathBuf>) -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let usual = || {
        if cfg!(windows) {
            return from("LOCALAPPDATA");
        }
        if cfg!(target_os = "macos") {
            return from("HOME").map(|home| home.join("Library/Application Support"));
        }
        from("XDG_DATA_HOME").or_else(|| from("HOME").map(|home| home.join(".local/share")))
    };
    asked.or_else(|| usual().map(|place| place.join("net"))).ok_or_else(|| {
        Failure::new(Code::Usage, "there is no place for the state directory").remedy("name one with --dir")
    })
}

/// Starts a node that others dial, as the configuration says: at the addresses that were asked for, or at those
/// of the last run if they are free, else at any. Keeps what it bound for the next run.
pub async fn listen(
    builder: impl Fn() -> MeshBuilder,
    at: &Listen,
    config: &Config,
    dir: &Path,
    output: Output,
) -> Result<Mesh> {
    let bind = if at.bind.is_empty() { &config.bind } else { &at.bind };
    let advertise = if at.advertise.is_empty() { &config.advertise } else { &at.advertise };
    let build = |addrs: &[SocketAddr]| {
        let builder = advertise.iter().fold(config.apply(builder().dir(dir)), |b, addr| b.advertise(*addr));
        addrs.iter().fold(builder, |b, addr| b.bind(*addr)).start()
    };
    let last = if bind.is_empty() { bound(dir) } else { Vec::new() };
    let mesh = match build(if bind.is_empty() { &last } else { bind }).await {
        Err(Error::Bind { .. }) if !last.is_empty() => {
            output.note("the ports of the last run are taken; earlier invites do not lead here");
            build(&[]).await?
        }
        other => other?,
    };
    _ = keep_bound(dir, &mesh.local_addrs());
    Ok(mesh)
}

/// What the last run had bound. A port that stays lets an invite survive a restart.
fn bound(dir: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(dir.join(BOUND)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).take(8).collect()
}

/// Keeps what is bound for the next run.
fn keep_bound(dir: &Path, addrs: &[SocketAddr]) -> std::io::Result<()> {
    let text: String = addrs.iter().map(|addr| format!("{addr}\n")).collect();
    let fresh = dir.join("recv-bound-new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&fresh)?.write_all(text.as_bytes())?;
    fs::rename(fresh, dir.join(BOUND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        assert!(bound(dir.path()).is_empty());
        let addrs: Vec<SocketAddr> = vec!["0.0.0.0:7".parse().unwrap(), "[::]:8".parse().unwrap()];
        keep_bound(dir.path(), &addrs).unwrap();
        assert_eq!(bound(dir.path()), addrs);
        fs::write(dir.path().join(BOUND), b"\xff garbage\n").unwrap();
        assert!(bound(dir.path()).is_empty());
    }
}
