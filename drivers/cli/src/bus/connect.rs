//! From the arguments to a bus.

use std::path::Path;
use std::time::Duration;

use net_sdk::net::NetBuilder;
use net_sdk::{Invite, Mesh, Net, SdkError};

use crate::args::Where;
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::transfer::read_invite;

/// Holds an address or an invite, out of sight of other users of the machine.
const ENV: &str = "NET_BUS";

/// A bus, and the node that it uses.
pub struct Open {
    pub bus: Net,
    /// For people and figures.
    pub transport: &'static str,
    mesh: Option<Mesh>,
}

/// What the user of the engine asks of it beyond the address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    pub replicas: Option<u8>,
    pub retain: Option<u64>,
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only Redis has pipelines"))]
    pub batch: Option<u32>,
    /// A writer that keeps what it sends over restarts has to stay the same node.
    pub state: Option<&'a Path>,
}

/// Where events are.
enum Transport {
    Memory,
    #[cfg(feature = "redis")]
    Redis(net_sdk::redis::RedisConfig),
    #[cfg(feature = "jetstream")]
    JetStream(net_sdk::nats::JetStream),
    Mesh(Vec<Invite>),
}

impl Where {
    /// Whether events stay in this process.
    pub fn is_memory(&self) -> bool {
        self.memory || (self.is_open() && std::env::var(ENV).is_ok_and(|value| value == "memory"))
    }

    /// Whether events go to a node, or stay here: neither keeps them as a stream is told to.
    pub fn mesh_or_memory(&self) -> Result<bool> {
        let settled = self.settled()?;
        Ok(settled.memory || !settled.mesh.is_empty())
    }

    /// What the streams are called.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("net")
    }

    /// Whether the command line names none.
    pub const fn is_open(&self) -> bool {
        self.redis.is_empty() && self.jetstream.is_empty() && self.mesh.is_empty() && !self.memory
    }

    /// Whether the standard input holds the invite.
    pub fn reads_input(&self) -> bool {
        self.mesh.iter().any(|invite| invite == "-")
    }

    /// With what the environment says.
    fn settled(&self) -> Result<Self> {
        if !self.is_open() {
            return Ok(self.clone());
        }
        let nowhere = || {
            Failure::usage("where are the events?")
                .remedy("name one of --redis URL, --jetstream URL, --mesh INVITE or --memory, or set NET_BUS")
        };
        let value = std::env::var(ENV).map_err(|_| nowhere())?;
        let mut settled = self.clone();
        match value.split(':').next() {
            Some("redis" | "rediss") => settled.redis = vec![value],
            Some("nats" | "tls") => settled.jetstream = vec![value],
            Some("memory") => settled.memory = true,
            _ if value.starts_with("ni1") => settled.mesh = vec![value],
            _ => {
                return Err(Failure::usage(
                    "NET_BUS is none of redis://.., nats://.., an invite (ni1..) and memory",
                ));
            }
        }
        Ok(settled)
    }

    fn transport(&self, wishes: Wishes<'_>) -> Result<Transport> {
        if self.memory {
            return Ok(Transport::Memory);
        }
        if !self.redis.is_empty() {
            return self.redis(wishes);
        }
        if !self.jetstream.is_empty() {
            return self.jetstream(wishes);
        }
        if wishes.replicas.is_some() || wishes.retain.is_some() || self.ca.is_some() {
            return Err(Failure::usage("--replicas, --retain and --ca are for --redis and --jetstream")
                .remedy("a node says with `net bus keep --events N` how much it keeps"));
        }
        let invites: Vec<Invite> =
            self.mesh.iter().map(|invite| read_invite(invite)).collect::<Result<_>>()?;
        if invites.iter().any(|invite| invite.mesh != invites[0].mesh) {
            return Err(Failure::usage("the invites are of different meshes"));
        }
        Ok(Transport::Mesh(invites))
    }

    #[cfg(feature = "redis")]
    fn redis(&self, wishes: Wishes<'_>) -> Result<Transport> {
        use net_sdk::redis::RedisConfig;
        let servers = self.redis.clone();
        let mut config = match (&self.sentinel, &servers[..]) {
            (Some(master), _) => RedisConfig::sentinel(master, servers),
            (None, _) if self.cluster => RedisConfig::cluster(servers),
            (None, [server]) => RedisConfig::single(server),
            (None, _) => {
                return Err(Failure::usage("several servers of Redis need --cluster or --sentinel MASTER"));
            }
        };
        config = config.prefix(self.name());
        if let Some(file) = &self.ca {
            config = config.tls_roots(read(file)?);
        }
        if let Some(replicas) = wishes.replicas {
            config = config.replicas(replicas.into());
        }
        if let Some(events) = wishes.retain {
            config = config.max_len(events);
        }
        if let Some(events) = wishes.batch {
            config = config.pipeline(events);
        }
        Ok(Transport::Redis(config))
    }

    #[cfg(not(feature = "redis"))]
    fn redis(&self, _: Wishes<'_>) -> Result<Transport> {
        Err(Failure::usage("this program was built without the feature `redis`"))
    }

    #[cfg(feature = "jetstream")]
    fn jetstream(&self, wishes: Wishes<'_>) -> Result<Transport> {
        let mut servers = self.jetstream.iter();
        let mut options = net_sdk::nats::JetStream::new(servers.next().map_or("", String::as_str));
        options = servers.fold(options, |options, server| options.server(server)).prefix(self.name());
        if let Some(file) = &self.ca {
            options = options.root_certificates(file);
        }
        if let Some(replicas) = wishes.replicas {
            options = options.replicas(replicas);
        }
        if let Some(events) = wishes.retain {
            options = options.max_messages(events);
        }
        Ok(Transport::JetStream(options))
    }

    #[cfg(not(feature = "jetstream"))]
    fn jetstream(&self, _: Wishes<'_>) -> Result<Transport> {
        Err(Failure::usage("this program was built without the feature `jetstream`"))
    }

    /// The longest without progress.
    pub const fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

#[cfg(feature = "redis")]
fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| Failure::usage(format_args!("{}: {e}", file.display())))
}

/// Starts the bus that `builder` describes, where the arguments say.
pub async fn open(to: &Where, wishes: Wishes<'_>, builder: NetBuilder, config: &Config) -> Result<Open> {
    let to = to.settled()?;
    let (builder, mesh, transport) = match to.transport(wishes)? {
        Transport::Memory => (builder.memory(), None, "memory"),
        #[cfg(feature = "redis")]
        Transport::Redis(options) => (builder.redis(options), None, "redis"),
        #[cfg(feature = "jetstream")]
        Transport::JetStream(options) => (builder.jetstream(options), None, "jetstream"),
        Transport::Mesh(invites) => {
            let Some(first) = invites.first() else { return Err(Failure::usage("no invite")) };
            let mut node = Mesh::builder().mesh(first.mesh.clone()).accept(false).event_bus();
            if let Some(dir) = wishes.state {
                node = node.dir(dir);
            }
            let mesh = config.apply(node).start().await?;
            let hosts = invites.into_iter().map(|invite| invite.ticket);
            (builder.mesh(&mesh, to.name(), hosts), Some(mesh), "mesh")
        }
    };
    match builder.build().await {
        Ok(bus) => Ok(Open { bus, transport, mesh }),
        Err(SdkError::Config(what)) if transport == "memory" => Err(Failure::usage(what)
            .remedy("memory ends with its process: only `net bus emit` and `net bus bench` can use it")),
        Err(error) => Err(error.into()),
    }
}

impl Open {
    /// Ends the node; the bus was shut down.
    pub async fn end(self) {
        if let Some(mesh) = self.mesh {
            mesh.shutdown_within(Duration::from_secs(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_told() {
        let told = |to: Where| to.transport(Wishes::default()).err().map(|failure| failure.what);
        let two = vec!["a:1".to_string(), "b:2".to_string()];
        assert!(
            told(Where { redis: two.clone(), ..Where::default() }).is_some_and(|t| t.contains("--cluster"))
        );
        assert!(told(Where { redis: two, cluster: true, ..Where::default() }).is_none());
        let ca = Some("ca.pem".into());
        assert!(
            told(Where { mesh: vec!["x".into()], ca, ..Where::default() })
                .is_some_and(|t| t.contains("--ca"))
        );
        assert!(told(Where { mesh: vec!["ni1cut".into()], ..Where::default() }).is_some());
    }
}
