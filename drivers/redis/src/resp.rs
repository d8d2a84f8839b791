//! The protocol of Redis (RESP 2): commands are written, answers are found piece by piece and then
//! walked through in place. Pure; nothing here allocates per value.

use bytes::{BufMut, BytesMut};

/// Deepest nesting of an answer.
const MAX_DEPTH: usize = 8;
/// Most elements of one list.
const MAX_LIST: u64 = 1 << 24;
/// Longest text, in bytes: an event and then some.
const MAX_BULK: u64 = 64 << 20;
/// Longest line: errors, numbers, lengths.
const MAX_LINE: usize = 64 << 10;

/// What came is not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an answer of Redis: {0}")]
pub(crate) struct BadAnswer(&'static str);

/// Finds the end of an answer in bytes that come in pieces, without looking at any byte twice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scanner {
    /// The next element begins here.
    at: usize,
    /// Its line has no end before here.
    seen: usize,
    /// Elements that the lists around it still need.
    open: Vec<u64>,
}

impl Scanner {
    /// Where the answer at the beginning of `buf` ends; `None` if more has to come. After an end,
    /// begin with a fresh scanner.
    pub(crate) fn find(&mut self, buf: &[u8]) -> Result<Option<usize>, BadAnswer> {
        loop {
            let Some((line, after)) = self.line(buf)? else { return Ok(None) };
            let (kind, rest) = line.split_first().ok_or(BadAnswer("an empty line"))?;
            match kind {
                b'+' | b'-' => self.at = after,
                b':' => {
                    number(rest)?;
                    self.at = after;
                }
                b'$' => match length(rest, MAX_BULK)? {
                    None => self.at = after,
                    Some(n) => {
                        let end = after + n as usize + 2;
                        if buf.len() < end {
                            return Ok(None);
                        }
                        if &buf[end - 2..end] != b"\r\n" {
                            return Err(BadAnswer("a text without its end"));
                        }
                        self.at = end;
                    }
                },
                b'*' => match length(rest, MAX_LIST)? {
                    None | Some(0) => self.at = after,
                    Some(n) => {
                        if self.open.len() == MAX_DEPTH {
                            return Err(BadAnswer("nested too deeply"));
                        }
                        self.at = after;
                        self.seen = after;
                        self.open.push(n);
                        continue;
                    }
                },
                _ => return Err(BadAnswer("of an unknown type")),
            }
            self.seen = self.at;
            // An element is complete, and with it the lists that it was the last of.
            loop {
                match self.open.last_mut() {
                    None => return Ok(Some(self.at)),
                    Some(1) => _ = self.open.pop(),
                    Some(left) => {
                        *left -= 1;
                        break;
                    }
                }
            }
        }
    }

    /// The line of the next element, and where it ends with its mark.
    fn line<'a>(&mut self, buf: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, BadAnswer> {
        let from = self.seen.max(self.at);
        let Some(n) = buf[from..].iter().position(|b| *b == b'\n') else {
            self.seen = buf.len();
            if self.seen - self.at > MAX_LINE {
                return Err(BadAnswer("a line that is too long"));
            }
            return Ok(None);
        };
        let end = from + n;
        if end - self.at > MAX_LINE {
            return Err(BadAnswer("a line that is too long"));
        }
        // The text behind a length may not be here yet; its line is found again at once.
        self.seen = end;
        let line = buf[self.at..end].strip_suffix(b"\r").ok_or(BadAnswer("a line without its end"))?;
        Ok(Some((line, end + 1)))
    }
}

/// For fuzzers: whatever comes, however it is cut, the same end or error is found, and what is found is
/// walked through to its last byte.
///
/// # Panics
/// If that does not hold.
pub fn check_answer(bytes: &[u8]) {
    let whole = Scanner::default().find(bytes);
    let mut pieces = Scanner::default();
    let cut = (0..=bytes.len()).map(|have| pieces.find(&bytes[..have]));
    let cut = cut.into_iter().find(|found| *found != Ok(None)).unwrap_or(Ok(None));
    assert_eq!(whole, cut, "the same answer in one piece and in many");
    if let Ok(Some(end)) = whole {
        let mut walk = Walk::new(&bytes[..end]);
        assert!(walk.skip().is_ok() && walk.buf.is_empty(), "an answer is walked through to its end");
    }
    _ = Walk::new(bytes).skip();
}

fn number(text: &[u8]) -> Result<i64, BadAnswer> {
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or(BadAnswer("not a number"))
}

/// `None`: nothing, written as the length -1.
fn length(text: &[u8], limit: u64) -> Result<Option<u64>, BadAnswer> {
    match number(text)? {
        -1 => Ok(None),
        n if n >= 0 && n as u64 <= limit => Ok(Some(n as u64)),
        _ => Err(BadAnswer("a length out of range")),
    }
}

/// One element of an answer. The elements of a list follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Status(&'a [u8]),
    Error(&'a str),
    Int(i64),
    Bulk(&'a [u8]),
    Nil,
    List(usize),
}

/// Walks through an answer that a [`Scanner`] found complete.
#[derive(Clone, Debug)]
pub(crate) struct Walk<'a> {
    buf: &'a [u8],
}

impl<'a> Walk<'a> {
    pub(crate) const fn new(answer: &'a [u8]) -> Self {
        Self { buf: answer }
    }

    /// The next element.
    pub(crate) fn item(&mut self) -> Result<Item<'a>, BadAnswer> {
        let end = self.buf.iter().position(|b| *b == b'\n').ok_or(BadAnswer("the end is missing"))?;
        let line = self.buf[..end].strip_suffix(b"\r").ok_or(BadAnswer("a line without its end"))?;
        self.buf = &self.buf[end + 1..];
        let (kind, rest) = line.split_first().ok_or(BadAnswer("an empty line"))?;
        Ok(match kind {
            b'+' => Item::Status(rest),
            b'-' => Item::Error(std::str::from_utf8(rest).unwrap_or("an error that is not text")),
            b':' => Item::Int(number(rest)?),
            b'$' => match length(rest, MAX_BULK)? {
                None => Item::Nil,
                Some(n) => {
                    let n = n as usize;
                    let body = self.buf.get(..n).ok_or(BadAnswer("the end is missing"))?;
                    self.buf = self.buf.get(n + 2..).ok_or(BadAnswer("the end is missing"))?;
                    Item::Bulk(body)
                }
            },
            b'*' => match length(rest, MAX_LIST)? {
                None => Item::Nil,
                Some(n) => Item::List(n as usize),
            },
            _ => return Err(BadAnswer("of an unknown type")),
        })
    }

    /// Passes over the next element and all that belongs to it.
    pub(crate) fn skip(&mut self) -> Result<(), BadAnswer> {
        let mut left = 1usize;
        while left > 0 {
            left -= 1;
            if let Item::List(n) = self.item()? {
                left += n;
            }
        }
        Ok(())
    }

    /// The next element, which has to be a list.
    pub(crate) fn list(&mut self) -> Result<usize, BadAnswer> {
        match self.item()? {
            Item::List(n) => Ok(n),
            Item::Nil => Ok(0),
            _ => Err(BadAnswer("not a list")),
        }
    }

    /// The next element, which has to be a text.
    pub(crate) fn bulk(&mut self) -> Result<&'a [u8], BadAnswer> {
        match self.item()? {
            Item::Bulk(text) | Item::Status(text) => Ok(text),
            _ => Err(BadAnswer("not a text")),
        }
    }
}

/// Writes a command of these words.
pub(crate) fn command(out: &mut BytesMut, words: &[&[u8]]) {
    begin(out, words.len());
    words.iter().for_each(|each| word(out, each));
}

/// Writes the head of a command of `words` words.
pub(crate) fn begin(out: &mut BytesMut, words: usize) {
    out.put_u8(b'*');
    decimal(out, words as u64);
    out.put_slice(b"\r\n");
}

/// Writes a word of a command.
pub(crate) fn word(out: &mut BytesMut, word: &[u8]) {
    out.put_u8(b'$');
    decimal(out, word.len() as u64);
    out.put_slice(b"\r\n");
    out.put_slice(word);
    out.put_slice(b"\r\n");
}

/// Writes a number in decimal digits.
pub(crate) fn decimal(out: &mut BytesMut, number: u64) {
    let mut digits = [0; 20];
    out.put_slice(digits_of(number, &mut digits));
}

/// The decimal digits of a number.
pub(crate) fn digits_of(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Tree {
        Status(String),
        Error(String),
        Int(i64),
        Bulk(Vec<u8>),
        Nil,
        List(Vec<Self>),
    }

    impl Tree {
        fn write(&self, out: &mut Vec<u8>) {
            match self {
                Self::Status(text) => out.extend(format!("+{text}\r\n").bytes()),
                Self::Error(text) => out.extend(format!("-{text}\r\n").bytes()),
                Self::Int(n) => out.extend(format!(":{n}\r\n").bytes()),
                Self::Bulk(body) => {
                    out.extend(format!("${}\r\n", body.len()).bytes());
                    out.extend(body);
                    out.extend(b"\r\n");
                }
                Self::Nil => out.extend(b"$-1\r\n"),
                Self::List(all) => {
                    out.extend(format!("*{}\r\n", all.len()).bytes());
                    all.iter().for_each(|one| one.write(out));
                }
            }
        }

        fn is(&self, walk: &mut Walk<'_>) -> bool {
            match (self, walk.item().expect("complete")) {
                (Self::Status(a), Item::Status(b)) => a.as_bytes() == b,
                (Self::Error(a), Item::Error(b)) => a == b,
                (Self::Int(a), Item::Int(b)) => *a == b,
                (Self::Bulk(a), Item::Bulk(b)) => a == b,
                (Self::Nil, Item::Nil) => true,
                (Self::List(all), Item::List(n)) => all.len() == n && all.iter().all(|one| one.is(walk)),
                _ => false,
            }
        }
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            "[ -~]{0,20}".prop_map(Tree::Status),
            "[ -~]{0,20}".prop_map(Tree::Error),
            any::<i64>().prop_map(Tree::Int),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Tree::Bulk),
            Just(Tree::Nil),
        ];
        leaf.prop_recursive(4, 60, 6, |inner| proptest::collection::vec(inner, 0..6).prop_map(Tree::List))
    }

    proptest! {
        /// However an answer is cut, its end is found once it is there and not before.
        #[test]
        fn in_pieces(trees in proptest::collection::vec(tree(), 1..4), cuts in proptest::collection::vec(1usize..9, 1..20)) {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for tree in &trees {
                tree.write(&mut bytes);
                ends.push(bytes.len());
            }
            let (mut begin, mut have, mut cut) = (0, 0, cuts.iter().cycle());
            for (tree, end) in trees.iter().zip(ends) {
                let mut scan = Scanner::default();
                let found = loop {
                    match scan.find(&bytes[begin..have]).unwrap() {
                        Some(n) => break begin + n,
                        None => {
                            prop_assert!(have < end, "not found though it is there");
                            have = (have + cut.next().unwrap()).min(bytes.len());
                        }
                    }
                };
                prop_assert_eq!(found, end);
                let mut walk = Walk::new(&bytes[begin..end]);
                prop_assert!(tree.is(&mut walk));
                let mut skip = Walk::new(&bytes[begin..end]);
                skip.skip().unwrap();
                prop_assert!(skip.buf.is_empty() && walk.buf.is_empty());
                begin = end;
            }
        }

        /// Whatever comes, it ends in an answer or in an error; what is found can be walked through.
        #[test]
        fn whatever_comes(bytes in proptest::collection::vec(prop_oneof![Just(b'$'), Just(b'*'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'-'), any::<u8>()], 0..60)) {
            check_answer(&bytes);
        }
    }

    #[test]
    fn limits() {
        let find = |text: &str| Scanner::default().find(text.as_bytes());
        assert!(find("*1\r\n".repeat(MAX_DEPTH + 1).as_str()).is_err());
        assert!(find("$99999999999\r\n").is_err() && find("*-2\r\n").is_err() && find(":x\r\n").is_err());
        assert!(find(&"+".repeat(MAX_LINE + 2)).is_err());
        assert!(find(&("+".repeat(MAX_LINE + 2) + "\r\n")).is_err(), "in one piece, too");
        assert_eq!(find("$2\r\nabc"), Ok(None));
        assert!(find("$2\r\nabcd").is_err());
    }

    #[test]
    fn commands() {
        let mut out = BytesMut::new();
        command(&mut out, &[b"GET", b"", &u64::MAX.to_string().into_bytes()]);
        assert_eq!(&out[..], b"*3\r\n$3\r\nGET\r\n$0\r\n\r\n$20\r\n18446744073709551615\r\n");
    }
}
