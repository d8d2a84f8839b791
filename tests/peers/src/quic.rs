//! quinn, set up as somebody would who knows it well: see `transport`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig};
use quinn::{RecvStream, SendStream, TokioRuntime, TransportConfig, VarInt};
use rustls::crypto::ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use crate::far::{CLOCK_EVERY, Count};
use crate::{Common, Echo, Result, Stream};

/// As Net asks of the system.
const SOCKET_BUFFER: usize = 4 << 20;

/// Size probes go up to what Net tries. Of windows from 256 KiB to 8 MiB these were the fastest on
/// loopback: several times what is under way there, and small enough for the processor's caches.
/// CUBIC, GSO and ECN are quinn's defaults.
fn transport() -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(1452);
    let mut config = TransportConfig::default();
    config
        .mtu_discovery_config(Some(mtu))
        .stream_receive_window(VarInt::from_u32(1 << 20))
        .receive_window(VarInt::from_u32(16 << 20))
        .send_window(512 << 10)
        .datagram_receive_buffer_size(Some(8 << 20))
        .datagram_send_buffer_size(1 << 20)
        .max_concurrent_bidi_streams(VarInt::from_u32(1024));
    Arc::new(config)
}

/// One cipher, the one that Net chooses where the processor has AES.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![TLS13_AES_256_GCM_SHA384];
    Arc::new(provider)
}

/// What QUIC protects its first packets with, whatever is agreed later.
fn initial() -> Result<rustls::quic::Suite> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(rustls::Tls13CipherSuite::quic_suite);
    Ok(suite.ok_or("no initial suite")?)
}

fn endpoint(bind: SocketAddr, server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = std::net::UdpSocket::bind(bind)?;
    let ask = socket2::SockRef::from(&socket);
    _ = ask.set_recv_buffer_size(SOCKET_BUFFER);
    _ = ask.set_send_buffer_size(SOCKET_BUFFER);
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let byte = |at| Ok(u8::from_str_radix(text.get(at..at + 2).ok_or("odd hex")?, 16)?);
    (0..text.len()).step_by(2).map(byte).collect()
}

/// The far end.
pub async fn serve(bind: SocketAddr, count: Arc<Count>) -> Result<Value> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()])?;
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())?;
    let tls = QuicServerConfig::with_initial(Arc::new(tls), initial()?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport());
    let endpoint = endpoint(bind, Some(config))?;
    let hello = json!({"addr": endpoint.local_addr()?.to_string(), "certificate": hex(&certificate)});
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                tokio::spawn(datagrams(connection.clone(), count.clone()));
                tokio::spawn(one_way(connection.clone(), count));
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(answer(send, recv));
                }
            });
        }
    });
    Ok(hello)
}

async fn datagrams(connection: Connection, count: Arc<Count>) {
    let mut messages = 0;
    while connection.read_datagram().await.is_ok() {
        messages += 1;
        if messages == CLOCK_EVERY {
            count.add(messages);
            messages = 0;
        }
    }
}

async fn one_way(connection: Connection, count: Arc<Count>) {
    while let Ok(stream) = connection.accept_uni().await {
        let count = count.clone();
        tokio::spawn(async move {
            if read_messages(stream, &count).await.is_ok() {
                count.end();
            }
        });
    }
}

/// Whatever is there, in one call, without a copy; then its messages.
async fn read_messages(mut stream: RecvStream, count: &Count) -> Result<()> {
    let mut split = Split::default();
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        let messages = split.feed(&chunk.bytes);
        if messages > 0 {
            count.add(messages);
        }
    }
    Ok(())
}

/// Finds the ends of messages: each is a length of two bytes, then as many bytes.
#[derive(Default)]
struct Split {
    /// The first byte of a length whose second one is not here yet.
    half: Option<u8>,
    /// Bytes missing to the end of a message.
    missing: usize,
    inside: bool,
}

impl Split {
    /// Messages that ended.
    fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        let mut ended = 0;
        loop {
            if self.inside {
                let here = self.missing.min(bytes.len());
                bytes = &bytes[here..];
                self.missing -= here;
                if self.missing > 0 {
                    return ended;
                }
                ended += 1;
                self.inside = false;
            }
            let length = match (self.half.take(), bytes) {
                (_, []) => return ended,
                (Some(high), [low, rest @ ..]) => {
                    bytes = rest;
                    [high, *low]
                }
                (None, [high, low, rest @ ..]) => {
                    bytes = rest;
                    [*high, *low]
                }
                (None, [high]) => {
                    self.half = Some(*high);
                    return ended;
                }
            };
            self.missing = usize::from(u16::from_be_bytes(length));
            self.inside = true;
        }
    }
}

fn framed(payload: usize) -> Result<Vec<u8>> {
    let mut message = u16::try_from(payload)?.to_be_bytes().to_vec();
    message.resize(2 + payload, 0x5a);
    Ok(message)
}

/// Reads one message with its length into `buf`, usually in one call.
async fn read_message(recv: &mut RecvStream, buf: &mut [u8]) -> Result<Option<usize>> {
    let mut have = 0;
    loop {
        let whole = match buf[..have] {
            [high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => usize::MAX,
        };
        if have >= whole {
            return Ok(Some(whole));
        }
        // A caller waits for the answer before it sends more: nothing of a next message comes.
        match recv.read(&mut buf[have..]).await? {
            Some(more) => have += more,
            None => return Ok(None),
        }
    }
}

async fn answer(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let mut buf = vec![0; 2 + usize::from(u16::MAX)];
    while let Some(len) = read_message(&mut recv, &mut buf).await? {
        send.write_all(&buf[..len]).await?;
    }
    send.finish()?;
    Ok(())
}

/// A connection, with what keeps it alive.
pub struct Link {
    _endpoint: Endpoint,
    connection: Connection,
}

impl Link {
    pub fn conditions(&self) -> Value {
        let stats = self.connection.stats();
        json!({
            "cipher": "AES-256-GCM",
            "datagram_size": stats.path.current_mtu,
            "congestion": "cubic",
            "rtt_us": stats.path.rtt.as_micros() as u64,
            "window": stats.path.cwnd,
            "packets_sent": stats.path.sent_packets,
            "packets_lost": stats.path.lost_packets,
        })
    }
}

pub async fn connect(args: &Common, hello: &Value) -> Result<Link> {
    let certificate = unhex(hello["certificate"].as_str().ok_or("no certificate")?)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(certificate))?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = QuicClientConfig::with_initial(Arc::new(tls), initial()?)?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(transport());
    let endpoint = endpoint(SocketAddr::from(([127, 0, 0, 1], 0)), None)?;
    let there: SocketAddr = hello["addr"].as_str().ok_or("no address")?.parse()?;
    let connection = endpoint.connect_with(config, args.via.unwrap_or(there), "localhost")?.await?;
    Ok(Link { _endpoint: endpoint, connection })
}

/// Sends for as long as was asked; how many messages that were.
pub async fn stream(link: &Link, args: &Stream) -> Result<u64> {
    let limit = Duration::from_secs(args.common.seconds);
    let (connection, payload) = (link.connection.clone(), args.common.payload);
    let task = if args.unreliable {
        tokio::spawn(pour_datagrams(connection, payload, limit))
    } else {
        tokio::spawn(pour(connection, payload, limit))
    };
    task.await?
}

async fn pour_datagrams(connection: Connection, payload: usize, limit: Duration) -> Result<u64> {
    let message = Bytes::from(vec![0x5a; payload]);
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < limit {
        for _ in 0..CLOCK_EVERY {
            // The call that waits for room: the other one drops the oldest.
            connection.send_datagram_wait(message.clone()).await?;
        }
        sent += CLOCK_EVERY;
    }
    Ok(sent)
}

async fn pour(connection: Connection, payload: usize, limit: Duration) -> Result<u64> {
    let message = framed(payload)?;
    let mut stream = connection.open_uni().await?;
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < limit {
        for _ in 0..CLOCK_EVERY {
            stream.write_all(&message).await?;
        }
        sent += CLOCK_EVERY;
    }
    stream.finish()?;
    stream.stopped().await?;
    Ok(sent)
}

/// A stream for each caller, which stays.
pub async fn echo(link: &Link, args: &Echo) -> Result<(Vec<Duration>, Duration)> {
    let limit = Duration::from_secs(args.common.seconds);
    let mut streams = Vec::new();
    for _ in 0..args.concurrency {
        streams.push(link.connection.open_bi().await?);
    }
    let begun = Instant::now();
    let payload = args.common.payload;
    let callers: Vec<_> = streams
        .into_iter()
        .map(|(send, recv)| tokio::spawn(call(send, recv, payload, begun, limit)))
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await??);
    }
    Ok((times, begun.elapsed()))
}

async fn call(
    mut send: SendStream,
    mut recv: RecvStream,
    payload: usize,
    begun: Instant,
    limit: Duration,
) -> Result<Vec<Duration>> {
    let message = framed(payload)?;
    let mut buf = vec![0; message.len()];
    let (mut times, mut now) = (Vec::new(), begun);
    while now - begun < limit {
        let sent = now;
        send.write_all(&message).await?;
        read_message(&mut recv, &mut buf).await?.ok_or("the far end ended early")?;
        now = Instant::now();
        times.push(now - sent);
    }
    send.finish()?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let bytes: Vec<u8> = [3, 64, 0, 300].iter().flat_map(|len| framed(*len).unwrap()).collect();
        for cut in 1..bytes.len() {
            let mut split = Split::default();
            let ended: u64 = bytes.chunks(cut).map(|piece| split.feed(piece)).sum();
            assert_eq!(ended, 4, "pieces of {cut}");
        }
    }
}
