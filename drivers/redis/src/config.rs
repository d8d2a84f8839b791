//! Which servers, under which names, and what is kept there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use net_proto::bus::{MAX_EVENT, Shard};
use net_shell::bus::adapter::AdapterError;

use crate::addr::Addr;
use crate::tls::TlsConfig;

/// Where the streams are and how they are kept. Checked when the bus is built.
///
/// ```
/// use net_redis::RedisConfig;
/// let one = RedisConfig::single("127.0.0.1:6379").prefix("plant").max_len(1_000_000);
/// let url = RedisConfig::single("rediss://bus:secret@redis.example:6380/2");
/// let three = RedisConfig::sentinel("net", ["10.0.0.1", "10.0.0.2", "10.0.0.3"]).replicas(1);
/// let many = RedisConfig::cluster(["10.0.1.1:6379", "10.0.1.2:6379"]);
/// ```
#[derive(Clone)]
#[must_use]
pub struct RedisConfig {
    mode: Mode,
    servers: Vec<String>,
    username: Option<String>,
    password: Option<String>,
    sentinel_login: Option<(Option<String>, String)>,
    database: u16,
    tls: Option<TlsConfig>,
    prefix: String,
    max_len: Option<u64>,
    max_age: Option<Duration>,
    pipeline: u32,
    max_event: u32,
    connect_timeout: Duration,
    command_timeout: Duration,
    replicas: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Single,
    Sentinel(String),
    Cluster,
}

/// Who is asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    Single(Addr),
    Sentinel { name: String, sentinels: Vec<Addr> },
    Cluster { seeds: Vec<Addr> },
}

/// A name and a password.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: String,
}

/// A configuration that can work.
#[derive(Clone)]
pub(crate) struct Checked {
    pub(crate) servers: Servers,
    pub(crate) login: Option<Login>,
    pub(crate) sentinel_login: Option<Login>,
    pub(crate) database: u16,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) prefix: String,
    pub(crate) max_len: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) pipeline: u32,
    pub(crate) max_event: u32,
    pub(crate) connect_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) replicas: u32,
}

impl Checked {
    /// The stream of a shard.
    pub(crate) fn key(&self, shard: Shard) -> String {
        format!("{}:shard:{shard}", self.prefix)
    }

    /// The set of all shards that have a stream.
    pub(crate) fn directory(&self) -> String {
        format!("{}:shards", self.prefix)
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses may hold passwords.
        f.debug_struct("RedisConfig")
            .field("mode", &self.mode)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisConfig {
    fn new(mode: Mode, servers: Vec<String>) -> Self {
        Self {
            mode,
            servers,
            username: None,
            password: None,
            sentinel_login: None,
            database: 0,
            tls: None,
            prefix: "net".to_owned(),
            max_len: None,
            max_age: None,
            pipeline: 1000,
            max_event: MAX_EVENT,
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            replicas: 0,
        }
    }

    /// One server: `host:port`, or `redis://[user[:password]@]host[:port][/database]`; `rediss` with
    /// TLS. User and password may hold percent-encoded characters.
    pub fn single(server: impl Into<String>) -> Self {
        Self::new(Mode::Single, vec![server.into()])
    }

    /// The master that these Sentinels (`host:port`, or `host` at 26379) know under a name. Asked
    /// again at each connection.
    pub fn sentinel<S: Into<String>>(
        master: impl Into<String>,
        sentinels: impl IntoIterator<Item = S>,
    ) -> Self {
        Self::new(Mode::Sentinel(master.into()), sentinels.into_iter().map(Into::into).collect())
    }

    /// A Cluster that these servers belong to. Each shard's stream is on the master of its slot.
    pub fn cluster<S: Into<String>>(seeds: impl IntoIterator<Item = S>) -> Self {
        Self::new(Mode::Cluster, seeds.into_iter().map(Into::into).collect())
    }

    /// A user of the access control list; [`RedisConfig::password`] has to be given, too.
    pub fn username(mut self, name: impl Into<String>) -> Self {
        self.username = Some(name.into());
        self
    }

    /// The password, of the user or of the server.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// What the Sentinels want to hear, if they want something.
    pub fn sentinel_login(mut self, username: Option<String>, password: impl Into<String>) -> Self {
        self.sentinel_login = Some((username, password.into()));
        self
    }

    /// The number of the database. 0 without it; a Cluster has no other.
    pub const fn database(mut self, number: u16) -> Self {
        self.database = number;
        self
    }

    /// With TLS, for certificates that the system trusts. Sentinels are asked with TLS, too.
    pub fn tls(mut self) -> Self {
        self.tls.get_or_insert_default();
        self
    }

    /// With TLS, for these certificates of authorities, in PEM, and no others.
    pub fn tls_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.get_or_insert_default().roots = Some(pem.into());
        self
    }

    /// With TLS, and this certificate and key for servers that want to see one, in PEM.
    pub fn tls_identity(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.get_or_insert_default().identity = Some((certificates.into(), key.into()));
        self
    }

    /// What the names of all keys begin with. `net` without it.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Keeps about so many events of each shard (`MAXLEN ~`). Readers that had not seen what goes
    /// are told. Everything is kept without it, until memory is full.
    pub const fn max_len(mut self, events: u64) -> Self {
        self.max_len = Some(events);
        self
    }

    /// Keeps events about so long (`MINID ~`), by the clock of the server. They go when others come.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Most events in one pipelined transaction. 1,000 without it; 1 to 100,000.
    pub const fn pipeline(mut self, events: u32) -> Self {
        self.pipeline = events;
        self
    }

    /// Longest event, in bytes: 1 MiB without it, and at most.
    pub const fn max_event(mut self, bytes: u32) -> Self {
        self.max_event = bytes;
        self
    }

    /// The longest that a connection may take, name resolution and login included. 5 s without it.
    pub const fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// The longest that an answer may take. 5 s without it.
    pub const fn command_timeout(mut self, limit: Duration) -> Self {
        self.command_timeout = limit;
        self
    }

    /// An event counts as acknowledged when so many replicas have it, too (`WAIT`). 0 without it.
    /// If they do not answer within [`RedisConfig::command_timeout`], the batch is sent again.
    pub const fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    pub(crate) fn check(&self) -> Result<Checked, AdapterError> {
        let mut all = self.clone();
        all.checked().map_err(AdapterError::Config)
    }

    fn checked(&mut self) -> Result<Checked, String> {
        if self.mode == Mode::Single {
            let server = std::mem::take(&mut self.servers[0]);
            self.servers[0] = self.url(server)?;
        }
        if self.servers.is_empty() {
            return Err("no server was given".into());
        }
        let port = if matches!(self.mode, Mode::Sentinel(_)) { 26_379 } else { 6379 };
        let mut addrs = self.servers.iter().map(|s| Addr::parse(s, port)).collect::<Result<Vec<_>, _>>()?;
        let servers = match &self.mode {
            Mode::Single => Servers::Single(addrs.remove(0)),
            Mode::Sentinel(name) if name.is_empty() => return Err("the master has no name".into()),
            Mode::Sentinel(name) => Servers::Sentinel { name: name.clone(), sentinels: addrs },
            Mode::Cluster => Servers::Cluster { seeds: addrs },
        };
        if self.mode == Mode::Cluster && self.database != 0 {
            return Err(format!("a Cluster has no database {}", self.database));
        }
        if self.username.is_some() && self.password.is_none() {
            return Err("a user name without a password".into());
        }
        if self.prefix.is_empty() || self.prefix.len() > 256 || self.prefix.contains(char::is_control) {
            return Err("the prefix has to be 1 to 256 bytes without control characters".into());
        }
        if self.mode == Mode::Cluster && self.prefix.contains(['{', '}']) {
            return Err("braces in the prefix would put all shards into one slot of the Cluster".into());
        }
        let range =
            |what: &str, value: u64, range: std::ops::RangeInclusive<u64>| match range.contains(&value) {
                true => Ok(()),
                false => Err(format!("{what} {value}: {} to {} is possible", range.start(), range.end())),
            };
        range("pipeline", self.pipeline.into(), 1..=100_000)?;
        range("max_event", self.max_event.into(), 1..=MAX_EVENT.into())?;
        range("max_len", self.max_len.unwrap_or(1), 1..=u64::MAX >> 1)?;
        range("replicas", self.replicas.into(), 0..=1000)?;
        let millis = |d: Duration| d.as_millis().min(u128::from(u64::MAX)) as u64;
        range("max_age (ms)", millis(self.max_age.unwrap_or(Duration::MAX)), 1..=u64::MAX)?;
        range("connect_timeout (ms)", millis(self.connect_timeout), 1..=3_600_000)?;
        range("command_timeout (ms)", millis(self.command_timeout), 1..=3_600_000)?;
        let login = |username: Option<String>, password: String| Login { username, password };
        Ok(Checked {
            servers,
            login: self.password.clone().map(|password| login(self.username.clone(), password)),
            sentinel_login: self.sentinel_login.clone().map(|(name, password)| login(name, password)),
            database: self.database,
            tls: self.tls.as_ref().map(crate::tls::config).transpose()?,
            prefix: self.prefix.clone(),
            max_len: self.max_len,
            max_age: self.max_age,
            pipeline: self.pipeline,
            max_event: self.max_event,
            connect_timeout: self.connect_timeout,
            command_timeout: self.command_timeout,
            replicas: self.replicas,
        })
    }

    /// Takes the parts of an address in URL form; what is left is host and port.
    fn url(&mut self, text: String) -> Result<String, String> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(text) };
        match scheme {
            "redis" => {}
            "rediss" => _ = self.tls.get_or_insert_default(),
            _ => return Err(format!("`{scheme}` is neither redis nor rediss")),
        }
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        if let Some(login) = login {
            let (name, password) = match login.split_once(':') {
                Some((name, password)) => (name, Some(password)),
                None => (login, None),
            };
            if !name.is_empty() {
                self.username = Some(decode(name)?);
            }
            if let Some(password) = password {
                self.password = Some(decode(password)?);
            }
        }
        let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !database.is_empty() {
            self.database = database.parse().map_err(|_| format!("`{database}` is not a database"))?;
        }
        Ok(server.to_owned())
    }
}

/// Percent-encoded text.
fn decode(text: &str) -> Result<String, String> {
    let bad = || "a user or password is not percent-encoded properly".to_owned();
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| (b as char).to_digit(16));
                let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
                (high * 16 + low) as u8
            }
            other => other,
        });
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(config: RedisConfig) -> String {
        match config.check() {
            Err(AdapterError::Config(why)) => why,
            other => panic!("{:?}", other.map(|_| ())),
        }
    }

    #[test]
    fn addresses() {
        let checked = RedisConfig::single("redis://bus:p%40ss%3a@[::1]:7000/3").check().unwrap();
        assert_eq!(checked.servers, Servers::Single(Addr { host: "::1".into(), port: 7000 }));
        let login = checked.login.unwrap();
        assert_eq!((login.username.as_deref(), &*login.password), (Some("bus"), "p@ss:"));
        assert_eq!((checked.database, checked.tls.is_none()), (3, true));
        let checked = RedisConfig::single("host").check().unwrap();
        assert_eq!(checked.servers, Servers::Single(Addr { host: "host".into(), port: 6379 }));
        let Servers::Sentinel { sentinels, .. } =
            RedisConfig::sentinel("m", ["a", "b:1"]).check().unwrap().servers
        else {
            panic!()
        };
        assert_eq!(sentinels.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:26379", "b:1"]);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for text in
            ["", "host:", "host:x", "host:0", "http://host", "redis://host/x", "redis://a:%zz@host", "[::1"]
        {
            why(RedisConfig::single(text));
        }
        let one = || RedisConfig::single("host");
        assert!(why(one().pipeline(0)).contains("1 to 100000"));
        why(one().max_event(0));
        why(one().max_event(MAX_EVENT + 1));
        why(one().max_len(0));
        why(one().max_age(Duration::ZERO));
        why(one().command_timeout(Duration::ZERO));
        why(one().prefix(""));
        why(one().username("a"));
        why(one().tls_roots("no certificate"));
        why(RedisConfig::cluster(["a"]).database(1));
        why(RedisConfig::cluster(["a"]).prefix("{net}"));
        why(RedisConfig::cluster([""; 0]));
        why(RedisConfig::sentinel("", ["a"]));
        let secret = format!("{:?}", RedisConfig::single("redis://u:hidden@h").password("hidden"));
        assert!(!secret.contains("hidden"));
    }
}
