//! Where a server is.

use std::fmt;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Addr {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Addr {
    /// `host`, `host:port` or `[v6]:port`.
    pub(crate) fn parse(text: &str, port: u16) -> Result<Self, String> {
        let bad = || format!("`{text}` is not host:port");
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, port.parse().map_err(|_| bad())?),
                    None if rest.is_empty() => (host, port),
                    None => return Err(bad()),
                }
            }
            None => match text.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
                None => (text, port),
            },
        };
        let clean = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@[]".contains(c));
        if clean && port != 0 { Ok(Self { host: host.to_owned(), port }) } else { Err(bad()) }
    }
}
