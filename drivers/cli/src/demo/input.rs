//! What the demo sends: a file, and its lines.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use blake3::Hasher;

use super::{FILE, LINE, READINGS, RECEIPTS};
use crate::eavesdrop;
use crate::failure::{Failure, Result};

/// The program itself may be large in a debug build; more of it shows nothing more.
const MAX_SELF: u64 = 32 << 20;
/// Most lines, for the same reason.
const MAX_LINES: usize = 100_000;
/// Shortest run of printable bytes in a binary that counts as a string.
const MIN_STRING: usize = 6;
/// Longest message; a longer line is cut into several.
const MAX_LINE: usize = 16 << 10;
/// How many pieces of the file the eavesdropper looks for.
const MARKERS: usize = 8;

/// What is sent.
#[derive(Clone)]
pub struct Input {
    /// How to call it.
    pub name: String,
    /// The content.
    pub bytes: Arc<[u8]>,
    /// Where its lines are.
    pub lines: Arc<[Range<usize>]>,
    /// "lines" or "strings".
    pub kind: &'static str,
    /// BLAKE3 of the content.
    pub hash: blake3::Hash,
    /// The same of all lines, each with its length before it.
    pub lines_hash: blake3::Hash,
    markers: Arc<[Vec<u8>]>,
}

impl Input {
    /// The file at `path`, or this program's own.
    pub fn load(path: Option<PathBuf>) -> Result<Self> {
        let (path, limit) = match path {
            Some(path) => (path, u64::MAX),
            None => (std::env::current_exe()?, MAX_SELF),
        };
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(|e| Failure::failed(format_args!("{}: {e}", path.display())))?;
        if bytes.is_empty() {
            return Err(Failure::usage(format_args!("{} is empty", path.display())));
        }
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Self::new(name, bytes))
    }

    fn new(name: String, bytes: Vec<u8>) -> Self {
        let binary = bytes.iter().take(8192).any(|byte| *byte == 0);
        let lines = if binary { strings(&bytes) } else { lines(&bytes) };
        let mut hasher = Hasher::new();
        lines.iter().for_each(|range| hash_line(&mut hasher, &bytes[range.clone()]));
        Self {
            name,
            hash: blake3::hash(&bytes),
            lines_hash: hasher.finalize(),
            kind: if binary { "strings" } else { "lines" },
            markers: eavesdrop::markers(&bytes, MARKERS).into(),
            lines: lines.into(),
            bytes: bytes.into(),
        }
    }

    /// Pieces of the content that an eavesdropper looks for.
    pub fn text_markers(&self) -> &[Vec<u8>] {
        &self.markers
    }

    /// The same with the labels of streams.
    pub fn markers(&self) -> Vec<Vec<u8>> {
        let labels = [FILE, LINE, READINGS, RECEIPTS, "reading "].map(|label| label.as_bytes().to_vec());
        self.markers.iter().cloned().chain(labels).collect()
    }
}

/// Adds a message to a hash, so that the borders between messages count.
pub fn hash_line(hasher: &mut Hasher, line: &[u8]) {
    hasher.update(&(line.len() as u64).to_le_bytes());
    hasher.update(line);
}

fn cut(range: Range<usize>, into: &mut Vec<Range<usize>>) {
    let mut start = range.start;
    while range.end - start > MAX_LINE {
        into.push(start..start + MAX_LINE);
        start += MAX_LINE;
    }
    into.push(start..range.end);
}

fn lines(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut found, mut start) = (Vec::new(), 0);
    for end in memchr::memchr_iter(b'\n', bytes).chain([bytes.len()]) {
        if found.len() >= MAX_LINES {
            break;
        }
        if end > start {
            cut(start..end, &mut found);
        }
        start = end + 1;
    }
    found
}

fn strings(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut found, mut start) = (Vec::new(), 0);
    for at in 0..=bytes.len() {
        if bytes.get(at).is_some_and(|byte| (0x20..0x7f).contains(byte)) {
            continue;
        }
        if at - start >= MIN_STRING {
            cut(start..at, &mut found);
        }
        start = at + 1;
        if found.len() >= MAX_LINES {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(bytes: &'a [u8], found: &[Range<usize>]) -> Vec<&'a [u8]> {
        found.iter().map(|range| &bytes[range.clone()]).collect()
    }

    #[test]
    fn lines_of_a_text() {
        let text = b"one\n\ntwo\nthree";
        assert_eq!(texts(text, &lines(text)), [&b"one"[..], b"two", b"three"]);
        assert_eq!(lines(&vec![b'x'; MAX_LINE * 2 + 1]).len(), 3);
    }

    #[test]
    fn strings_of_a_binary() {
        let binary = b"\0\x01visible\0short\0also here";
        assert_eq!(texts(binary, &strings(binary)), [&b"visible"[..], b"also here"]);
    }

    #[test]
    fn borders_between_messages_count() {
        let hash = |parts: &[&[u8]]| {
            let mut hasher = Hasher::new();
            parts.iter().for_each(|part| hash_line(&mut hasher, part));
            hasher.finalize()
        };
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }
}
