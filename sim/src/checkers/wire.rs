//! What can be told from datagrams alone.

use net_proto::node::{Command, Event};
use net_proto::path::Path;
use net_proto::time::Duration;

use super::{Broken, Checker, Seen, Wants};
use crate::guard::Guard;

/// No nonce twice under one key; no more bytes to an address that proved nothing than it sent.
#[derive(Debug, Default)]
pub struct Wire {
    nodes: Vec<Guard>,
    /// Of each, whether it is settled. Apart from the rest, since it is asked about the sender of what
    /// arrives, who is in no cache.
    settled: Vec<bool>,
}

impl Wire {
    fn of(&mut self, node: u32) -> &mut Guard {
        let index = node as usize;
        if self.nodes.len() <= index {
            self.nodes.resize_with(index + 1, Guard::default);
            self.settled.resize(index + 1, false);
        }
        &mut self.nodes[index]
    }

    fn note(&mut self, node: u32) {
        self.settled[node as usize] = self.nodes[node as usize].is_settled();
    }

    fn trust(&mut self, node: u32, path: &Path) {
        if let Some(addr) = path.udp_addr() {
            self.of(node).trust(addr);
            self.note(node);
        }
    }
}

impl Checker for Wire {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn wants(&self) -> Wants {
        Wants::LIVES | Wants::DATAGRAMS | Wants::API
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Started { node, .. } => {
                *self.of(*node) = Guard::default();
                self.note(*node);
            }
            Seen::Arrived { node, from, src, dst, data, .. } => {
                // A copy by an attacker proves nothing about the address that it was sent to.
                if let Some(from) = from
                    && !self.settled.get(*from as usize).is_some_and(|settled| *settled)
                {
                    self.of(*from).reached(*dst, *node);
                    self.note(*from);
                }
                self.of(*node).got(*src, data.len(), *from);
                self.note(*node);
            }
            Seen::Sent { node, dst, data, .. } => {
                let outcome = self.of(*node).sent(*dst, data);
                self.note(*node);
                return outcome.map_err(|what| Broken::at(*node, what));
            }
            Seen::Command { node, command: Command::Dial { paths, .. } } => {
                paths.iter().for_each(|path| self.trust(*node, path));
            }
            Seen::Event { node, event: Event::Connected { path, .. } | Event::PathChanged { path, .. } } => {
                self.trust(*node, path);
            }
            _ => {}
        }
        Ok(())
    }
}

/// No datagram contains a marker that the workload puts into its messages.
#[derive(Clone, Debug)]
pub struct Plaintext {
    marker: Vec<u8>,
}

impl Plaintext {
    /// Looks for `marker`; an empty one is never found.
    pub fn new(marker: &[u8]) -> Self {
        Self { marker: marker.to_vec() }
    }
}

impl Checker for Plaintext {
    fn name(&self) -> &'static str {
        "plaintext never on the wire"
    }

    fn wants(&self) -> Wants {
        Wants::DATAGRAMS
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Sent { node, data, .. } if contains(data, &self.marker) => {
                Err(Broken::at(*node, "plaintext on the wire"))
            }
            _ => Ok(()),
        }
    }
}

fn contains(data: &[u8], marker: &[u8]) -> bool {
    let Some(first) = marker.first() else { return false };
    let mut rest = data;
    while let Some(at) = rest.iter().position(|b| b == first) {
        if rest[at..].starts_with(marker) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_proto::path::Ecn;

    #[test]
    fn plaintext_is_found_wherever_it_stands() {
        let mut checker = Plaintext::new(b"marker");
        let addr = "10.0.0.1:1".parse().unwrap();
        let mut sent = |data: &[u8]| {
            let seen = Seen::Sent { node: 3, id: 1, src: addr, dst: addr, ecn: Ecn::NotEct, data };
            checker.see(Duration::ZERO, &seen)
        };
        assert_eq!(sent(b"ciphermarkeXtext"), Ok(()));
        assert_eq!(sent(b"mmarker").unwrap_err().node, Some(3));
        assert!(sent(b"marker").is_err());
        assert_eq!(Plaintext::new(b"").see(Duration::ZERO, &Seen::Stopped { node: 1 }), Ok(()));
    }
}
