//! Ports that belong to one test at a time, across all test processes of the machine.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// Below what systems hand out to connections by themselves, so that a port stays free while its
/// server is down.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port on 127.0.0.1 that nobody else claims for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    port: u16,
    /// Locked; the system unlocks it when the process ends, however it does.
    _lock: File,
}

impl Claim {
    /// Any port that is free now.
    ///
    /// # Panics
    /// If none is.
    pub fn any() -> Self {
        let start = RandomState::new().hash_one(std::process::id()) as u16 % COUNT;
        let port = (0..COUNT).map(|n| FIRST + (start + n) % COUNT);
        port.filter_map(Self::of).next().expect("a free port")
    }

    fn of(port: u16) -> Option<Self> {
        let dir = dir();
        fs::create_dir_all(&dir).ok()?;
        let lock = File::create(dir.join(port.to_string())).ok()?;
        lock.try_lock().ok()?;
        // Somebody who knows nothing of claims may listen there.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(Self { port, _lock: lock })
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

fn dir() -> PathBuf {
    std::env::temp_dir().join("net-test-ports")
}

#[test]
fn a_port_has_one_claim() {
    let claims: Vec<_> = (0..20).map(|_| Claim::any()).collect();
    let ports: std::collections::BTreeSet<_> = claims.iter().map(Claim::port).collect();
    assert_eq!(ports.len(), 20);
    let port = claims[0].port();
    assert!(Claim::of(port).is_none());
    drop(claims);
    // A child that another test is just starting holds its parent's files for a moment, and another test
    // may claim it next.
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while Claim::of(port).is_none() {
        assert!(std::time::Instant::now() < patience, "{port} is claimed for ever");
        std::thread::yield_now();
    }
}
