//! Events from the lines of a file or a pipe.

use std::io::{self, BufRead, BufReader, Read};

use net_sdk::net::MAX_EVENT;
use tokio::sync::mpsc;

/// Lines that are handed over at once, and their bytes, if so many are there.
const MOST: (usize, usize) = (1024, 256 << 10);
/// Portions that wait to be emitted.
const WAITING: usize = 4;

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Event(Vec<u8>),
    /// Longer than any event may be; it was skipped.
    TooLong,
}

/// Reads lines, none of them into more memory than an event may take.
struct Lines<R> {
    reader: BufReader<R>,
}

impl<R: Read> Lines<R> {
    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut body = Vec::new();
        let limit = u64::from(MAX_EVENT) + 1;
        let n = self.reader.by_ref().take(limit).read_until(b'\n', &mut body)?;
        if n == 0 {
            return Ok(None);
        }
        if body.last() == Some(&b'\n') {
            body.pop();
        } else if n as u64 == limit {
            self.reader.skip_until(b'\n')?;
            return Ok(Some(Line::TooLong));
        }
        Ok(Some(Line::Event(body)))
    }

    /// Waits for a line and takes those that are here with it. Empty at the end.
    fn some(&mut self) -> io::Result<Vec<Line>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while let Some(line) = self.line()? {
            bytes += if let Line::Event(body) = &line { body.len() } else { 0 };
            lines.push(line);
            let here = self.reader.buffer().contains(&b'\n');
            if !here || lines.len() >= MOST.0 || bytes >= MOST.1 {
                break;
            }
        }
        Ok(lines)
    }
}

/// Reads on a thread of its own, which waits where nothing comes or nobody takes.
pub fn read(from: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Vec<Line>>> {
    let (tell, told) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        let mut lines = Lines { reader: BufReader::with_capacity(MOST.1, from) };
        loop {
            let some = lines.some();
            let over = !some.as_ref().is_ok_and(|lines| !lines.is_empty());
            // The end is that nothing comes any more.
            let silent = some.as_ref().is_ok_and(Vec::is_empty);
            if silent || tell.blocking_send(some).is_err() || over {
                return;
            }
        }
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_bounded() {
        let longest = vec![b'x'; MAX_EVENT as usize];
        let mut input = b"a\n\n".to_vec();
        input.extend([&longest[..], b"\n", &longest, b"x\n", b"last"].concat());
        let mut lines = Lines { reader: BufReader::new(&input[..]) };
        let mut all = Vec::new();
        loop {
            match lines.some().unwrap() {
                some if some.is_empty() => break,
                some => all.extend(some),
            }
        }
        let event = |text: &[u8]| Line::Event(text.to_vec());
        assert_eq!(all, [event(b"a"), event(b""), event(&longest), Line::TooLong, event(b"last")]);
    }
}
