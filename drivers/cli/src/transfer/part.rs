//! What arrived of an unfinished file: kept under the hash of its content, so that a transfer goes
//! on after any interruption, whoever sends it and whatever it is called.
//!
//! `HASH.part` holds the bytes; `HASH.state` says how many of them are durable (u64, little-endian)
//! and their BLAKE3. The state is written after the bytes were synced; a part without a state that
//! fits is begun again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake3::Hasher;

use super::manifest::{PARTS, folder};
use super::wire::Hash;

/// After so many bytes they are made durable: what a crash can cost.
const CHECKPOINT: u64 = 4 << 20;

/// Who may write which part: the newest. A sender that was killed and started again must not wait
/// until its former association is given up.
static TURNS: Mutex<BTreeMap<PathBuf, Turn>> = Mutex::new(BTreeMap::new());

/// Says whether a newer transfer took over.
type Turn = Arc<Mutex<bool>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_turn(path: &Path) -> Turn {
    let turn = Turn::default();
    if let Some(former) = lock(&TURNS).insert(path.to_path_buf(), turn.clone()) {
        // Waits for the write that may be going on.
        *lock(&former) = true;
    }
    turn
}

fn writing(turn: &Turn) -> io::Result<MutexGuard<'_, bool>> {
    let over = lock(turn);
    if *over { Err(io::Error::other("a newer transfer of the same content took over")) } else { Ok(over) }
}

/// An unfinished file.
pub struct Part {
    turn: Turn,
    file: File,
    path: PathBuf,
    state: PathBuf,
    hasher: Hasher,
    len: u64,
    synced: u64,
}

fn names(root: &Path, hash: &Hash) -> (PathBuf, PathBuf) {
    let hex = blake3::Hash::from_bytes(*hash).to_hex();
    let dir = root.join(PARTS);
    (dir.join(format!("{hex}.part")), dir.join(format!("{hex}.state")))
}

/// Hashes the next `len` bytes.
pub fn hash_next(
    file: &mut File,
    len: u64,
    hasher: &mut Hasher,
    mut each: impl FnMut(u64),
) -> io::Result<()> {
    let mut buf = vec![0; super::BLOCK];
    let mut left = len;
    while left > 0 {
        let want = left.min(buf.len() as u64) as usize;
        file.read_exact(&mut buf[..want])?;
        hasher.update(&buf[..want]);
        left -= want as u64;
        each(want as u64);
    }
    Ok(())
}

impl Part {
    /// What is left of an earlier attempt, checked; or a new one.
    pub fn open(root: &Path, hash: &Hash) -> io::Result<Self> {
        folder(&root.join(PARTS))?;
        let (path, state) = names(root, hash);
        // A link in its place would let the content go elsewhere.
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a file"));
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut part =
            Self { turn: take_turn(&path), file, path, state, hasher: Hasher::new(), len: 0, synced: 0 };
        match part.restore() {
            Ok(()) => Ok(part),
            Err(_) => part.restart().map(|()| part),
        }
    }

    /// How much is left of an earlier attempt, and its hash; makes nothing where nothing is left.
    pub fn look(root: &Path, hash: &Hash) -> io::Result<(u64, Hash)> {
        if !names(root, hash).1.exists() {
            return Ok((0, *blake3::hash(b"").as_bytes()));
        }
        let part = Self::open(root, hash)?;
        Ok((part.len, part.hash()))
    }

    fn restore(&mut self) -> io::Result<()> {
        let state = fs::read(&self.state)?;
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let (len, hash) = state.split_first_chunk::<8>().ok_or_else(bad)?;
        let len = u64::from_le_bytes(*len);
        if self.file.metadata()?.len() < len {
            return Err(bad());
        }
        self.file.seek(SeekFrom::Start(0))?;
        hash_next(&mut self.file, len, &mut self.hasher, |_| {})?;
        if self.hasher.finalize().as_bytes()[..] != *hash {
            return Err(bad());
        }
        self.file.set_len(len)?;
        (self.len, self.synced) = (len, len);
        Ok(())
    }

    /// Forgets what is there.
    pub fn restart(&mut self) -> io::Result<()> {
        let turn = self.turn.clone();
        let _writing = writing(&turn)?;
        self.hasher = Hasher::new();
        (self.len, self.synced) = (0, 0);
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        Ok(())
    }

    /// How many bytes are there.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// BLAKE3 of these bytes.
    pub fn hash(&self) -> Hash {
        *self.hasher.finalize().as_bytes()
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        {
            let turn = self.turn.clone();
            let _writing = writing(&turn)?;
            self.file.write_all(bytes)?;
        }
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        if self.len - self.synced >= CHECKPOINT {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Makes durable what is there, so that a later attempt goes on from here.
    pub fn checkpoint(&mut self) -> io::Result<()> {
        if self.len == self.synced {
            return Ok(());
        }
        let turn = self.turn.clone();
        let _writing = writing(&turn)?;
        self.file.sync_data()?;
        let mut state = self.len.to_le_bytes().to_vec();
        state.extend(self.hash());
        let fresh = self.state.with_extension("state-new");
        let mut file = File::create(&fresh)?;
        file.write_all(&state)?;
        file.sync_data()?;
        fs::rename(&fresh, &self.state)?;
        self.synced = self.len;
        Ok(())
    }

    /// Moves the whole file to its place, durable.
    pub fn finish(self, to: &Path, executable: bool) -> io::Result<()> {
        let _writing = writing(&self.turn)?;
        set_executable(&self.file, executable)?;
        self.file.sync_all()?;
        fs::rename(&self.path, to)?;
        _ = fs::remove_file(&self.state);
        sync_folder(to.parent().unwrap_or(Path::new(".")))
    }

    /// Throws it away.
    pub fn discard(self) {
        let Ok(_writing) = writing(&self.turn) else { return };
        _ = fs::remove_file(&self.path);
        _ = fs::remove_file(&self.state);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut turns = lock(&TURNS);
        if turns.get(&self.path).is_some_and(|turn| Arc::ptr_eq(turn, &self.turn)) {
            turns.remove(&self.path);
        }
    }
}

/// Removes the folder of unfinished files, if there are none.
pub fn tidy(root: &Path) {
    _ = fs::remove_dir(root.join(PARTS));
}

/// Sets or clears the execute bits where there are read bits.
#[cfg(unix)]
pub fn set_executable(file: &File, executable: bool) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut mode = file.metadata()?.permissions();
    let bits = mode.mode();
    mode.set_mode(if executable { bits | (bits & 0o444) >> 2 } else { bits & !0o111 });
    file.set_permissions(mode)
}

/// Other systems have no execute bits.
#[cfg(not(unix))]
pub fn set_executable(_: &File, _: bool) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Other systems cannot sync a folder.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_goes_on_from_its_last_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let hash = [1; 32];
        let mut part = Part::open(dir.path(), &hash).unwrap();
        part.write(b"durable").unwrap();
        part.checkpoint().unwrap();
        let there = part.hash();
        part.write(b" and not").unwrap();
        // As after a crash: nothing is said about the rest.
        drop(part);
        let part = Part::open(dir.path(), &hash).unwrap();
        assert_eq!((part.len(), part.hash()), (7, there));
        assert_eq!(fs::read(&part.path).unwrap(), b"durable");
    }

    #[test]
    fn a_damaged_part_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let hash = [1; 32];
        let mut part = Part::open(dir.path(), &hash).unwrap();
        part.write(b"durable").unwrap();
        part.checkpoint().unwrap();
        let path = part.path.clone();
        drop(part);
        fs::write(&path, b"durabel").unwrap();
        assert_eq!(Part::open(dir.path(), &hash).unwrap().len(), 0);
        assert_eq!(fs::read(&path).unwrap(), b"");
        // A state that says more than there is.
        fs::write(path.with_extension("state"), [255; 40]).unwrap();
        assert_eq!(Part::open(dir.path(), &hash).unwrap().len(), 0);
    }

    #[test]
    fn a_newer_transfer_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut old = Part::open(dir.path(), &[3; 32]).unwrap();
        old.write(b"abc").unwrap();
        old.checkpoint().unwrap();
        let mut new = Part::open(dir.path(), &[3; 32]).unwrap();
        assert!(old.write(b"x").is_err() && old.restart().is_err());
        drop(old);
        assert_eq!(new.len(), 3);
        new.write(b"d").unwrap();
        new.finish(&dir.path().join("file"), false).unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"abcd");
    }

    #[test]
    fn finishing_leaves_the_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = Part::open(dir.path(), &[2; 32]).unwrap();
        part.write(b"all").unwrap();
        part.checkpoint().unwrap();
        part.finish(&dir.path().join("file"), true).unwrap();
        tidy(dir.path());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(dir.path().join("file").metadata().unwrap().permissions().mode() & 0o100, 0o100);
        }
    }
}
