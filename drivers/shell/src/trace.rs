//! A record of everything that moved a node, and a node that lives it again.
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

use net_proto::identity::{Identity, Incarnation, Mesh};
use net_proto::node::{Config, ConfigError, Event, Node, Output, Step};
use net_proto::time::Instant;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::aead::Native;

/// The first bytes of a record.
pub const MAGIC: &[u8; 8] = b"nettrace";
/// The version that follows them. Another version is refused: steps replay only in the build, or one
/// with the same protocol, that recorded them.
pub const VERSION: u8 = 1;
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

impl Header {
    /// Of the node that `seed` and `config` make at `at`.
    pub fn new(seed: [u8; 32], at: Instant, config: &Config) -> Self {
        let (meshes, incarnation) = (config.meshes.clone(), config.incarnation);
        Self { seed, at, identity: config.identity.seed(), meshes, incarnation }
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

    pub(crate) fn step(&mut self, at: Instant, step: Step, out: &[u8]) {
        let mut output = Output::default();
        if !out.is_empty() {
            output.add(out);
        }
        self.put(&Entry::Step { at, step, bytes: output.bytes });
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
    /// Returns the node as it was at the end, and the number of steps.
    ///
    /// # Errors
    /// [`TraceError::Differs`] at the first difference.
    pub fn replay(&self, config: Config) -> Result<(Node, u64), TraceError> {
        let mut node = Node::new(config, self.header.seed, self.header.at)?;
        let mut told = std::collections::VecDeque::new();
        let mut count = 0;
        for entry in &self.entries {
            match entry {
                Entry::Step { at, step, bytes } => {
                    count += 1;
                    // The name alone: what a step holds may be secret.
                    let name = || {
                        format!("{step:?}").chars().take_while(char::is_ascii_alphabetic).collect::<String>()
                    };
                    let output = node.replay(*at, step.clone());
                    told.extend(output.events);
                    if output.bytes != *bytes {
                        return Err(TraceError::Differs {
                            step: count,
                            what: format!("bytes of {}", name()),
                        });
                    }
                }
                Entry::Event(event) => {
                    let again = told.pop_front();
                    if again.as_ref() != Some(event) {
                        let what = format!("told {again:?}, not {event:?}");
                        return Err(TraceError::Differs { step: count, what });
                    }
                }
            }
        }
        Ok((node, count))
    }
}

/// Reads a record and replays it; `tweak` repeats what was changed in the configuration.
///
/// # Errors
/// As [`read`] and [`Trace::replay`].
pub fn replay(path: &Path, tweak: impl FnOnce(&mut Config)) -> Result<(Node, u64), TraceError> {
    let trace = read(path)?;
    let mut config = trace.config();
    tweak(&mut config);
    trace.replay(config)
}
