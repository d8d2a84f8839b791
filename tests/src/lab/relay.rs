//! A relay in threads of its own that treats datagrams badly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use net_proto::entropy::Entropy;

/// What happens to datagrams, in each direction. Chances are out of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Treatment {
    /// Lost one by one.
    pub loss: u32,
    /// A burst of losses begins.
    pub burst: u32,
    /// Datagrams in a burst.
    pub burst_len: u32,
    /// Sent twice.
    pub duplicate: u32,
    /// Held back, so that later ones overtake.
    pub reorder: u32,
    /// For how long, at most, in ms.
    pub hold: u64,
    /// Delay of all, in ms.
    pub delay: u64,
}

/// What it did.
#[derive(Debug, Default)]
pub struct Done {
    /// Lost datagrams.
    pub lost: AtomicU64,
    /// Doubled ones.
    pub doubled: AtomicU64,
    /// Those that were held back.
    pub held: AtomicU64,
}

/// Runs until it is dropped.
pub struct Relay {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it did.
    pub done: Arc<Done>,
    stop: Arc<AtomicBool>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

impl Relay {
    /// Between one client and `target`.
    pub fn start(target: SocketAddr, treatment: Treatment) -> Self {
        let open = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (front, back) = (Arc::new(open()), Arc::new(open()));
        let addr = front.local_addr().expect("an address");
        let (done, stop) = (Arc::new(Done::default()), Arc::new(AtomicBool::new(false)));
        let client = Arc::new(Mutex::new(None));
        for (number, from, to, target) in
            [(0u8, front.clone(), back.clone(), Some(target)), (1, back, front, None)]
        {
            let (done, stop, client) = (done.clone(), stop.clone(), client.clone());
            std::thread::spawn(move || {
                let mut dice = Entropy::new(&[number; 32], "relay");
                let mut queue: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>> = BinaryHeap::new();
                let (mut burst, mut order) = (0, 0u64);
                let mut buf = [0; 2048];
                while !stop.load(SeqCst) {
                    let now = Instant::now();
                    while queue.peek().is_some_and(|Reverse((at, _, _))| *at <= now) {
                        let Some(Reverse((_, _, data))) = queue.pop() else { break };

                        let known = *client.lock().unwrap_or_else(PoisonError::into_inner);
                        target.or(known).map(|to_addr| to.send_to(&data, to_addr));
                    }
                    let next = queue.peek().map(|Reverse((at, _, _))| at.duration_since(now));
                    let wait = next.unwrap_or(Duration::from_millis(50)).max(Duration::from_millis(1));
                    from.set_read_timeout(Some(wait)).expect("a time");
                    let Ok((len, sender)) = from.recv_from(&mut buf) else { continue };
                    if target.is_some() {
                        *client.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
                    }
                    let mut hit = |chance: u32| dice.u64() % 1000 < u64::from(chance);
                    if burst == 0 && hit(treatment.burst) {
                        burst = treatment.burst_len;
                    }
                    if burst > 0 || hit(treatment.loss) {
                        burst = burst.saturating_sub(1);
                        done.lost.fetch_add(1, SeqCst);
                        continue;
                    }
                    let twice = hit(treatment.duplicate);
                    done.doubled.fetch_add(u64::from(twice), SeqCst);
                    let mut delay = treatment.delay;
                    if hit(treatment.reorder) {
                        delay += 1 + dice.u64() % treatment.hold.max(1);
                        done.held.fetch_add(1, SeqCst);
                    }
                    for _ in 0..=u8::from(twice) {
                        order += 1;
                        let at = Instant::now() + Duration::from_millis(delay);
                        queue.push(Reverse((at, order, buf[..len].to_vec())));
                    }
                }
            });
        }
        Self { addr, done, stop }
    }
}
