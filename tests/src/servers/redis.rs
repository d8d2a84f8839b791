//! Redis: a server, a Sentinel, a member of a Cluster.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::packages::{self, Program};
use super::{Place, Recipe, Server};

/// A server of Redis.
#[derive(Clone, Debug, Default)]
pub struct Redis {
    options: Vec<(String, String)>,
    files: Vec<(String, String)>,
    ports: usize,
    sentinel: bool,
    tls: bool,
    password: Option<String>,
}

impl Redis {
    /// Keeps its data in an append-only file that is synced before each answer: what it acknowledged
    /// survives a kill.
    pub fn durable() -> Self {
        Self::volatile().option("appendonly", "yes").option("appendfsync", "always")
    }

    /// Keeps its data in memory.
    pub fn volatile() -> Self {
        Self { ports: 1, ..Self::default() }.option("save", "")
    }

    /// A member of a Cluster that does not exist yet; see [`cluster`].
    pub fn member() -> Self {
        let mut redis =
            Self::volatile().option("cluster-enabled", "yes").option("cluster-node-timeout", "2000");
        redis.ports = 2;
        redis
    }

    /// A Sentinel that watches `master` under the name `net` and needs `quorum` voices.
    pub fn sentinel(master: SocketAddr, quorum: u32) -> Self {
        let text = format!(
            "sentinel monitor net {} {} {quorum}\n\
             sentinel down-after-milliseconds net 1000\n\
             sentinel failover-timeout net 3000\n",
            master.ip(),
            master.port()
        );
        Self { sentinel: true, ports: 1, ..Self::default() }.file("sentinel.conf", &text)
    }

    /// Sets an option, as in `redis.conf`.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts a file into its folder before the first start. In options, `{dir}` stands for the folder.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Follows another server.
    pub fn replica_of(self, master: SocketAddr) -> Self {
        self.option("replicaof", &format!("{} {}", master.ip(), master.port()))
    }

    /// Answers only after this password of the default user.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.option("requirepass", password)
    }

    /// Listens with TLS on a second port; the files have to be given, too.
    pub fn tls(mut self, certificate: &str, key: &str, ca: &str) -> Self {
        (self.tls, self.ports) = (true, 2);
        self.option("tls-cert-file", &format!("{{dir}}/{certificate}"))
            .option("tls-key-file", &format!("{{dir}}/{key}"))
            .option("tls-ca-cert-file", &format!("{{dir}}/{ca}"))
            .option("tls-auth-clients", "no")
    }
}

impl Recipe for Redis {
    fn program(&self) -> Program {
        if self.sentinel { packages::SENTINEL } else { packages::REDIS }
    }

    fn ports(&self) -> usize {
        self.ports
    }

    fn prepare(&self, place: &Place) {
        self.files.iter().for_each(|(name, text)| place.write(name, text));
    }

    fn arguments(&self, place: &Place) -> Vec<String> {
        let mut words = Vec::new();
        if self.sentinel {
            words.push(place.path("sentinel.conf"));
        }
        let mut option = |name: &str, value: &str| {
            words.push(format!("--{name}"));
            words.push(value.to_owned());
        };
        option("port", &place.ports[0].to_string());
        option("bind", "127.0.0.1");
        option("dir", &place.path(""));
        if self.tls {
            option("tls-port", &place.ports[1].to_string());
        } else if let Some(bus) = place.ports.get(1) {
            option("cluster-port", &bus.to_string());
        }
        let dir = place.path("");
        for (name, value) in &self.options {
            option(name, &value.replace("{dir}", dir.trim_end_matches('/')));
        }
        words
    }

    fn ready(&self, place: &Place) -> bool {
        let Ok(mut client) = Client::connect(place.addr(0)) else { return false };
        // It must not ask for a password before it has loaded its data.
        let auth = self.password.as_ref().map(|password| client.call(&["AUTH", password]));
        let answer = client.call(&["PING"]);
        matches!(auth, None | Some(Ok(Answer::Text(_)))) && matches!(answer, Ok(Answer::Text(_)))
    }
}

impl Server<Redis> {
    /// Runs one command on a fresh connection.
    ///
    /// # Panics
    /// If the server does not answer; errors that it answers are [`Answer::Error`].
    pub fn call(&self, words: &[&str]) -> Answer {
        let mut client = Client::connect(self.addr()).expect("a connection to the server");
        if let Some(password) = &self.recipe().password {
            client.call(&["AUTH", password]).expect("an answer");
        }
        client.call(words).unwrap_or_else(|error| panic!("{words:?}: {error}\n{}", self.log()))
    }

    /// A field of `INFO`, as text.
    pub fn info(&self, name: &str) -> Option<String> {
        let Answer::Text(text) = self.call(&["INFO"]) else { return None };
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    }
}

/// Three masters that share the slots.
///
/// # Panics
/// If they do not come to an agreement.
pub fn cluster() -> [Server<Redis>; 3] {
    let nodes = [0, 1, 2].map(|_| Server::start(Redis::member()));
    for (n, node) in nodes.iter().enumerate() {
        let (first, last) = (n * 16_384 / 3, (n + 1) * 16_384 / 3 - 1);
        let ok = node.call(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        assert_eq!(ok, Answer::Text("OK".into()));
        let epoch = (n + 1).to_string();
        node.call(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
    }
    for node in &nodes[1..] {
        let (port, bus) = (nodes[0].port().to_string(), nodes[0].place().ports[1].to_string());
        node.call(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    crate::lab::until("the cluster agrees", || {
        let agreed = nodes.iter().all(|node| match node.call(&["CLUSTER", "INFO"]) {
            Answer::Text(text) => text.contains("cluster_state:ok") && text.contains("cluster_known_nodes:3"),
            _ => false,
        });
        agreed.then_some(())
    });
    nodes
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Nothing.
    Nil,
    /// Several.
    List(Vec<Self>),
    /// An error.
    Error(String),
}

/// A connection for tests: plain, blocking, independent of the adapter.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let wait = Duration::from_secs(5);
        let stream = TcpStream::connect_timeout(&to, wait)?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// One command.
    pub fn call(&mut self, words: &[&str]) -> io::Result<Answer> {
        let mut bytes = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| bytes.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        self.stream.get_mut().write_all(bytes.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an answer of Redis");
        let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(bad)?;
        let number = || rest.parse::<i64>().map_err(|_| bad());
        Ok(match kind {
            "+" => Answer::Text(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Number(number()?),
            "$" | "*" if number()? < 0 => Answer::Nil,
            "$" => {
                let mut body = vec![0; number()? as usize + 2];
                self.stream.read_exact(&mut body)?;
                body.truncate(body.len() - 2);
                Answer::Text(String::from_utf8_lossy(&body).into_owned())
            }
            "*" => Answer::List((0..number()?).map(|_| self.answer()).collect::<io::Result<_>>()?),
            _ => return Err(bad()),
        })
    }
}
