//! What a node may never do, seen from outside: the checks that need nothing but its datagrams.

use std::net::SocketAddr;

/// First byte of a data packet.
const DATA: u8 = 5;

/// Watches one life of one node.
#[derive(Debug, Default)]
pub struct Guard {
    /// By address, sorted: its key, and in the lowest bit whether it is trusted. Apart from `remotes`, which
    /// have the same order, since it is looked at for every datagram and lies in one or two cache lines.
    keys: Vec<u64>,
    remotes: Vec<Remote>,
    /// How many are not trusted.
    strangers: usize,
    /// Addresses where something reached an honest node that has not been heard of since, and which.
    reached: Vec<(SocketAddr, u32)>,
}

#[derive(Debug)]
struct Remote {
    addr: SocketAddr,
    /// Bytes, counted until it is trusted.
    got: u64,
    sent: u64,
    /// The receiver index sent under last, and its highest counter.
    latest: Option<(u32, u64)>,
    /// The same of earlier ones.
    earlier: Vec<(u32, u64)>,
}

/// A number for an address: of IPv4 its own, of IPv6 one that it shares with others.
const fn key(addr: &SocketAddr) -> u64 {
    match addr {
        SocketAddr::V4(v4) => (v4.ip().to_bits() as u64) << 17 | (v4.port() as u64) << 1,
        SocketAddr::V6(v6) => 1 << 63 | (v6.ip().to_bits() as u64) << 17 | (v6.port() as u64) << 1,
    }
}

impl Remote {
    fn count(&mut self, index: u32, counter: u64) -> Result<(), String> {
        let Self { addr, latest, earlier, .. } = self;
        let known = match latest {
            Some((of, last)) if *of == index => Some(last),
            _ => earlier.iter_mut().rev().find(|(of, _)| *of == index).map(|(_, last)| last),
        };
        match known {
            Some(last) if *last >= counter => {
                return Err(format!("counter {counter} after {last} under the key of {index} at {addr}"));
            }
            Some(last) => *last = counter,
            None => earlier.extend(latest.replace((index, counter))),
        }
        Ok(())
    }
}

impl Guard {
    fn find(&self, addr: &SocketAddr) -> Result<usize, usize> {
        let key = key(addr);
        let mut place = self.keys.partition_point(|known| *known < key);
        while self.keys.get(place).is_some_and(|known| known & !1 == key) {
            if addr.is_ipv4() || self.remotes[place].addr == *addr {
                return Ok(place);
            }
            place += 1;
        }
        Err(place)
    }

    fn of(&mut self, addr: SocketAddr) -> usize {
        self.find(&addr).unwrap_or_else(|place| {
            self.keys.insert(place, key(&addr));
            let remote = Remote { addr, got: 0, sent: 0, latest: None, earlier: Vec::new() };
            self.remotes.insert(place, remote);
            self.strangers += 1;
            place
        })
    }

    fn trusts(&self, place: usize) -> bool {
        self.keys[place] & 1 == 1
    }

    /// The node dialled this address, or says that it is proven.
    pub fn trust(&mut self, addr: SocketAddr) {
        let place = self.of(addr);
        self.strangers -= usize::from(!self.trusts(place));
        self.keys[place] |= 1;
    }

    /// Whether every address that it knows is trusted, and there are some: then it matters no more what
    /// reached whom.
    pub fn is_settled(&self) -> bool {
        self.strangers == 0 && !self.keys.is_empty()
    }

    /// What the node sent to this address reached an honest node there.
    pub fn reached(&mut self, addr: SocketAddr, who: u32) {
        let place = self.of(addr);
        if !self.trusts(place) && !self.reached.contains(&(addr, who)) {
            self.reached.push((addr, who));
        }
    }

    /// A datagram from `addr` reached the node; the honest node `who` sent it, if one did. That proves
    /// every address at which it was reached before, wherever it sends from now: it may have moved.
    pub fn got(&mut self, addr: SocketAddr, len: usize, who: Option<u32>) {
        let place = self.of(addr);
        if !self.trusts(place) {
            self.remotes[place].got += len as u64;
        }
        if self.reached.is_empty() {
            return;
        }
        let proven: Vec<_> = self.reached.extract_if(.., |(_, reached)| Some(*reached) == who).collect();
        for (addr, _) in proven {
            self.trust(addr);
        }
    }

    /// The node sends `data` to `addr`. An error says which rule that breaks.
    pub fn sent(&mut self, addr: SocketAddr, data: &[u8]) -> Result<(), String> {
        let place = self.of(addr);
        let trusted = self.trusts(place);
        let remote = &mut self.remotes[place];
        remote.sent += data.len() as u64;
        if !trusted && remote.sent > remote.got {
            let Remote { got, sent, .. } = remote;
            return Err(format!(
                "amplification: {sent} bytes to {addr}, which sent {got} and proved nothing"
            ));
        }
        // A counter is the nonce: under one key it may only rise (docs/protocol, data packets).
        if let [DATA, i0, i1, i2, i3, rest @ ..] = data {
            let Some(counter) = rest.first_chunk::<8>().map(|c| u64::from_le_bytes(*c)) else {
                return Err("a data packet without a counter".into());
            };
            return remote.count(u32::from_le_bytes([*i0, *i1, *i2, *i3]), counter);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(index: u32, counter: u64) -> Vec<u8> {
        let mut p = vec![DATA];
        p.extend_from_slice(&index.to_le_bytes());
        p.extend_from_slice(&counter.to_le_bytes());
        p
    }

    #[test]
    fn a_repeated_counter_is_noticed() {
        let mut guard = Guard::default();
        let addr = "10.0.0.1:1".parse().unwrap();
        guard.trust(addr);
        assert_eq!(guard.sent(addr, &packet(1, 0)), Ok(()));
        assert_eq!(guard.sent(addr, &packet(1, 5)), Ok(()));
        assert_eq!(guard.sent(addr, &packet(2, 5)), Ok(()));
        assert!(guard.sent(addr, &packet(1, 5)).is_err());
    }

    #[test]
    fn more_bytes_than_came_are_noticed() {
        let mut guard = Guard::default();
        let addr = "10.0.0.1:1".parse().unwrap();
        guard.got(addr, 100, None);
        assert_eq!(guard.sent(addr, &[1; 100]), Ok(()));
        assert!(guard.sent(addr, &[1]).is_err());
        guard.trust(addr);
        assert_eq!(guard.sent(addr, &[1; 1000]), Ok(()));
    }

    #[test]
    fn who_answers_is_there() {
        let mut guard = Guard::default();
        let addr = "10.0.0.1:1".parse().unwrap();
        guard.got(addr, 100, Some(3));
        assert_eq!(guard.sent(addr, &[1; 100]), Ok(()));
        guard.reached(addr, 3);
        assert!(guard.sent(addr, &[1]).is_err(), "no answer yet");
        guard.got("10.0.0.1:2".parse().unwrap(), 1, None);
        assert!(guard.sent(addr, &[1]).is_err(), "somebody else's");
        guard.got("10.0.0.1:2".parse().unwrap(), 1, Some(3));
        assert_eq!(guard.sent(addr, &[1; 1000]), Ok(()));
    }
}
