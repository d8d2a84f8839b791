//! What is to be sent: the files under a path, with their hashes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use blake3::Hasher;

use super::manifest::{self, MAX_ENTRIES};
use super::part::hash_next;
use super::wire::{Entry, Hash, Kind};
use crate::failure::{Failure, Result};

/// Everything that is to be sent.
#[derive(Debug, Default)]
pub struct Plan {
    /// What the receiver is told.
    pub entries: Vec<Entry>,
    /// Where each entry lies here.
    pub sources: Vec<PathBuf>,
    /// Bytes of all files.
    pub bytes: u64,
    /// What cannot be sent: links, sockets, devices.
    pub skipped: Vec<PathBuf>,
}

/// What was found, before its content is read.
#[derive(Debug, Default)]
pub struct Found {
    items: Vec<(String, PathBuf, fs::Metadata)>,
    skipped: Vec<PathBuf>,
}

impl Found {
    /// Bytes to be hashed.
    pub fn bytes(&self) -> u64 {
        self.items.iter().filter(|(_, _, m)| m.is_file()).map(|(_, _, m)| m.len()).sum()
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |e| Failure::failed(format_args!("{}: {e}", path.display()))
}

/// Lists what lies under `path`. The path itself may be a link; links below are not followed.
pub fn find(path: &Path) -> Result<Found> {
    let whole = fs::canonicalize(path).map_err(at(path))?;
    let name = whole.file_name().ok_or_else(|| {
        Failure::usage(format_args!("{} has no name under which it could be received", path.display()))
            .remedy("send a folder in it")
    })?;
    let mut found = Found::default();
    let mut todo = vec![(text(name, &whole)?, whole.clone(), fs::metadata(&whole).map_err(at(&whole))?)];
    while let Some((name, path, what)) = todo.pop() {
        manifest::check_path(&name).map_err(|e| Failure::failed(e).remedy("rename it, then send again"))?;
        if found.items.len() as u64 >= MAX_ENTRIES {
            return Err(Failure::failed(format_args!("more than {MAX_ENTRIES} files and folders"))
                .remedy("send its folders one after the other"));
        }
        if what.is_dir() {
            for entry in fs::read_dir(&path).map_err(at(&path))? {
                let entry = entry.map_err(at(&path))?;
                let (path, what) = (entry.path(), entry.metadata().map_err(at(&entry.path()))?);
                todo.push((format!("{name}/{}", text(&entry.file_name(), &path)?), path, what));
            }
        } else if !what.is_file() {
            found.skipped.push(path);
            continue;
        }
        found.items.push((name, path, what));
    }
    manifest::sort(&mut found.items, |(name, _, _)| name);
    found.skipped.sort();
    Ok(found)
}

fn text(name: &std::ffi::OsStr, path: &Path) -> Result<String> {
    name.to_str().map(Into::into).ok_or_else(|| {
        Failure::failed(format_args!("the name of {} is not UTF-8", path.display()))
            .remedy("rename it, then send again")
    })
}

/// Reads every file once for its hash. `each` hears of bytes.
pub fn hash(found: Found, mut each: impl FnMut(u64)) -> Result<Plan> {
    let mut plan = Plan { skipped: found.skipped, ..Plan::default() };
    for (path, source, what) in found.items {
        let kind = if what.is_dir() {
            Kind::Folder
        } else {
            let (size, hash) = hash_file(&source, &mut each).map_err(at(&source))?;
            plan.bytes += size;
            Kind::File { size, hash, executable: executable(&what) }
        };
        plan.entries.push(Entry { path, kind });
        plan.sources.push(source);
    }
    Ok(plan)
}

fn hash_file(path: &Path, each: &mut impl FnMut(u64)) -> io::Result<(u64, Hash)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut hasher = Hasher::new();
    hash_next(&mut file, size, &mut hasher, each)?;
    Ok((size, *hasher.finalize().as_bytes()))
}

#[cfg(unix)]
fn executable(what: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&what.permissions()) & 0o100 != 0
}

/// Other systems have no execute bits.
#[cfg(not(unix))]
fn executable(_: &fs::Metadata) -> bool {
    false
}
