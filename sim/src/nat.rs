//! Address translation. Mapping (which public address a flow gets) and filtering (who may send to it)
//! are modelled apart, as RFC 4787 describes them; "full cone" and "symmetric" are only two corners of
//! that square.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use net_proto::time::{Duration, nanos};

use crate::keyed::{Domain, below, draw};

/// What a rule looks at on the other side (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depends {
    /// Nothing.
    Endpoint,
    /// The address.
    Address,
    /// Address and port.
    AddressAndPort,
}

impl Depends {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Endpoint, Self::Address, Self::AddressAndPort];

    const fn key(self, to: SocketAddr) -> Option<(IpAddr, u16)> {
        match self {
            Self::Endpoint => None,
            Self::Address => Some((to.ip(), 0)),
            Self::AddressAndPort => Some((to.ip(), to.port())),
        }
    }
}

/// How an address translation behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// A flow to another endpoint gets another public address if this looks at what differs.
    pub mapping: Depends,
    /// Who may send to a public address: anybody, or who was sent to before.
    pub filtering: Depends,
    /// A mapping that is not used for so long is forgotten.
    pub expiry: Duration,
    /// Whether what arrives keeps a mapping alive too.
    pub inbound_refreshes: bool,
    /// Whether two nodes behind it reach each other by their public addresses.
    pub hairpin: bool,
}

impl Default for NatConfig {
    /// What most home routers do: one mapping for all, filtered by address and port; two minutes
    /// (the least that RFC 4787 section 4.3 allows), no hairpin.
    fn default() -> Self {
        Self {
            mapping: Depends::Endpoint,
            filtering: Depends::AddressAndPort,
            expiry: Duration::from_secs(120),
            inbound_refreshes: false,
            hairpin: false,
        }
    }
}

impl NatConfig {
    /// A pair of rules.
    pub fn new(mapping: Depends, filtering: Depends) -> Self {
        Self { mapping, filtering, ..Self::default() }
    }
}

type Inside = (SocketAddr, Option<(IpAddr, u16)>);

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    key: Inside,
    used: u64,
    /// Whom it sent to, and when last.
    contacts: BTreeMap<SocketAddr, u64>,
}

/// One address translation with one public address.
#[derive(Debug)]
pub struct Nat {
    config: NatConfig,
    public: IpAddr,
    seed: u64,
    by_inside: BTreeMap<Inside, u16>,
    by_port: BTreeMap<u16, Mapping>,
    ports: u64,
}

impl Nat {
    /// A translation to `public`; `seed` picks ports.
    pub const fn new(seed: u64, public: IpAddr, config: NatConfig) -> Self {
        Self { config, public, seed, by_inside: BTreeMap::new(), by_port: BTreeMap::new(), ports: 0 }
    }

    /// Its public address.
    pub const fn public_ip(&self) -> IpAddr {
        self.public
    }

    /// How many mappings it has, expired ones included.
    pub fn mappings(&self) -> usize {
        self.by_port.len()
    }

    fn alive(&self, mapping: &Mapping, now: u64) -> bool {
        now.saturating_sub(mapping.used) <= nanos(self.config.expiry)
    }

    fn forget(&mut self, port: u16) {
        if let Some(mapping) = self.by_port.remove(&port) {
            self.by_inside.remove(&mapping.key);
        }
    }

    /// A datagram leaves: the public address that it gets.
    pub fn outbound(&mut self, now: u64, inside: SocketAddr, to: SocketAddr) -> SocketAddr {
        let key = (inside, self.config.mapping.key(to));
        let known = self.by_inside.get(&key).copied();
        let port = match known {
            Some(port) if self.by_port.get(&port).is_some_and(|m| self.alive(m, now)) => port,
            _ => {
                if let Some(port) = known {
                    self.forget(port);
                }
                let port = self.fresh_port();
                self.by_inside.insert(key, port);
                self.by_port.insert(port, Mapping { inside, key, used: now, contacts: BTreeMap::new() });
                port
            }
        };
        if let Some(mapping) = self.by_port.get_mut(&port) {
            mapping.used = now;
            mapping.contacts.insert(to, now);
        }
        SocketAddr::new(self.public, port)
    }

    fn fresh_port(&mut self) -> u16 {
        loop {
            self.ports += 1;
            let port = 1_024 + below(draw(self.seed, Domain::Nat, 0, self.ports), 64_512) as u16;
            if !self.by_port.contains_key(&port) {
                return port;
            }
        }
    }

    /// Whom a datagram to a public address would be for, whoever sends it. `hairpin`: its sender is
    /// behind this translation too.
    pub fn leads_to(&self, now: u64, to: SocketAddr, hairpin: bool) -> Option<SocketAddr> {
        if hairpin && !self.config.hairpin {
            return None;
        }
        self.by_port.get(&to.port()).filter(|m| self.alive(m, now)).map(|m| m.inside)
    }

    /// A datagram arrives from `src`: whom it is for, if it may pass.
    pub fn inbound(
        &mut self,
        now: u64,
        src: SocketAddr,
        to: SocketAddr,
        hairpin: bool,
    ) -> Option<SocketAddr> {
        let inside = self.leads_to(now, to, hairpin)?;
        let (filtering, expiry) = (self.config.filtering, nanos(self.config.expiry));
        let mapping = self.by_port.get_mut(&to.port())?;
        let open = mapping.contacts.iter().any(|(contact, used)| {
            now.saturating_sub(*used) <= expiry && filtering.key(*contact) == filtering.key(src)
        });
        if filtering != Depends::Endpoint && !open {
            return None;
        }
        if self.config.inbound_refreshes {
            mapping.used = now;
        }
        Some(inside)
    }

    /// Forgets everything, as after a reboot: the next datagram gets another port.
    pub fn rebind(&mut self) {
        self.by_inside.clear();
        self.by_port.clear();
    }

    /// The public address that a node behind it used last.
    pub fn last_used(&self, inside: SocketAddr) -> Option<SocketAddr> {
        let of = self.by_port.iter().filter(|(_, m)| m.inside == inside);
        of.max_by_key(|(_, m)| m.used).map(|(port, _)| SocketAddr::new(self.public, *port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nat(mapping: Depends, filtering: Depends) -> Nat {
        Nat::new(1, "100.64.0.1".parse().unwrap(), NatConfig::new(mapping, filtering))
    }

    #[test]
    fn mapping_and_filtering_are_apart() {
        let inside = addr("10.0.0.1:7000");
        let (a, a2, b) = (addr("1.1.1.1:1"), addr("1.1.1.1:2"), addr("2.2.2.2:1"));
        for mapping in Depends::ALL {
            for filtering in Depends::ALL {
                let mut nat = nat(mapping, filtering);
                let seen = nat.outbound(0, inside, a);
                assert_eq!(nat.outbound(1, inside, a), seen, "a flow keeps its address");
                let same = |nat: &mut Nat, to| nat.outbound(1, inside, to) == seen;
                // Filtering first: the other flows open their own holes.
                let passes = |nat: &mut Nat, from| nat.inbound(1, from, seen, false) == Some(inside);
                assert!(passes(&mut nat, a));
                assert_eq!(passes(&mut nat, a2), filtering < Depends::AddressAndPort);
                assert_eq!(passes(&mut nat, b), filtering < Depends::Address);
                assert_eq!(same(&mut nat, a2), mapping < Depends::AddressAndPort);
                assert_eq!(same(&mut nat, b), mapping < Depends::Address);
            }
        }
    }

    #[test]
    fn mappings_expire_unless_used() {
        let (inside, to) = (addr("10.0.0.1:7000"), addr("1.1.1.1:1"));
        let mut nat = nat(Depends::Endpoint, Depends::Endpoint);
        let seen = nat.outbound(0, inside, to);
        assert_eq!(nat.outbound(100 * SECOND, inside, to), seen);
        assert_eq!(nat.inbound(220 * SECOND, to, seen, false), Some(inside));
        // What arrived did not keep it alive.
        assert_eq!(nat.inbound(221 * SECOND, to, seen, false), None);
        assert_ne!(nat.outbound(221 * SECOND, inside, to), seen);
        assert_eq!(nat.mappings(), 1);
        nat.config.inbound_refreshes = true;
        let seen = nat.outbound(300 * SECOND, inside, to);
        assert!(nat.inbound(400 * SECOND, to, seen, false).is_some());
        assert!(nat.inbound(500 * SECOND, to, seen, false).is_some());
    }

    #[test]
    fn rebinding_changes_the_port_and_hairpins_need_leave() {
        let (inside, to) = (addr("10.0.0.1:7000"), addr("1.1.1.1:1"));
        let mut nat = nat(Depends::Endpoint, Depends::Endpoint);
        let seen = nat.outbound(0, inside, to);
        assert_eq!(nat.last_used(inside), Some(seen));
        assert_eq!(nat.inbound(1, to, seen, true), None);
        nat.config.hairpin = true;
        assert_eq!(nat.inbound(1, to, seen, true), Some(inside));
        nat.rebind();
        assert_eq!(nat.inbound(1, to, seen, false), None);
        assert_ne!(nat.outbound(2, inside, to), seen);
    }
}
