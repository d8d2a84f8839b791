//! A record of everything that moved a node with its planes, and a node that lives it again.
//!
//! The file begins with [`MAGIC`], a version byte and a [`Header`]; then one [`Entry`] after the
//! other. Header and entries are postcard behind their length as `u32`, little-endian. A record that
//! was cut off, because its process died, reads up to the cut.
//!
//! **A record holds every secret of its node**: identity, mesh keys, session keys. Its mode is 0600.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use net_proto::entropy::Entropy;
use net_proto::identity::{Identity, Incarnation, Mesh};
use net_proto::lane::{NoPlanes, Plane};
use net_proto::node::{Config, ConfigError, Event, Host, Job, Node, Output, Step};
use net_proto::storage::Ticket;
use net_proto::time::Instant;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::aead::Native;

/// The first bytes of a record.
pub const MAGIC: &[u8; 8] = b"nettrace";
/// The version that follows them. Another version is refused: steps replay only in the build, or one
/// with the same protocol, that recorded them.
pub const VERSION: u8 = 2;
/// Longest entry in bytes: a chunk of the largest messages, twice over.
const MAX_ENTRY: u32 = 64 << 20;

/// What a node was made of. Everything else of its configuration is the caller's to repeat.
#[derive(Clone, Serialize, Deserialize)]
pub struct Header {
    seed: [u8; 32],
    at: Instant,
    identity: [u8; 32],
    meshes: Vec<Mesh>,
    incarnation: Incarnation,
}

/// What planes are made of: the same in a node and in its replay.
#[derive(Clone)]
#[non_exhaustive]
pub struct PlaneStart {
    /// Who the node is; signs.
    pub identity: Identity,
    /// Which life of the node this is.
    pub incarnation: Incarnation,
    /// Feeds every random choice of the planes.
    pub seed: [u8; 32],
    /// When the node starts.
    pub at: Instant,
}

/// Without the secrets.
impl std::fmt::Debug for PlaneStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlaneStart").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Header {
    /// Of the node that `seed` and `config` make at `at`.
    pub fn new(seed: [u8; 32], at: Instant, config: &Config) -> Self {
        let (meshes, incarnation) = (config.meshes.clone(), config.incarnation);
        Self { seed, at, identity: config.identity.seed(), meshes, incarnation }
    }

    /// What the planes of this node are made of.
    pub fn planes(&self) -> PlaneStart {
        PlaneStart {
            identity: Identity::from_seed(&self.identity),
            incarnation: self.incarnation,
            seed: Entropy::new(&self.seed, "planes").array(),
            at: self.at,
        }
    }
}

/// Without the secrets.
impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("at", &self.at).finish_non_exhaustive()
    }
}

/// One thing that a record holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A step of the node.
    Step {
        /// When.
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
    /// The configuration that the caller completed is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The replayed node did something else: another configuration or another build.
    #[error("the replay differs at step {step}: {what}")]
    Differs {
        /// The number of the step.
        step: u64,
        /// What differs.
        what: String,
    },
}

fn write<T: Serialize>(file: &mut impl Write, value: &T) -> io::Result<()> {
    let bytes = postcard::to_allocvec(value).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len <= MAX_ENTRY);
    let len = len.ok_or_else(|| io::Error::other("an entry above the limit"))?;
    file.write_all(&len.to_le_bytes())?;
    file.write_all(&bytes)
}

/// Writes a record. After an error it stops, with a warning; the node goes on.
#[derive(Debug)]
pub struct Recorder {
    file: Option<BufWriter<File>>,
}

impl Recorder {
    /// Creates the file, which may not exist yet: an old one could have a wider mode.
    pub fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = BufWriter::with_capacity(1 << 16, options.open(path)?);
        file.write_all(MAGIC)?;
        file.write_all(&[VERSION])?;
        write(&mut file, header)?;
        file.flush()?;
        Ok(Self { file: Some(file) })
    }

    fn put(&mut self, entry: &Entry) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = write(file, entry) {
            tracing::warn!(%error, "the record ends here");
            self.file = None;
        }
    }

    fn step<P: Plane>(&mut self, at: Instant, step: Step, output: &Output, host: &Host<P>) {
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

/// A record that was read.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the node was made of.
    pub header: Header,
    /// What happened, in order.
    pub entries: Vec<Entry>,
    /// Whether the last entry was cut off.
    pub cut: bool,
}

/// `None` at a cut or the end.
fn frame(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match file.read_exact(&mut len) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let len = u32::from_le_bytes(len);
    if len > MAX_ENTRY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry above the limit"));
    }
    let mut bytes = Vec::new();
    file.take(u64::from(len)).read_to_end(&mut bytes)?;
    Ok((bytes.len() == len as usize).then_some(bytes))
}

fn decode<T: DeserializeOwned>(bytes: &[u8], number: u64) -> Result<T, TraceError> {
    postcard::from_bytes(bytes).map_err(|_| TraceError::Entry(number))
}

/// Reads a record.
///
/// # Errors
/// See [`TraceError`]; an end in the middle of an entry is none.
pub fn read(path: &Path) -> Result<Trace, TraceError> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut start = [0; 9];
    file.read_exact(&mut start).map_err(|_| TraceError::Format)?;
    if start[..8] != MAGIC[..] || start[8] != VERSION {
        return Err(TraceError::Format);
    }
    let header = decode(&frame(&mut file)?.ok_or(TraceError::Format)?, 0)?;
    let mut entries = Vec::new();
    let mut at = io::Seek::stream_position(&mut file)?;
    while let Some(bytes) = frame(&mut file)? {
        at += 4 + bytes.len() as u64;
        entries.push(decode(&bytes, entries.len() as u64 + 1)?);
    }
    Ok(Trace { header, entries, cut: at < len })
}

impl Trace {
    /// The usual configuration with the recorded identity, meshes and incarnation. Whoever changed
    /// anything else when recording changes it here too.
    pub fn config(&self) -> Config {
        let h = &self.header;
        let mesh = h.meshes.first().cloned();
        let mesh = mesh.unwrap_or_else(|| Mesh {
            id: net_proto::identity::MeshId([0; 32]),
            key: net_proto::identity::MeshKey([0; 32]),
        });
        let mut config = Config::new(Identity::from_seed(&h.identity), mesh, h.incarnation);
        config.meshes.clone_from(&h.meshes);
        config.ciphers = Arc::new(Native::new());
        config
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
        let node = Node::new(config, self.header.seed, self.header.at)?;
        let mut host = Host::new(node, planes(self.header.planes()));
        let mut told = std::collections::VecDeque::new();
        let (mut steps, mut hash) = (0, Hash::new());
        for entry in &self.entries {
            match entry {
                Entry::Step { at, step, bytes, counters } => {
                    steps += 1;
                    // The name alone: what a step holds may be secret.
                    let differs = |what: &str| {
                        let name: String =
                            format!("{step:?}").chars().take_while(char::is_ascii_alphabetic).collect();
                        Err(TraceError::Differs { step: steps, what: format!("{what} of {name}") })
                    };
                    let output = host.replay(*at, step.clone());
                    told.extend(output.events);
                    if output.bytes != *bytes {
                        return differs("bytes");
                    }
                    let after = host.fingerprint();
                    if after != *counters {
                        return differs("counters");
                    }
                    hash.step(output.bytes, after);
                }
                Entry::Event(event) => {
                    let again = told.pop_front();
                    if again.as_ref() != Some(event) {
                        let what = format!("told {again:?}, not {event:?}");
                        return Err(TraceError::Differs { step: steps, what });
                    }
                    hash.event(event);
                }
            }
        }
        Ok(Replayed { host, steps, hash: hash.end() })
    }

    /// A hash over all that came out of the node, in order; that of a replay is the same.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Hash::new();
        for entry in &self.entries {
            match entry {
                Entry::Step { bytes, counters, .. } => hash.step(*bytes, *counters),
                Entry::Event(event) => hash.event(event),
            }
        }
        hash.end()
    }
}

struct Hash(ring::digest::Context);

impl Hash {
    fn new() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }

    fn step(&mut self, bytes: u64, counters: u64) {
        self.0.update(&bytes.to_le_bytes());
        self.0.update(&counters.to_le_bytes());
    }

    fn event(&mut self, event: &Event) {
        // What does not encode was not recorded either.
        self.0.update(&postcard::to_allocvec(event).unwrap_or_default());
    }

    fn end(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// A node that lived its record again.
pub struct Replayed<P: Plane> {
    /// As it was at the end.
    pub host: Host<P>,
    /// How many steps it lived.
    pub steps: u64,
    /// Over all that came out, as [`Trace::hash`].
    pub hash: [u8; 32],
}

impl<P: Plane> std::fmt::Debug for Replayed<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replayed").field("steps", &self.steps).finish_non_exhaustive()
    }
}

/// Reads a record of a node without planes and replays it; `tweak` repeats what was changed in the
/// configuration.
///
/// # Errors
/// As [`read`] and [`Trace::replay`].
pub fn replay(path: &Path, tweak: impl FnOnce(&mut Config)) -> Result<Replayed<NoPlanes>, TraceError> {
    let trace = read(path)?;
    let mut config = trace.config();
    tweak(&mut config);
    trace.replay(config)
}
