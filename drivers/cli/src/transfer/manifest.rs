//! Which names may be created, and where. Names come from a peer: nothing here trusts them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::wire::{Entry, Kind, MAX_PATH};

/// The receiver's own folder for unfinished files.
pub const PARTS: &str = ".net-partial";
/// Most entries in a manifest.
pub const MAX_ENTRIES: u64 = 1 << 20;
/// Most bytes of paths in a manifest.
const MAX_PATHS: usize = 64 << 20;
/// Longest part of a path, in bytes; the limit of common file systems.
const MAX_NAME: usize = 255;

/// Why a name or a manifest is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, absolute, or with an empty part.
    #[error("`{0}` is not a relative path")]
    NotRelative(String),
    /// `.` or `..`.
    #[error("`{0}` leaves its folder")]
    Leaves(String),
    /// Characters or names that some system gives a meaning.
    #[error("`{0}` has a name that cannot be created everywhere")]
    Special(String),
    /// Above the limits.
    #[error("`{0}` is too long")]
    TooLong(String),
    /// Not behind its predecessor, or the same again.
    #[error("`{0}` is out of order or occurs twice")]
    Order(String),
    /// A file is used as a folder.
    #[error("`{0}` lies in a file")]
    InFile(String),
    /// Above [`MAX_ENTRIES`] or the memory for paths.
    #[error("more than {MAX_ENTRIES} entries, or too many bytes of paths")]
    TooMany,
}

/// Checks one path.
pub fn check_path(path: &str) -> Result<(), NameError> {
    let shown = || crate::output::printable(path).chars().take(200).collect::<String>();
    if path.len() > MAX_PATH {
        return Err(NameError::TooLong(shown()));
    }
    for (i, name) in path.split('/').enumerate() {
        match name {
            "" => return Err(NameError::NotRelative(shown())),
            "." | ".." => return Err(NameError::Leaves(shown())),
            _ if name.len() > MAX_NAME => return Err(NameError::TooLong(shown())),
            // Control characters could write to a terminal; none of ours.
            _ if name.chars().any(char::is_control) => return Err(NameError::Special(shown())),
            _ if i == 0 && name == PARTS => return Err(NameError::Special(shown())),
            _ if cfg!(windows) && special_on_windows(name) => return Err(NameError::Special(shown())),
            _ => {}
        }
    }
    Ok(())
}

/// Separators, streams, devices, and what Windows cuts off.
fn special_on_windows(name: &str) -> bool {
    const DEVICES: &[&str] = &["CON", "PRN", "AUX", "NUL"];
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = (stem.starts_with("COM") || stem.starts_with("LPT")) && stem.chars().count() == 4;
    name.contains(['\\', ':', '<', '>', '"', '|', '?', '*'])
        || name.ends_with(['.', ' '])
        || DEVICES.contains(&stem.as_str())
        || numbered
}

/// The order of a manifest: by parts, so that a folder stands right before what it holds.
fn order(a: &str, b: &str) -> std::cmp::Ordering {
    a.split('/').cmp(b.split('/'))
}

/// Puts entries into the order of a manifest.
pub fn sort<T>(items: &mut [T], path: impl Fn(&T) -> &str) {
    items.sort_by(|a, b| order(path(a), path(b)));
}

/// A manifest that is being received.
#[derive(Debug, Default)]
pub struct Manifest {
    entries: Vec<Entry>,
    files: HashSet<String>,
    bytes: usize,
}

impl Manifest {
    /// Takes in the next entry.
    pub fn push(&mut self, entry: Entry) -> Result<(), NameError> {
        check_path(&entry.path)?;
        self.bytes += entry.path.len();
        if self.entries.len() as u64 >= MAX_ENTRIES || self.bytes > MAX_PATHS {
            return Err(NameError::TooMany);
        }
        if self.entries.last().is_some_and(|last| order(&last.path, &entry.path).is_ge()) {
            return Err(NameError::Order(entry.path));
        }
        let inside = |(at, _): (usize, &str)| self.files.contains(&entry.path[..at]);
        if entry.path.match_indices('/').any(inside) {
            return Err(NameError::InFile(entry.path));
        }
        if entry.kind != Kind::Folder {
            self.files.insert(entry.path.clone());
        }
        self.entries.push(entry);
        Ok(())
    }

    /// What is in it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Where `path` lies under `root`, after its folders were made. Nothing on the way may be a link:
/// a link that somebody put there could lead anywhere.
pub fn place(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut at = root.to_path_buf();
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        at.push(name);
        if names.peek().is_some() {
            folder(&at)?;
        }
    }
    Ok(at)
}

/// Makes a folder, or finds that it is one and not a link.
pub fn folder(at: &Path) -> io::Result<()> {
    match fs::symlink_metadata(at) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a folder")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match fs::create_dir(at) {
            // Another transfer was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && at.is_dir() => Ok(()),
            other => other,
        },
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for bad in
            ["", "/etc/passwd", "a//b", "a/", "../x", "a/../../x", ".", "a/./b", "a\0b", "a\nb", "\x1b[2J"]
        {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        assert!(check_path(".net-partial/x").is_err());
        assert!(check_path(&"x".repeat(256)).is_err());
        assert!(check_path(&"x/".repeat(3000)).is_err());
        for good in ["a", "a/b c/ü.txt", "...", "a/.net-partial", ".hidden"] {
            assert_eq!(check_path(good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn devices_and_streams_of_windows_are_known() {
        for bad in ["con", "NUL.txt", "com1", "LPT9.log", "a:b", "a\\b", "x.", "x ", "a?"] {
            assert!(special_on_windows(bad), "{bad}");
        }
        for good in ["console", "com", "community", "a.b", "comma"] {
            assert!(!special_on_windows(good), "{good}");
        }
    }

    fn file(path: &str) -> Entry {
        Entry { path: path.into(), kind: Kind::File { size: 1, hash: [0; 32], executable: false } }
    }

    #[test]
    fn a_manifest_has_one_order_and_no_contradictions() {
        let take = |paths: &[&str]| {
            let mut manifest = Manifest::default();
            paths.iter().try_for_each(|path| manifest.push(file(path)))
        };
        assert_eq!(take(&["a", "b/c", "b/d", "b.txt"]), Ok(()));
        assert!(matches!(take(&["b", "a"]), Err(NameError::Order(_))));
        assert!(matches!(take(&["a", "a"]), Err(NameError::Order(_))));
        assert!(matches!(take(&["a", "a/b"]), Err(NameError::InFile(_))));
        assert!(matches!(take(&["a", "a/b/c"]), Err(NameError::InFile(_))));
    }

    #[test]
    fn sorting_makes_the_order_of_a_manifest() {
        let mut paths = vec!["b.txt", "b/c", "b", "a/z", "a"];
        sort(&mut paths, |path| path);
        assert_eq!(paths, ["a", "a/z", "b", "b/c", "b.txt"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("out")).unwrap();
        assert!(place(&root, "out/file").is_err());
        assert!(place(&root, "new/deep/file").unwrap().parent().unwrap().is_dir());
        assert!(!dir.path().join("file").exists());
    }
}
