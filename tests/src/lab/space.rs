//! Network namespaces: two hosts with a router between them, made by the test and gone with it.
//!
//! ```text
//! left 10.77.1.2 -- 10.77.1.1 router 10.77.2.1, 10.77.2.3 -- 10.77.2.2 right
//! ```
//!
//! A namespace lives as long as a process holds it, and that one as long as its standard input is open:
//! nothing is left behind, however a test ends. Root makes them directly; others inside of a user
//! namespace of their own, where the system lets them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::say;
use crate::servers::packages::{self, Program};

/// With this variable set to `required`, a test that cannot run fails.
const WANTED: &str = "NET_NAMESPACES";
/// What makes them, and what the router is told with.
const PROGRAMS: [Program; 6] = [
    Program { name: "unshare", package: "util-linux" },
    Program { name: "nsenter", package: "util-linux" },
    Program { name: "ip", package: "iproute2" },
    Program { name: "tc", package: "iproute2" },
    Program { name: "nft", package: "nftables" },
    Program { name: "conntrack", package: "conntrack" },
];

/// What a router can do to packets, and what shows that its kernel can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Drops what a rule names.
    Cut,
    /// Translates addresses, and forgets.
    Nat,
    /// Clears ECN marks.
    Bleach,
    /// Sets congestion marks on some.
    Mark,
    /// Limits the rate, with a queue that overflows.
    Rate,
    /// Carries only smaller packets.
    Shrink,
}

/// All of them.
pub const FAULTS: [Fault; 6] =
    [Fault::Cut, Fault::Nat, Fault::Bleach, Fault::Mark, Fault::Rate, Fault::Shrink];

impl Fault {
    /// A command for the router that fails where the fault cannot be had.
    const fn probe(self) -> &'static str {
        match self {
            Self::Cut => "nft add rule inet lab forward iifname probe counter drop",
            Self::Nat => {
                "nft add rule ip nat post oifname probe udp sport 1-65535 masquerade to :40000-40999 random \
                 && conntrack -F"
            }
            Self::Bleach => "nft add rule inet lab forward iifname probe ip ecn set not-ect",
            Self::Mark => {
                "nft add rule inet lab forward iifname probe ip ecn ect0 numgen inc mod 50 0 ip ecn set ce"
            }
            Self::Rate => "tc qdisc add dev right root tbf rate 10mbit burst 16k limit 64k",
            Self::Shrink => "ip link set right mtu 1300",
        }
    }
}

/// How namespaces are made here.
#[derive(Clone, Copy, Debug)]
enum Means {
    /// As root.
    Directly,
    /// Inside of a user namespace.
    AsUser,
}

/// A namespace.
struct Space {
    holder: Child,
    /// What runs a program in it; the program comes after.
    enter: Vec<String>,
}

impl Drop for Space {
    fn drop(&mut self) {
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}

impl Space {
    /// A new one, beside `beside` (in the same user namespace).
    fn new(means: Means, beside: Option<&Self>) -> Result<Self, String> {
        let unshare: &[&str] = match (means, beside) {
            (Means::AsUser, None) => &["unshare", "--user", "--map-root-user", "--net"],
            _ => &["unshare", "--net"],
        };
        let mut words: Vec<String> = match (means, beside) {
            (Means::AsUser, Some(beside)) => beside.enter.clone(),
            _ => Vec::new(),
        };
        words.extend(unshare.iter().copied().map(String::from));
        words.extend(["sh", "-c", "echo held && exec cat"].map(String::from));
        let mut holder = command(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", words[0]))?;
        let mut line = String::new();
        _ = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        if line.trim() != "held" {
            let told = holder.wait_with_output().map_err(|e| e.to_string())?;
            return Err(format!("unshare: {}", String::from_utf8_lossy(&told.stderr).trim()));
        }
        let pid = holder.id().to_string();
        let mut enter = vec!["nsenter", "--target", &pid, "--net"];
        if matches!(means, Means::AsUser) {
            enter.extend(["--user", "--preserve-credentials"]);
        }
        let enter = enter.into_iter().map(String::from).collect();
        Ok(Self { holder, enter })
    }

    /// Runs commands of a shell in it.
    fn run(&self, commands: &str) -> Result<String, String> {
        let mut words = self.enter.clone();
        words.extend(["sh", "-ec", commands].map(String::from));
        let done = command(&words).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        Err(format!("`{commands}`: {}", String::from_utf8_lossy(&done.stderr).trim()))
    }
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    let path = std::env::var("PATH").unwrap_or_default();
    // The path of a plain user often lacks the second half.
    command.args(&words[1..]).env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"));
    command
}

/// Finds out once how namespaces can be made.
///
/// # Panics
/// If a package is missing that root cannot install.
fn means() -> Result<Means, String> {
    static FOUND: OnceLock<Result<Means, String>> = OnceLock::new();
    let find = || {
        for program in &PROGRAMS {
            if let Err(why) = packages::look_for(program) {
                assert!(!packages::is_root(), "{why}");
                return Err(why);
            }
        }
        let directly = Space::new(Means::Directly, None);
        let Err(why) = directly else { return Ok(Means::Directly) };
        let inside = Space::new(Means::AsUser, None).and_then(|space| space.run("ip link set lo up"));
        inside.map(|_| Means::AsUser).map_err(|other| format!("{why}; as a plain user: {other}"))
    };
    FOUND.get_or_init(find).clone()
}

/// Two hosts and a router.
pub struct World {
    router: Space,
    left: Space,
    right: Space,
}

/// An address of the left host, and of the right one, with a port that the system chooses.
pub const LEFT: &str = "10.77.1.2:0";
/// See [`LEFT`].
pub const RIGHT: &str = "10.77.2.2:0";
/// A second address of the router on the right side.
pub const OTHER: &str = "10.77.2.3";

impl World {
    /// Makes it, if namespaces and all `faults` are to be had here; else says what is missing.
    ///
    /// # Panics
    /// If it is not to be had and `NET_NAMESPACES` is `required`. Faults that the kernel does not have
    /// are named and never fail a test.
    pub fn open(test: &str, faults: &[Fault]) -> Option<Self> {
        let means = match means() {
            Ok(means) => means,
            Err(why) => {
                let wanted = std::env::var(WANTED).is_ok_and(|value| value == "required");
                assert!(!wanted, "{test}: namespaces are required, and cannot be had: {why}");
                say(&format!("NOT RUN: {test}: no network namespaces: {why}; see docs/FAULTS.md"));
                return None;
            }
        };
        let made = || Self::new(means).unwrap_or_else(|why| panic!("{test}: {why}"));
        for fault in faults {
            // In a world of its own: the probe leaves traces.
            if let Err(why) = made().router.run(fault.probe()) {
                say(&format!("NOT RUN: {test}: this kernel has no {fault:?}: {why}"));
                return None;
            }
        }
        Some(made())
    }

    fn new(means: Means) -> Result<Self, String> {
        let router = Space::new(means, None)?;
        let left = Space::new(means, Some(&router))?;
        let right = Space::new(means, Some(&router))?;
        for (host, name, number) in [(&left, "left", 1), (&right, "right", 2)] {
            let pid = host.holder.id();
            router.run(&format!(
                "ip link set lo up
                 ip link add {name} type veth peer name wire netns {pid}
                 ip addr add 10.77.{number}.1/24 dev {name}
                 ip link set {name} up"
            ))?;
            host.run(&format!(
                "ip link set lo up
                 ip addr add 10.77.{number}.2/24 dev wire
                 ip link set wire up
                 ip route add default via 10.77.{number}.1"
            ))?;
        }
        router.run(&format!(
            "ip addr add {OTHER}/24 dev right
             echo 1 > /proc/sys/net/ipv4/ip_forward
             nft add table inet lab
             nft 'add chain inet lab forward {{ type filter hook forward priority 0; }}'
             nft 'add chain inet lab output {{ type filter hook output priority 0; }}'
             nft add table ip nat
             nft 'add chain ip nat post {{ type nat hook postrouting priority 100; }}'"
        ))?;
        Ok(Self { router, left, right })
    }

    /// What runs a program on the left host.
    pub fn on_left(&self) -> Vec<&str> {
        self.left.enter.iter().map(String::as_str).collect()
    }

    /// What runs a program on the right host.
    pub fn on_right(&self) -> Vec<&str> {
        self.right.enter.iter().map(String::as_str).collect()
    }

    /// Runs commands of a shell on the router.
    ///
    /// # Panics
    /// If one fails.
    pub fn router(&self, commands: &str) -> String {
        self.router.run(commands).unwrap_or_else(|why| panic!("the router: {why}"))
    }

    /// Runs commands of a shell on the left host.
    ///
    /// # Panics
    /// If one fails.
    pub fn left(&self, commands: &str) -> String {
        self.left.run(commands).unwrap_or_else(|why| panic!("the left host: {why}"))
    }

    /// Adds a rule to the router's `chain`; what it matches is counted under `name`.
    pub fn rule(&self, name: &str, chain: &str, matching: &str, verdict: &str) {
        self.router(&format!(
            "nft add counter inet lab {name}
             nft 'add rule inet lab {chain} {matching} counter name {name} {verdict}'"
        ));
    }

    /// Takes the rules of a chain away; their counters stay.
    pub fn heal(&self, chain: &str) {
        self.router(&format!("nft flush chain inet lab {chain}"));
    }

    /// Packets that a rule matched.
    ///
    /// # Panics
    /// If there is no such rule.
    pub fn counted(&self, name: &str) -> u64 {
        let told = self.router(&format!("nft list counter inet lab {name}"));
        let mut words = told.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no count in `{told}`"))
    }
}
