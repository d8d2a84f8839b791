//! UDP and nothing else: how long the kernel takes for a round trip between two processes.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Common, Echo, Result};

pub fn serve(bind: SocketAddr) -> Result<Value> {
    let socket = UdpSocket::bind(bind)?;
    let addr = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut buf = [0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            _ = socket.send_to(&buf[..len], from);
        }
    });
    Ok(json!({"addr": addr.to_string()}))
}

pub fn connect(args: &Common, hello: &Value) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let there: SocketAddr = hello["addr"].as_str().ok_or("no address")?.parse()?;
    socket.connect(args.via.unwrap_or(there))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// Blocking calls on one thread: nothing is faster with this kernel.
pub fn echo(socket: &UdpSocket, args: &Echo) -> Result<(Vec<Duration>, Duration)> {
    let message = vec![0x5a; args.common.payload];
    let mut buf = [0; 65_536];
    let limit = Duration::from_secs(args.common.seconds);
    let begun = Instant::now();
    let (mut times, mut now) = (Vec::new(), begun);
    while now - begun < limit {
        let sent = now;
        socket.send(&message)?;
        socket.recv(&mut buf)?;
        now = Instant::now();
        times.push(now - sent);
    }
    Ok((times, begun.elapsed()))
}
