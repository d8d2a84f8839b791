//! The configuration file: what is not said on the command line or in the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use net_proto::congestion::Algorithm;
use net_sdk::MeshBuilder;
use serde::Deserialize;

use crate::args::Watch;
use crate::failure::{Code, Failure, Result};

/// The content of the file. Unknown keys are refused: a typing error must not pass for a setting.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// State directory.
    pub dir: Option<PathBuf>,
    /// What `net recv` binds.
    pub bind: Vec<SocketAddr>,
    /// What `net recv` says in its invite.
    pub advertise: Vec<SocketAddr>,
    /// How long `net send` goes on without a reply, in seconds.
    pub patience: Option<u64>,
    /// How nodes behave.
    pub transport: Transport,
    /// What nodes write about themselves: from the command line or the environment only.
    #[serde(skip)]
    pub watch: Watch,
}

/// The section `[transport]`: fields of the node's configuration, under their names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transport {
    max_datagram: Option<u16>,
    ecn: Option<bool>,
    gso: Option<bool>,
    keep_alive_ms: Option<u64>,
    dead_after_ms: Option<u64>,
    give_up_after_ms: Option<u64>,
    dial_timeout_ms: Option<u64>,
    rekey_after_s: Option<u64>,
    stream_window: Option<u64>,
    window: Option<u64>,
    send_buffer: Option<u64>,
    window_pool: Option<u64>,
    max_peers: Option<usize>,
    congestion: Option<Congestion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Congestion {
    Cubic,
    Reno,
}

impl Config {
    /// Reads the file that was named, else the one in the platform's place if there is one.
    pub fn load(named: Option<&Path>) -> Result<Self> {
        let path = match (named, usual()) {
            (Some(path), _) => path.to_path_buf(),
            (None, Some(path)) if path.exists() => path,
            _ => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Failure::new(Code::Usage, format_args!("{}: {e}", path.display())))?;
        text.parse().map_err(|failure: Failure| Failure {
            what: format!("{}: {}", path.display(), failure.what),
            ..failure
        })
    }

    /// The settings of the file, for a node that is about to start.
    pub fn apply(&self, builder: MeshBuilder) -> MeshBuilder {
        let mut builder = self.watch.apply(builder, "");
        let t = self.transport.clone();
        if let Some(bytes) = t.max_datagram {
            builder = builder.max_datagram(bytes);
        }
        if let Some(on) = t.ecn {
            builder = builder.ecn(on);
        }
        if let Some(on) = t.gso {
            builder = builder.gso(on);
        }
        if let Some(bytes) = t.window {
            builder = builder.window(bytes);
        }
        if let Some(bytes) = t.stream_window {
            builder = builder.stream_window(bytes);
        }
        if let Some(bytes) = t.send_buffer {
            builder = builder.send_buffer(bytes);
        }
        builder.config(move |c| {
            let set = |field: &mut Duration, ms: Option<u64>| {
                if let Some(ms) = ms {
                    *field = Duration::from_millis(ms);
                }
            };
            set(&mut c.session.keep_alive, t.keep_alive_ms);
            set(&mut c.session.dead_after, t.dead_after_ms);
            set(&mut c.session.give_up_after, t.give_up_after_ms);
            set(&mut c.dial_timeout, t.dial_timeout_ms);
            if let Some(seconds) = t.rekey_after_s {
                c.session.keys.rekey_after = Duration::from_secs(seconds);
            }
            c.window_pool = t.window_pool.unwrap_or(c.window_pool);
            c.max_peers = t.max_peers.unwrap_or(c.max_peers);
            match t.congestion {
                Some(Congestion::Cubic) => c.session.congestion = Algorithm::Cubic,
                Some(Congestion::Reno) => c.session.congestion = Algorithm::Reno,
                None => {}
            }
        })
    }
}

impl std::str::FromStr for Config {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Failure::usage(e.to_string().trim_end()))
    }
}

/// `net/config.toml` where the platform keeps configuration.
fn usual() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let place = if cfg!(windows) {
        from("APPDATA")
    } else if cfg!(target_os = "macos") {
        from("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        from("XDG_CONFIG_HOME").or_else(|| from("HOME").map(|home| home.join(".config")))
    };
    place.map(|place| place.join("net/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = r#"
            dir = "/var/lib/net"
            bind = ["0.0.0.0:7411"]
            advertise = ["203.0.113.7:7411"]
            patience = 5
            [transport]
            max_datagram = 1400
            ecn = false
            gso = false
            keep_alive_ms = 1000
            dead_after_ms = 3000
            give_up_after_ms = 9000
            dial_timeout_ms = 4000
            rekey_after_s = 60
            stream_window = 65536
            window = 131072
            send_buffer = 262144
            window_pool = 1048576
            max_peers = 7
            congestion = "reno"
        "#;
        let config: Config = text.parse().unwrap();
        assert_eq!(config.bind, ["0.0.0.0:7411".parse().unwrap()]);
        assert_eq!(config.transport.congestion, Some(Congestion::Reno));
        let page = include_str!("../../../docs/CLI.md");
        for line in text.lines().filter_map(|line| line.split_once(" = ")) {
            assert!(page.contains(&format!("{} = ", line.0.trim())), "docs/CLI.md lacks {}", line.0.trim());
        }
    }

    #[test]
    fn a_typing_error_is_told_with_its_line() {
        let failure = "patience = 5\nbnid = []".parse::<Config>().unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.what.contains("bnid") && failure.what.contains("line 2"), "{}", failure.what);
        let failure = "[transport]\nmax_peers = \"many\"".parse::<Config>().unwrap_err();
        assert!(failure.what.contains("max_peers"), "{}", failure.what);
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        assert_eq!(Config::load(Some(Path::new("/nowhere/net.toml"))).unwrap_err().code, Code::Usage);
    }

    #[tokio::test]
    async fn poison_is_refused_at_the_start() {
        let config: Config = "[transport]\nkeep_alive_ms = 5000".parse().unwrap();
        let error = config.apply(net_sdk::Mesh::builder().bind("127.0.0.1:0")).start().await.unwrap_err();
        assert!(error.to_string().contains("dead_after"), "{error}");
        let config: Config = "[transport]\nmax_peers = 0".parse().unwrap();
        let error = config.apply(net_sdk::Mesh::builder().bind("127.0.0.1:0")).start().await.unwrap_err();
        assert!(error.to_string().contains("max_peers is 0"), "{error}");
    }
}
