//! A bad link: forwards UDP datagrams to one address and back, loses single ones, and listens.
//!
//! Plain blocking sockets in threads: nothing here shares code, buffers or a runtime with the nodes
//! that it stands between.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use crate::args;
use crate::eavesdrop::{Eavesdropper, Overheard};
use crate::failure::Result;
use crate::output::Output;

/// Most clients; datagrams of further ones are dropped.
const MAX_CLIENTS: usize = 64;
/// How often a thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);
/// Asked of the system; it may give less.
const SOCKET_BUFFER: usize = 8 << 20;

/// What became of the datagrams.
#[derive(Debug, Default)]
pub struct Counters {
    /// Arrived from clients.
    pub there: AtomicU64,
    /// Of those, lost on purpose.
    pub there_lost: AtomicU64,
    /// Arrived from the target.
    pub back: AtomicU64,
    /// Of those, lost on purpose.
    pub back_lost: AtomicU64,
}

struct Shared {
    counters: Counters,
    stop: AtomicBool,
    overheard: Mutex<Overheard>,
    /// Out of 2^32.
    threshold: u64,
    markers: Vec<Vec<u8>>,
}

/// A relay that runs until it is dropped.
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    front: Option<JoinHandle<()>>,
}

impl Relay {
    /// Forwards what arrives at `bind` to `target`, losing `loss` percent each way, and looks for
    /// `markers` in every datagram.
    pub fn start(bind: SocketAddr, target: SocketAddr, loss: f64, markers: Vec<Vec<u8>>) -> io::Result<Self> {
        let socket = open(bind)?;
        let addr = socket.local_addr()?;
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            stop: AtomicBool::new(false),
            overheard: Mutex::default(),
            threshold: (loss / 100.0 * 4_294_967_296.0) as u64,
            markers,
        });
        let run = shared.clone();
        let front =
            thread::Builder::new().name("relay".into()).spawn(move || forward(&socket, target, &run))?;
        Ok(Self { addr, shared, front: Some(front) })
    }

    /// Where it listens.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What became of the datagrams so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Ends it and tells what was overheard.
    pub fn finish(mut self) -> Overheard {
        self.end();
        std::mem::take(&mut *self.shared.overheard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(front) = self.front.take() {
            _ = front.join();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

fn open(bind: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(bind)?;
    socket.set_read_timeout(Some(TICK))?;
    let ask = socket2::SockRef::from(&socket);
    _ = ask.set_recv_buffer_size(SOCKET_BUFFER);
    _ = ask.set_send_buffer_size(SOCKET_BUFFER);
    Ok(socket)
}

/// Loses datagrams independently of each other.
struct Dice {
    state: u64,
    threshold: u64,
}

impl Dice {
    fn new(seed: u64, threshold: u64) -> Self {
        Self { state: seed, threshold }
    }

    /// splitmix64: good enough to lose datagrams, and nothing else.
    fn loses(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) < self.threshold
    }
}

/// From the clients to the target; one more thread per client brings back the answers.
fn forward(socket: &UdpSocket, target: SocketAddr, shared: &Arc<Shared>) {
    let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut ear = Eavesdropper::new(&shared.markers);
    let mut dice = Dice::new(seed(), shared.threshold);
    let mut buf = vec![0; 65_536];
    while !shared.stop.load(Relaxed) {
        // An error tells of an earlier datagram that nobody took (ICMP), or of the tick.
        let Ok((len, from)) = socket.recv_from(&mut buf) else { continue };
        shared.counters.there.fetch_add(1, Relaxed);
        ear.hear(&buf[..len]);
        if dice.loses() {
            shared.counters.there_lost.fetch_add(1, Relaxed);
            continue;
        }
        if !clients.contains_key(&from) && clients.len() < MAX_CLIENTS {
            let Ok(client) = connect(socket, from, target, shared) else { continue };
            clients.insert(from, client);
        }
        if let Some((upstream, _)) = clients.get(&from) {
            _ = upstream.send(&buf[..len]);
        }
    }
    clients.into_values().for_each(|(_, thread)| _ = thread.join());
    ear.report(&shared.overheard);
}

fn connect(
    front: &UdpSocket,
    client: SocketAddr,
    target: SocketAddr,
    shared: &Arc<Shared>,
) -> io::Result<(Arc<UdpSocket>, JoinHandle<()>)> {
    let any =
        if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let upstream = Arc::new(open(any)?);
    upstream.connect(target)?;
    let (from, to, shared) = (upstream.clone(), front.try_clone()?, shared.clone());
    let thread = thread::Builder::new().name("relay back".into()).spawn(move || {
        let mut ear = Eavesdropper::new(&shared.markers);
        let mut dice = Dice::new(seed(), shared.threshold);
        let mut buf = vec![0; 65_536];
        while !shared.stop.load(Relaxed) {
            let Ok(len) = from.recv(&mut buf) else { continue };
            shared.counters.back.fetch_add(1, Relaxed);
            ear.hear(&buf[..len]);
            if dice.loses() {
                shared.counters.back_lost.fetch_add(1, Relaxed);
            } else {
                _ = to.send_to(&buf[..len], client);
            }
        }
        ear.report(&shared.overheard);
    })?;
    Ok((upstream, thread))
}

/// Different for each thread and run; `RandomState` is the only randomness in `std`.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8)
}

/// The command `net relay`.
pub async fn run(args: args::Relay, output: Output) -> Result<()> {
    let relay = Relay::start(args.bind, args.target, args.loss, Vec::new())?;
    let addr = relay.addr();
    output.say(format!(
        "{addr} forwards to {} and loses {} % each way. Ctrl-C ends it.",
        args.target, args.loss
    ));
    output
        .emit(&json!({"event": "listening", "addr": addr, "target": args.target, "loss_percent": args.loss}));
    _ = tokio::signal::ctrl_c().await;
    let c = relay.counters();
    let [there, there_lost, back, back_lost] =
        [&c.there, &c.there_lost, &c.back, &c.back_lost].map(|counter| counter.load(Relaxed));
    output.say(format!("There: {there} datagrams, {there_lost} lost. Back: {back}, {back_lost} lost."));
    output.emit(&json!({
        "event": "done", "there": there, "there_lost": there_lost, "back": back, "back_lost": back_lost,
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dice_lose_what_they_are_told_to() {
        let mut dice = Dice::new(1, (0.01 * 4_294_967_296.0) as u64);
        let lost = (0..1_000_000).filter(|_| dice.loses()).count();
        assert!((9_500..10_500).contains(&lost), "{lost} of a million at 1 %");
        let mut never = Dice::new(1, 0);
        assert!((0..100_000).all(|_| !never.loses()));
    }

    #[test]
    fn datagrams_go_there_and_back_and_are_overheard() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let here = SocketAddr::from(([127, 0, 0, 1], 0));
        let relay = Relay::start(here, target.local_addr().unwrap(), 0.0, vec![b"marker".to_vec()]).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buf = [0; 64];
        client.send_to(b"the marker is here", relay.addr()).unwrap();
        let (len, from) = target.recv_from(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"the marker is here");
        target.send_to(b"and back", from).unwrap();
        let (len, from) = client.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..len], from), (&b"and back"[..], relay.addr()));
        let overheard = relay.finish();
        assert_eq!((overheard.datagrams, overheard.matches), (2, 1));
    }
}
