//! Files of a directory, served by one thread.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

use net_proto::storage::{Storage, StoreError, StoreOp, StoreResult, Stored, Ticket};

use super::check_name;
use crate::bell::lock;

#[derive(Default)]
struct Done {
    results: VecDeque<(Ticket, StoreResult)>,
    waker: Option<Waker>,
}

/// Files of a directory. Dropping it waits for what was submitted and releases the locks.
pub struct FileStorage {
    submit: Option<Sender<(Ticket, StoreOp)>>,
    done: Arc<Mutex<Done>>,
    thread: Option<JoinHandle<Files>>,
    inline: Option<Inline>,
}

/// What whoever polls works on, instead of the thread.
struct Inline {
    files: Files,
    submitted: VecDeque<(Ticket, StoreOp)>,
}

impl FileStorage {
    /// Opens `dir`; creates it with mode 0700 if it is missing. Starts the storage thread.
    pub fn open(dir: &Path) -> io::Result<Self> {
        if !dir.is_dir() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(dir)?;
        }
        let (submit, work) = channel();
        let done = Arc::new(Mutex::new(Done::default()));
        let files = Files { dir: dir.to_path_buf(), open: HashMap::new(), poisoned: HashSet::new() };
        let results = done.clone();
        let thread =
            thread::Builder::new().name("net storage".into()).spawn(move || serve(files, &work, &results))?;
        Ok(Self { submit: Some(submit), done, thread: Some(thread), inline: None })
    }
}

fn serve(mut files: Files, work: &Receiver<(Ticket, StoreOp)>, done: &Mutex<Done>) -> Files {
    while let Ok((ticket, op)) = work.recv() {
        let result = files.run(op);
        let waker = {
            let mut done = lock(done);
            done.results.push_back((ticket, result));
            done.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
    files
}

impl Storage for FileStorage {
    fn submit(&mut self, ticket: Ticket, op: StoreOp) {
        if let Some(inline) = &mut self.inline {
            return inline.submitted.push_back((ticket, op));
        }
        let sent = self.submit.as_ref().is_some_and(|submit| submit.send((ticket, op)).is_ok());
        if !sent {
            // The thread is gone: say so rather than let the machine wait for ever.
            lock(&self.done).results.push_back((ticket, Err(StoreError::Io)));
        }
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(Ticket, StoreResult)> {
        let mut done = lock(&self.done);
        if let Some(result) = done.results.pop_front() {
            return Poll::Ready(result);
        }
        if let Some(inline) = &mut self.inline {
            // Nothing waits: nobody will have to be woken.
            let Some((ticket, op)) = inline.submitted.pop_front() else { return Poll::Pending };
            return Poll::Ready((ticket, inline.files.run(op)));
        }
        done.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn inline(&mut self) -> bool {
        self.submit = None;
        if let Some(Ok(files)) = self.thread.take().map(JoinHandle::join) {
            self.inline = Some(Inline { files, submitted: VecDeque::new() });
        }
        self.inline.is_some()
    }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        self.submit = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked holds no lock any more.
            let _ = thread.join();
        }
        if let Some(Inline { files, submitted }) = &mut self.inline {
            submitted.drain(..).for_each(|(_, op)| _ = files.run(op));
        }
    }
}

#[cfg(unix)]
fn write_at(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, data, offset)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    io::Write::write_all(&mut file, data)
}

/// What the thread works on.
struct Files {
    dir: PathBuf,
    open: HashMap<String, File>,
    poisoned: HashSet<String>,
}

impl Files {
    fn run(&mut self, op: StoreOp) -> StoreResult {
        match op {
            StoreOp::Open { file, exclusive } => self.open(&file, exclusive),
            StoreOp::Write { file, offset, data } => {
                write_at(self.file(&file)?, offset, &data).map_err(error)?;
                Ok(Stored::Done)
            }
            StoreOp::Sync { file } => {
                // The content, and the length if that changed; not the times, which would cost a journal's commit.
                if let Err(why) = self.file(&file)?.sync_data() {
                    // The system may have dropped what it could not write, and a second sync may
                    // succeed without it.
                    tracing::error!(%file, error = %why, "sync failed; the file is not used any more");
                    self.poisoned.insert(file);
                    return Err(error(why));
                }
                Ok(Stored::Done)
            }
            StoreOp::Read { file, offset, len } => {
                let file = self.file(&file)?;
                let there = file.metadata().map_err(error)?.len().saturating_sub(offset);
                let mut data = vec![0; usize::try_from(len.min(there)).map_err(|_| StoreError::Io)?];
                file.seek(SeekFrom::Start(offset)).map_err(error)?;
                file.read_exact(&mut data).map_err(error)?;
                Ok(Stored::Data(data))
            }
            StoreOp::Truncate { file, len } => {
                self.file(&file)?.set_len(len).map_err(error)?;
                Ok(Stored::Done)
            }
            StoreOp::Rename { from, to } => self.rename(&from, &to),
            StoreOp::Remove { file } => {
                check_name(&file)?;
                fs::remove_file(self.dir.join(&file)).map_err(error)?;
                self.open.remove(&file);
                self.sync_dir(&[&file])?;
                Ok(Stored::Done)
            }
            StoreOp::List => self.list(),
            // A newer operation than this program knows.
            _ => Err(StoreError::Io),
        }
    }

    fn file(&mut self, name: &str) -> Result<&mut File, StoreError> {
        check_name(name)?;
        if self.poisoned.contains(name) {
            return Err(StoreError::Poisoned);
        }
        self.open.get_mut(name).ok_or(StoreError::NotFound)
    }

    fn open(&mut self, name: &str, exclusive: bool) -> StoreResult {
        check_name(name)?;
        if self.poisoned.contains(name) {
            return Err(StoreError::Poisoned);
        }
        let path = self.dir.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut created = false;
        let file = match options.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                created = true;
                options.create(true).open(&path).map_err(error)?
            }
            other => other.map_err(error)?,
        };
        if exclusive {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(StoreError::Locked),
                Err(TryLockError::Error(why)) => return Err(error(why)),
            }
        }
        if created {
            self.sync_dir(&[name])?;
        }
        let len = file.metadata().map_err(error)?.len();
        self.open.insert(name.into(), file);
        Ok(Stored::Opened { len })
    }

    fn rename(&mut self, from: &str, to: &str) -> StoreResult {
        check_name(from)?;
        check_name(to)?;
        if self.poisoned.contains(from) {
            return Err(StoreError::Poisoned);
        }
        fs::rename(self.dir.join(from), self.dir.join(to)).map_err(error)?;
        self.open.remove(to);
        if let Some(file) = self.open.remove(from) {
            self.open.insert(to.into(), file);
        }
        self.sync_dir(&[from, to])?;
        Ok(Stored::Done)
    }

    fn list(&self) -> StoreResult {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(error)? {
            let entry = entry.map_err(error)?;
            if let Ok(name) = entry.file_name().into_string()
                && check_name(&name).is_ok()
                && entry.file_type().map_err(error)?.is_file()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(Stored::Names(names))
    }

    /// Makes names durable. Windows has no such call; its directories are journalled.
    fn sync_dir(&mut self, names: &[&str]) -> Result<(), StoreError> {
        #[cfg(unix)]
        if let Err(why) = File::open(&self.dir).and_then(|dir| dir.sync_all()) {
            tracing::error!(?names, error = %why, "directory sync failed; the files are not used any more");
            self.poisoned.extend(names.iter().map(|name| String::from(*name)));
            return Err(error(why));
        }
        #[cfg(not(unix))]
        let _ = names;
        Ok(())
    }
}

fn error(why: io::Error) -> StoreError {
    match why.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Io,
    }
}
