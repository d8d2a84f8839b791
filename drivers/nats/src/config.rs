//! Where the engine is and what is asked of it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use net_shell::bus::adapter::AdapterError;

/// Most events of a shard that may be under way.
pub const MAX_IN_FLIGHT: u16 = 4096;

/// The shortest time for which ids are remembered.
const MIN_WINDOW: Duration = Duration::from_secs(10);
/// The longest: servers count nanoseconds in 63 bits.
const MAX_WINDOW: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How the client proves who it is.
#[derive(Clone, Default)]
pub(crate) enum Login {
    /// As the address of the first server says, or not at all.
    #[default]
    Address,
    User(String, String),
    Token(String),
    #[cfg(feature = "creds")]
    Nkey(String),
    #[cfg(feature = "creds")]
    Credentials(PathBuf),
}

/// TLS beyond what the addresses say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) required: bool,
    pub(crate) first: bool,
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

/// Where a JetStream engine is, and what the bus asks of it.
///
/// Streams that do not exist are created as these options say. One that exists is used if it is what
/// these options say, and refused with the difference otherwise: nothing is changed behind the back of
/// whoever runs the engine.
#[derive(Clone)]
#[must_use]
pub struct JetStream {
    pub(crate) servers: Vec<String>,
    pub(crate) prefix: String,
    pub(crate) domain: Option<String>,
    pub(crate) replicas: u8,
    pub(crate) memory: bool,
    pub(crate) max_messages: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) discard_new: bool,
    pub(crate) duplicate_window: Duration,
    pub(crate) create: bool,
    pub(crate) in_flight: u16,
    pub(crate) request_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) login: Login,
    pub(crate) tls: Tls,
}

impl fmt::Debug for JetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No secrets, which addresses may hold too.
        f.debug_struct("JetStream")
            .field("prefix", &self.prefix)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

impl From<&str> for JetStream {
    fn from(server: &str) -> Self {
        Self::new(server)
    }
}

impl From<String> for JetStream {
    fn from(server: String) -> Self {
        Self::new(server)
    }
}

impl JetStream {
    /// A server such as `nats://127.0.0.1:4222` or `tls://user:password@nats.example:4222`. The
    /// client learns of the other servers of its cluster by itself.
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            servers: vec![server.into()],
            prefix: "net".into(),
            domain: None,
            replicas: 1,
            memory: false,
            max_messages: None,
            max_bytes: None,
            max_age: None,
            discard_new: false,
            duplicate_window: Duration::from_secs(120),
            create: true,
            in_flight: 64,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            login: Login::default(),
            tls: Tls::default(),
        }
    }

    /// Another server to try.
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.servers.push(server.into());
        self
    }

    /// What the names of streams and subjects begin with: letters, digits, `-` and `_`, at most 64.
    /// `net` without it. Buses with one prefix share their events.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The JetStream domain, for servers behind leaf nodes.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Servers that hold each event: 1 to 5, the least number that a majority of must survive. 1
    /// without it.
    pub const fn replicas(mut self, replicas: u8) -> Self {
        self.replicas = replicas;
        self
    }

    /// Streams live in the memory of the servers instead of their disks.
    pub const fn memory(mut self) -> Self {
        self.memory = true;
        self
    }

    /// Keeps at most so many events per shard. No limit without it.
    pub const fn max_messages(mut self, events: u64) -> Self {
        self.max_messages = Some(events);
        self
    }

    /// Keeps at most so many bytes per shard, headers included. No limit without it.
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Keeps events for so long. No limit without it.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// A full stream takes nothing new, so that the producer learns of it, instead of forgetting the
    /// oldest.
    pub const fn discard_new(mut self) -> Self {
        self.discard_new = true;
        self
    }

    /// For how long the engine remembers ids: 10 s or more, 120 s without it. It costs the server
    /// memory for every event of that time. What is sent again after a longer time is compared with
    /// the producer's last event in the stream.
    pub const fn duplicate_window(mut self, window: Duration) -> Self {
        self.duplicate_window = window;
        self
    }

    /// Streams must exist; they are not created.
    pub const fn existing_streams(mut self) -> Self {
        self.create = false;
        self
    }

    /// Events of a shard that may be sent and not acknowledged: 1 to [`MAX_IN_FLIGHT`], 64 without it.
    pub const fn in_flight(mut self, events: u16) -> Self {
        self.in_flight = events;
        self
    }

    /// The longest that the engine may take to answer before that is an error. 5 s without it.
    pub const fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// The longest that connecting to one server may take. 5 s without it.
    pub const fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Logs in with a name and a password.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Login::User(name.into(), password.into());
        self
    }

    /// Logs in with a token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.login = Login::Token(token.into());
        self
    }

    /// Logs in with the seed of an nkey.
    #[cfg(feature = "creds")]
    pub fn nkey(mut self, seed: impl Into<String>) -> Self {
        self.login = Login::Nkey(seed.into());
        self
    }

    /// Logs in with a `.creds` file.
    #[cfg(feature = "creds")]
    pub fn credentials(mut self, file: impl Into<PathBuf>) -> Self {
        self.login = Login::Credentials(file.into());
        self
    }

    /// Connects with TLS or not at all, whatever the address says.
    pub const fn require_tls(mut self) -> Self {
        self.tls.required = true;
        self
    }

    /// Begins with TLS, for servers with `handshake_first`.
    pub const fn tls_first(mut self) -> Self {
        self.tls.first = true;
        self
    }

    /// Trusts the certificates in this PEM file instead of those of the system. Can be repeated.
    pub fn root_certificates(mut self, pem: impl Into<PathBuf>) -> Self {
        self.tls.roots.push(pem.into());
        self
    }

    /// Shows the server this certificate, with its key, both PEM.
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.client = Some((certificate.into(), key.into()));
        self
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), AdapterError> {
        let wrong = |text: String| Err(AdapterError::Config(text));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.chars().all(plain) {
            return wrong(format!(
                "the prefix is {:?}; allowed are 1 to 64 letters, digits, `-` and `_`",
                self.prefix
            ));
        }
        if !(1..=5).contains(&self.replicas) {
            return wrong(format!("replicas are {}, allowed is 1 to 5", self.replicas));
        }
        if !(1..=MAX_IN_FLIGHT).contains(&self.in_flight) {
            return wrong(format!("in_flight is {}, allowed is 1 to {MAX_IN_FLIGHT}", self.in_flight));
        }
        for (what, limit) in
            [("request_timeout", self.request_timeout), ("connect_timeout", self.connect_timeout)]
        {
            if limit < Duration::from_millis(10) || limit > Duration::from_secs(600) {
                return wrong(format!("{what} is {limit:?}, allowed is 10 ms to 10 min"));
            }
        }
        for (what, time) in
            [("duplicate_window", self.duplicate_window), ("max_age", self.max_age.unwrap_or(MIN_WINDOW))]
        {
            if !(MIN_WINDOW..=MAX_WINDOW).contains(&time) {
                return wrong(format!("{what} is {time:?}, allowed is {MIN_WINDOW:?} to 100 years"));
            }
        }
        if self.servers.iter().any(String::is_empty) {
            return wrong("the address of a server is empty".into());
        }
        for (what, limit) in [("max_messages", self.max_messages), ("max_bytes", self.max_bytes)] {
            if limit.is_some_and(|limit| limit == 0 || limit > i64::MAX as u64) {
                return wrong(format!("{what} is {}, allowed is 1 to {}", limit.unwrap_or(0), i64::MAX));
            }
        }
        if self.discard_new && self.max_messages.is_none() && self.max_bytes.is_none() {
            return wrong("discard_new needs max_messages or max_bytes: the stream is never full".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_and_named() {
        let fine = || JetStream::new("nats://localhost");
        assert_eq!(fine().check(), Ok(()));
        for (wrong, named) in [
            (fine().prefix(""), "prefix"),
            (fine().prefix("a.b"), "prefix"),
            (fine().prefix("a".repeat(65)), "prefix"),
            (fine().replicas(0), "replicas"),
            (fine().replicas(6), "replicas"),
            (fine().in_flight(0), "in_flight"),
            (fine().in_flight(MAX_IN_FLIGHT + 1), "in_flight"),
            (fine().request_timeout(Duration::ZERO), "request_timeout"),
            (fine().connect_timeout(Duration::from_secs(3600)), "connect_timeout"),
            (fine().duplicate_window(Duration::from_secs(1)), "duplicate_window"),
            (fine().max_age(Duration::from_secs(1)), "max_age"),
            (fine().max_messages(0), "max_messages"),
            (fine().max_bytes(u64::MAX), "max_bytes"),
            (fine().discard_new(), "discard_new"),
        ] {
            let Err(AdapterError::Config(text)) = wrong.check() else { panic!("{wrong:?} was taken") };
            assert!(text.contains(named), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?}", JetStream::new("nats://me:secret@localhost").token("secret"));
        assert!(!text.contains("secret"), "{text}");
    }
}
