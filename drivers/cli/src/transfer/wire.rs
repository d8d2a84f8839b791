//! The messages of a transfer. One way to write each, as everywhere in the protocol.

use net_proto::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};

/// Longest path, in bytes.
pub const MAX_PATH: usize = 4096;
/// Most entries or answers in one message.
pub const MAX_BATCH: usize = 512;

/// The hash of a file's content.
pub type Hash = [u8; 32];

/// Something to be created at the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative, with `/` between the parts.
    pub path: String,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File {
        /// Its length, in bytes.
        size: u64,
        /// BLAKE3 of its content.
        hash: Hash,
        /// Whether it may be executed.
        executable: bool,
    },
}

impl Entry {
    /// Size and hash, if it is a file.
    pub const fn file(&self) -> Option<(u64, Hash)> {
        match self.kind {
            Kind::Folder => None,
            Kind::File { size, hash, .. } => Some((size, hash)),
        }
    }
}

impl Wire for Entry {
    const NAME: &'static str = "transfer entry";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = r.u8("entry kind")?;
        let path = core::str::from_utf8(r.bytes(MAX_PATH, "path")?)
            .map_err(|_| DecodeError::Invalid("path"))?
            .into();
        let kind = match kind {
            0 => Kind::Folder,
            1 | 2 => Kind::File { size: r.varint("size")?, hash: r.array("hash")?, executable: kind == 2 },
            _ => return Err(DecodeError::Invalid("entry kind")),
        };
        Ok(Self { path, kind })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        let kind = match self.kind {
            Kind::Folder => 0,
            Kind::File { executable, .. } => 1 + u8::from(executable),
        };
        w.u8(kind)?;
        w.bytes(self.path.as_bytes())?;
        if let Kind::File { size, hash, .. } = &self.kind {
            w.varint(*size)?;
            w.put(hash)?;
        }
        Ok(())
    }
}

/// What the receiver has of a file already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Have {
    /// Which entry.
    pub index: u64,
    /// So many bytes from the start.
    pub len: u64,
    /// BLAKE3 of these bytes.
    pub hash: Hash,
}

impl Wire for Have {
    const NAME: &'static str = "transfer have";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { index: r.varint("entry")?, len: r.varint("length")?, hash: r.array("hash")? })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.varint(self.index)?;
        w.varint(self.len)?;
        w.put(&self.hash)
    }
}

/// Why an entry is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Something stands in the way: a folder, a link, or a file that is to be kept.
    #[error("something else is in its place at the receiver")]
    Occupied = 1,
    /// The receiver could not write it.
    #[error("the receiver could not write it; see what it says there")]
    Storage = 2,
    /// What arrived has another hash than the manifest said.
    #[error("its content changed while it was sent")]
    Changed = 3,
}

impl Reason {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8("reason")? {
            1 => Ok(Self::Occupied),
            2 => Ok(Self::Storage),
            3 => Ok(Self::Changed),
            _ => Err(DecodeError::Invalid("reason")),
        }
    }
}

/// From the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// First: how many entries follow.
    Hello(u64),
    /// Entries, in order of their paths.
    Entries(Vec<Entry>),
    /// Content of a file follows.
    File {
        /// Which entry.
        index: u64,
        /// From which byte on; zero or what the receiver said it has.
        from: u64,
    },
    /// The next bytes of the file.
    Data(&'a [u8]),
    /// The file could not be read to its end.
    Broken,
    /// There is no more.
    Done,
}

/// From the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What is there already.
    Have(Vec<Have>),
    /// All of that was said; content may come.
    Ready,
    /// The entry is there, its content verified and durable.
    Verified(u64),
    /// The entry is not there.
    Failed(u64, Reason),
    /// Last: so many entries are verified.
    End(u64),
}

fn list<T: Wire>(r: &mut Reader<'_>) -> Result<Vec<T>, DecodeError> {
    let count = r.varint("count")?;
    if count > MAX_BATCH as u64 {
        return Err(DecodeError::TooLarge { what: "count", value: count, limit: MAX_BATCH as u64 });
    }
    (0..count).map(|_| T::decode(r)).collect()
}

fn put_list<T: Wire>(items: &[T], w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
    w.varint(items.len() as u64)?;
    items.iter().try_for_each(|item| item.encode(w))
}

impl<'a> Request<'a> {
    /// Reads a message.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(message);
        let request = match r.u8("type")? {
            1 => Self::Hello(r.varint("entries")?),
            2 => Self::Entries(list(&mut r)?),
            3 => Self::File { index: r.varint("entry")?, from: r.varint("offset")? },
            4 => return Ok(Self::Data(r.rest())),
            5 => Self::Broken,
            6 => Self::Done,
            _ => return Err(DecodeError::Invalid("type")),
        };
        r.end()?;
        Ok(request)
    }

    /// The message.
    pub fn message(&self) -> Vec<u8> {
        message(|w| match self {
            Self::Hello(entries) => {
                w.u8(1)?;
                w.varint(*entries)
            }
            Self::Entries(entries) => {
                w.u8(2)?;
                put_list(entries, w)
            }
            Self::File { index, from } => {
                w.u8(3)?;
                w.varint(*index)?;
                w.varint(*from)
            }
            Self::Data(bytes) => {
                w.u8(DATA)?;
                w.put(bytes)
            }
            Self::Broken => w.u8(5),
            Self::Done => w.u8(6),
        })
    }
}

/// The first byte of [`Request::Data`]; content is read from the file right behind it.
pub const DATA: u8 = 4;

impl Reply {
    /// Reads a message.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(message);
        let reply = match r.u8("type")? {
            1 => Self::Have(list(&mut r)?),
            2 => Self::Ready,
            3 => Self::Verified(r.varint("entry")?),
            4 => Self::Failed(r.varint("entry")?, Reason::decode(&mut r)?),
            5 => Self::End(r.varint("verified")?),
            _ => return Err(DecodeError::Invalid("type")),
        };
        r.end()?;
        Ok(reply)
    }

    /// The message.
    pub fn message(&self) -> Vec<u8> {
        message(|w| match self {
            Self::Have(have) => {
                w.u8(1)?;
                put_list(have, w)
            }
            Self::Ready => w.u8(2),
            Self::Verified(index) => {
                w.u8(3)?;
                w.varint(*index)
            }
            Self::Failed(index, reason) => {
                w.u8(4)?;
                w.varint(*index)?;
                w.u8(*reason as u8)
            }
            Self::End(verified) => {
                w.u8(5)?;
                w.varint(*verified)
            }
        })
    }
}

fn message(encode: impl Fn(&mut Writer<'_>) -> Result<(), BufferTooSmall>) -> Vec<u8> {
    let mut size = 512;
    loop {
        let mut out = vec![0; size];
        let mut w = Writer::new(&mut out);
        if encode(&mut w).is_ok() {
            let used = w.used();
            out.truncate(used);
            return out;
        }
        size *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request<'static>> {
        let file = |executable| Kind::File { size: 70_000, hash: [7; 32], executable };
        let entry = |path: &str, kind| Entry { path: path.into(), kind };
        vec![
            Request::Hello(3),
            Request::Entries(vec![
                entry("a", Kind::Folder),
                entry("a/b", file(false)),
                entry("ü", file(true)),
            ]),
            Request::File { index: 2, from: 1 << 40 },
            Request::Data(b"content"),
            Request::Broken,
            Request::Done,
        ]
    }

    fn replies() -> Vec<Reply> {
        vec![
            Reply::Have(vec![Have { index: 1, len: 2, hash: [3; 32] }]),
            Reply::Ready,
            Reply::Verified(9),
            Reply::Failed(1, Reason::Changed),
            Reply::End(1000),
        ]
    }

    #[test]
    fn messages_survive_the_wire() {
        for request in requests() {
            assert_eq!(Request::decode(&request.message()), Ok(request.clone()));
        }
        for reply in replies() {
            assert_eq!(Reply::decode(&reply.message()), Ok(reply.clone()));
        }
    }

    #[test]
    fn whatever_decodes_was_written_the_only_way() {
        let mut all: Vec<Vec<u8>> = requests().iter().map(Request::message).collect();
        all.extend(replies().iter().map(Reply::message));
        for message in all {
            for at in 0..message.len() {
                for bit in 0..8 {
                    let mut changed = message.clone();
                    changed[at] ^= 1 << bit;
                    if let Ok(request) = Request::decode(&changed) {
                        assert_eq!(request.message(), changed);
                    }
                    if let Ok(reply) = Reply::decode(&changed) {
                        assert_eq!(reply.message(), changed);
                    }
                }
                if let Ok(request) = Request::decode(&message[..at]) {
                    assert_eq!(request.message(), &message[..at]);
                }
            }
        }
    }

    #[test]
    fn a_list_cannot_claim_more_than_a_batch() {
        let mut claim = vec![2];
        claim.extend([0x7f, 0xff]);
        assert!(matches!(Request::decode(&claim), Err(DecodeError::TooLarge { .. })));
    }
}
