//! A record of everything that moved a node with its planes, and a node that lives it again.
//!
//! The file begins with [`MAGIC`], a version byte and a [`Header`]; then one [`Entry`] after the
//! other. Header and entries are postcard behind their length as `u32`, little-endian. A record that
//! was cut off, because its process died, reads up to the cut.
//!
//! **A record holds every secret of its node**: identity, mesh keys, and with them every message. Its
//! mode is 0600.

mod header;
mod replay;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use net_proto::identity::EntityId;
use net_proto::lane::{NoPlanes, Plane};
use net_proto::node::{Config, ConfigError, Event, Host, Job, Output, Step};
use net_proto::storage::Ticket;
use net_proto::time::Instant;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bell::lock;

pub use header::{Header, PlaneStart};
pub use replay::{Difference, Happened, Replay, Replayed};

/// The first bytes of a record.
pub const MAGIC: &[u8; 8] = b"nettrace";
/// The version that follows them. Another version is refused: steps replay only in the build, or one
/// with the same protocol, that recorded them.
pub const VERSION: u8 = 3;
/// Longest entry in bytes: a chunk of the largest messages, twice over.
const MAX_ENTRY: u32 = 64 << 20;

/// One thing that a record holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A step of the node.
    Step {
        /// When. Taking output happens at the node's own time and says zero.
        at: Instant,
        /// What.
        step: Step,
        /// What it brought out, as [`Output::bytes`].
        bytes: u64,
        /// The counters after it, as [`Host::fingerprint`].
        counters: u64,
    },
    /// What the node told next.
    Event(Event),
    /// What the application's policy said about somebody, within the step that follows.
    Accepted(EntityId, bool),
}

/// Why a record cannot be read or replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a record, or one of another version.
    #[error("not a record of version {VERSION}")]
    Format,
    /// The header or a whole entry does not decode.
    #[error("entry {0} does not decode")]
    Entry(u64),
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The replayed node did something else.
    #[error(transparent)]
    Differs(#[from] Box<Difference>),
}

fn write<T: Serialize>(file: &mut impl Write, scratch: &mut Vec<u8>, value: &T) -> io::Result<()> {
    let mut bytes = std::mem::take(scratch);
    bytes.clear();
    bytes.extend_from_slice(&[0; 4]);
    let mut bytes = postcard::to_extend(value, bytes).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len() - 4).ok().filter(|len| *len <= MAX_ENTRY);
    let len = len.ok_or_else(|| io::Error::other("an entry above the limit"))?;
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    file.write_all(&bytes)?;
    *scratch = bytes;
    Ok(())
}

/// Answers of the policy within one step.
type Answers = Arc<Mutex<Vec<(EntityId, bool)>>>;

/// Writes a record. After an error it stops, with a warning; the node goes on.
#[derive(Debug)]
pub struct Recorder {
    file: Option<BufWriter<File>>,
    scratch: Vec<u8>,
    answers: Option<Answers>,
}

impl Recorder {
    /// Creates the file, which may not exist yet: an old one could have a wider mode.
    pub fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 16, create_secret(path)?);
        file.write_all(MAGIC)?;
        file.write_all(&[VERSION])?;
        let mut scratch = Vec::new();
        write(&mut file, &mut scratch, header)?;
        file.flush()?;
        Ok(Self { file: Some(file), scratch, answers: None })
    }

    /// Has the answers of the configuration's policy recorded, if there is one: they come from outside.
    pub fn watch_policy(&mut self, config: &mut Config) {
        let Some(policy) = config.accept.take() else { return };
        let answers = Answers::default();
        self.answers = Some(answers.clone());
        config.accept = Some(Arc::new(move |id: &EntityId| {
            let answer = policy(id);
            lock(&answers).push((*id, answer));
            answer
        }));
    }

    fn put(&mut self, entry: &Entry) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = write(file, &mut self.scratch, entry) {
            self.stop(&error);
        }
    }

    fn stop(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the record ends here");
        self.file = None;
    }

    /// Hands what was recorded to the system, so that it outlives the process.
    pub(crate) fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(Write::flush) {
            self.stop(&error);
        }
    }

    fn step<P: Plane>(&mut self, at: Instant, step: Step, output: &Output, host: &Host<P>) {
        if let Some(answers) = &self.answers {
            let answers = std::mem::take(&mut *lock(answers));
            answers.into_iter().for_each(|(id, answer)| self.put(&Entry::Accepted(id, answer)));
        }
        self.put(&Entry::Step { at, step, bytes: output.bytes, counters: host.fingerprint() });
    }

    /// A step that was taken and brought nothing out.
    pub(crate) fn input<P: Plane>(&mut self, at: Instant, step: Step, host: &Host<P>) {
        self.step(at, step, &Output::default(), host);
    }

    /// A step that brought bytes out, or none.
    pub(crate) fn output<P: Plane>(&mut self, at: Instant, step: Step, out: &[u8], host: &Host<P>) {
        let mut output = Output::default();
        if !out.is_empty() {
            output.add(out);
        }
        self.step(at, step, &output, host);
    }

    /// A step that brought a value out. It happens at the host's own time.
    pub(crate) fn value<P: Plane>(&mut self, step: Step, value: &impl Serialize, host: &Host<P>) {
        let mut output = Output::default();
        output.add_value(value);
        self.step(Instant::ZERO, step, &output, host);
    }

    /// A job was taken out. It happens at the host's own time.
    pub(crate) fn job<P: Plane>(&mut self, ticket: Ticket, job: &Job, host: &Host<P>) {
        let mut output = Output::default();
        output.add_job(ticket, job);
        self.step(Instant::ZERO, Step::Jobs, &output, host);
    }

    pub(crate) fn event(&mut self, event: &Event) {
        self.put(&Entry::Event(event.clone()));
    }
}

/// A new file that nobody else may read. One that exists is refused: it could have a wider mode.
pub(crate) fn create_secret(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A record that is read entry by entry: it may be larger than memory.
#[derive(Debug)]
pub struct Reader {
    /// What the node was made of.
    pub header: Header,
    file: BufReader<File>,
    scratch: Vec<u8>,
    entries: u64,
    /// Bytes read, and bytes of the file when it was opened.
    at: u64,
    len: u64,
}

impl Reader {
    /// Opens a record.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut file = BufReader::with_capacity(1 << 18, file);
        let mut start = [0; 9];
        file.read_exact(&mut start).map_err(|_| TraceError::Format)?;
        if start[..8] != MAGIC[..] || start[8] != VERSION {
            return Err(TraceError::Format);
        }
        let mut scratch = Vec::new();
        if !frame(&mut file, &mut scratch)? {
            return Err(TraceError::Format);
        }
        let header = decode(&scratch, 0)?;
        Ok(Self { header, at: 9 + 4 + scratch.len() as u64, file, scratch, entries: 0, len })
    }

    /// The next entry; `None` at the end or a cut.
    ///
    /// # Errors
    /// [`TraceError::Entry`], [`TraceError::Io`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TraceError> {
        if !frame(&mut self.file, &mut self.scratch)? {
            return Ok(None);
        }
        self.at += 4 + self.scratch.len() as u64;
        self.entries += 1;
        decode(&self.scratch, self.entries).map(Some)
    }

    /// Whether bytes are left that are no whole entry. To be asked at the end.
    pub const fn is_cut(&self) -> bool {
        self.at < self.len
    }
}

/// Reads the next frame. False at a cut or the end.
fn frame(file: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    into.clear();
    let mut len = [0; 4];
    match file.read_exact(&mut len) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    let len = u32::from_le_bytes(len);
    if len > MAX_ENTRY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry above the limit"));
    }
    file.take(u64::from(len)).read_to_end(into)?;
    Ok(into.len() == len as usize)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], number: u64) -> Result<T, TraceError> {
    postcard::from_bytes(bytes).map_err(|_| TraceError::Entry(number))
}

/// A record that was read as a whole.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the node was made of.
    pub header: Header,
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// Whether the last entry was cut off.
    pub cut: bool,
}

/// Reads a whole record.
///
/// # Errors
/// See [`TraceError`]; an end in the middle of an entry is none.
pub fn read(path: &Path) -> Result<Trace, TraceError> {
    let mut reader = Reader::open(path)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    let cut = reader.is_cut();
    Ok(Trace { header: reader.header, entries, cut })
}

impl Trace {
    /// The recorded configuration; see [`Header::config`].
    pub fn config(&self) -> Config {
        self.header.config()
    }

    /// Makes the node again, lives every step and compares all that comes out with the record.
    /// Returns the node as it was at the end.
    ///
    /// # Errors
    /// [`TraceError::Differs`] at the first difference.
    pub fn replay(&self, config: Config) -> Result<Replayed<NoPlanes>, TraceError> {
        self.replay_with(config, |_| NoPlanes)
    }

    /// As [`Self::replay`], with planes that are made as they were at the start.
    ///
    /// # Errors
    /// As [`Self::replay`].
    pub fn replay_with<P: Plane>(
        &self,
        config: Config,
        planes: impl FnOnce(PlaneStart) -> P,
    ) -> Result<Replayed<P>, TraceError> {
        let mut replay = Replay::new(&self.header, config, planes)?;
        for entry in &self.entries {
            replay.live(entry.clone(), &mut |_| {})?;
        }
        Ok(replay.end())
    }

    /// A hash over all that came out of the node, in order; that of a replay is the same.
    pub fn hash(&self) -> [u8; 32] {
        replay::hash(&self.entries)
    }
}

/// Reads a record of a node without planes and replays it; `tweak` changes the configuration.
///
/// # Errors
/// As [`read`] and [`Trace::replay`].
pub fn replay(path: &Path, tweak: impl FnOnce(&mut Config)) -> Result<Replayed<NoPlanes>, TraceError> {
    let mut reader = Reader::open(path)?;
    let mut config = reader.header.config();
    tweak(&mut config);
    let mut replay = Replay::new(&reader.header, config, |_| NoPlanes)?;
    while let Some(entry) = reader.next_entry()? {
        replay.live(entry, &mut |_| {})?;
    }
    Ok(replay.end())
}
