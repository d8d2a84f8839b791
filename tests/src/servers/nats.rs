//! NATS with JetStream: a server, and a cluster of three.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::packages::{self, Program};
use super::ports::Claim;
use super::{Place, Recipe, Server};

/// A server of NATS. Its first port is for clients, the second for its monitor.
#[derive(Clone, Debug)]
pub struct Nats {
    lines: Vec<String>,
    store: bool,
    member: Option<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    route: u16,
    routes: Vec<u16>,
}

impl Default for Nats {
    fn default() -> Self {
        Self::new()
    }
}

impl Nats {
    /// With JetStream, which keeps its streams in the folder of the server.
    pub const fn new() -> Self {
        Self { lines: Vec::new(), store: true, member: None }
    }

    /// Without JetStream.
    pub fn plain(mut self) -> Self {
        self.store = false;
        self
    }

    /// Another line of the configuration. `{dir}` stands for the folder of the server.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Takes clients with TLS only, with the certificates for tests; `verify` asks them for theirs.
    pub fn tls(self, verify: bool) -> Self {
        let dir = crate::root().join("tests/data/tls");
        let file = |name: &str| dir.join(name).display().to_string();
        self.line(&format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: {verify} }}",
            file("server.pem"),
            file("server.key"),
            file("ca.pem")
        ))
    }
}

impl Recipe for Nats {
    fn program(&self) -> Program {
        packages::NATS
    }

    fn ports(&self) -> usize {
        2
    }

    fn prepare(&self, place: &Place) {
        let mut text = format!(
            "listen: \"{}\"\nhttp: \"{}\"\nserver_name: {}\n",
            place.addr(0),
            place.addr(1),
            self.member.as_ref().map_or("net", |member| &member.name),
        );
        if self.store {
            _ = writeln!(text, "jetstream {{ store_dir: {:?} }}", place.path("jetstream"));
        }
        if let Some(member) = &self.member {
            let routes: Vec<_> =
                member.routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
            _ = writeln!(
                text,
                "cluster {{ name: net, listen: \"127.0.0.1:{}\", routes: {routes:?} }}",
                member.route
            );
        }
        for line in &self.lines {
            _ = writeln!(text, "{}", line.replace("{dir}", &place.path("")));
        }
        place.write("nats.conf", &text);
    }

    fn arguments(&self, place: &Place) -> Vec<String> {
        vec!["-c".into(), place.path("nats.conf")]
    }

    fn ready(&self, place: &Place) -> bool {
        match &self.member {
            // Before the others are there it is not healthy.
            Some(_) => TcpStream::connect(place.addr(0)).is_ok(),
            None => is_healthy(place.addr(1)),
        }
    }
}

impl Server<Nats> {
    /// What a client is told.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr())
    }

    /// Whether its streams are as they should be, and those of its cluster.
    pub fn is_healthy(&self) -> bool {
        is_healthy(self.place().addr(1))
    }
}

fn is_healthy(monitor: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(monitor)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
}

/// Three servers that are one cluster. Any may be killed and restarted.
pub struct Cluster {
    /// The servers.
    pub servers: Vec<Server<Nats>>,
    _routes: Vec<Claim>,
}

impl Cluster {
    /// Starts three and waits until they have a leader.
    pub fn start() -> Self {
        let claims: Vec<_> = (0..3).map(|_| Claim::any()).collect();
        let routes: Vec<_> = claims.iter().map(Claim::port).collect();
        let member = |n: usize| {
            let name = format!("net-{n}");
            Nats { member: Some(Member { name, route: routes[n], routes: routes.clone() }), ..Nats::new() }
        };
        let servers = (0..3).map(|n| Server::start(member(n))).collect();
        let cluster = Self { servers, _routes: claims };
        cluster.wait();
        cluster
    }

    /// Waits until every server that runs is healthy: everything that it holds has caught up.
    pub fn wait(&self) {
        crate::lab::until("the cluster is healthy", || {
            self.servers.iter().filter(|server| server.is_running()).all(Server::is_healthy).then_some(())
        });
    }

    /// What a client is told.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }
}
