//! The lossy link: forwards datagrams to one address and back, one system call in and one out for
//! each (no GRO, no GSO), and loses single ones by a keyed draw, so that both sides of a pair meet
//! the same losses by packet number.

use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use clap::Args;

use crate::Result;

#[derive(Debug, Args)]
pub struct Settings {
    /// Where datagrams go.
    #[arg(long)]
    pub target: SocketAddr,
    /// Datagrams to lose, in percent, each way.
    #[arg(long)]
    pub loss: f64,
    /// Key of the draws.
    #[arg(long)]
    pub key: u64,
}

/// Asked of the system for both directions.
const SOCKET_BUFFER: usize = 4 << 20;

/// Whether the n-th datagram of a direction is lost: a function of its arguments only.
fn lost(key: u64, direction: u64, n: u64, threshold: u64) -> bool {
    // Two rounds of splitmix64's finaliser over the three numbers.
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    mix(mix(key ^ (direction << 63)).wrapping_add(n)) >> 32 < threshold
}

fn open() -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let ask = socket2::SockRef::from(&socket);
    _ = ask.set_recv_buffer_size(SOCKET_BUFFER);
    _ = ask.set_send_buffer_size(SOCKET_BUFFER);
    Ok(socket)
}

/// Runs until the standard input ends. Prints where it listens.
pub fn run(args: &Settings) -> Result<()> {
    let threshold = (args.loss / 100.0 * 4_294_967_296.0) as u64;
    let (front, back) = (Arc::new(open()?), Arc::new(open()?));
    back.connect(args.target)?;
    println!("{}", front.local_addr()?);
    let (key, target) = (args.key, back.clone());
    std::thread::spawn(move || {
        let mut buf = vec![0; 65_536];
        let mut client: Option<SocketAddr> = None;
        let mut n = 0;
        loop {
            // An error tells of an earlier datagram that nobody took.
            let Ok((len, from)) = front.recv_from(&mut buf) else { continue };
            if client.is_none() {
                client = Some(from);
                let (answers, clients) = (back.clone(), front.clone());
                std::thread::spawn(move || {
                    let mut buf = vec![0; 65_536];
                    let mut n = 0;
                    loop {
                        let Ok(len) = answers.recv(&mut buf) else { continue };
                        if !lost(key, 1, n, threshold) {
                            _ = clients.send_to(&buf[..len], from);
                        }
                        n += 1;
                    }
                });
            }
            if client == Some(from) {
                if !lost(key, 0, n, threshold) {
                    _ = target.send(&buf[..len]);
                }
                n += 1;
            }
        }
    });
    let mut nothing = [0; 16];
    while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_have_the_asked_rate_in_both_directions_and_repeat() {
        let one_percent = (0.01 * 4_294_967_296.0) as u64;
        for direction in 0..2 {
            let losses = |key| (0..100_000).filter(|&n| lost(key, direction, n, one_percent)).count();
            assert!((900..1100).contains(&losses(7)), "{}", losses(7));
            assert_eq!(losses(8), losses(8));
        }
        let which = |key, direction| {
            (0..10_000).filter(|&n| lost(key, direction, n, one_percent)).collect::<Vec<_>>()
        };
        assert_ne!(which(1, 0), which(2, 0));
        assert_ne!(which(1, 0), which(1, 1));
    }
}
