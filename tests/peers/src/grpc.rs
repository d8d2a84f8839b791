//! tonic: gRPC over HTTP/2 and TLS. Messages are bytes; the codec copies them and nothing else, so no
//! schema and no protoc. One way is a client stream, an echo a stream in both directions per caller.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::{Stream as Items, wrappers::ReceiverStream};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{ClientStreamingService, Grpc, NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::far::{CLOCK_EVERY, Count};
use crate::{Echo, Result, Stream};

/// No limit on one machine.
const WINDOW: u32 = 8 << 20;

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> std::result::Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> std::result::Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[derive(Clone)]
struct Far {
    count: Arc<Count>,
}

impl NamedService for Far {
    const NAME: &'static str = "net.Bench";
}

impl ClientStreamingService<Bytes> for Far {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let count = self.count.clone();
        Box::pin(async move {
            let mut items = request.into_inner();
            let mut messages = 0;
            while items.message().await?.is_some() {
                messages += 1;
                if messages == CLOCK_EVERY {
                    count.add(messages);
                    messages = 0;
                }
            }
            if messages > 0 {
                count.add(messages);
            }
            count.end();
            Ok(Response::new(Bytes::new()))
        })
    }
}

impl StreamingService<Bytes> for Far {
    type Response = Bytes;
    type ResponseStream = Streaming<Bytes>;
    type Future = BoxFuture<Response<Streaming<Bytes>>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        // What comes in is what goes out.
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl Service<http::Request<Body>> for Far {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let far = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/net.Bench/Pour" => Grpc::new(Raw).client_streaming(far, request).await,
                _ => Grpc::new(Raw).streaming(far, request).await,
            })
        })
    }
}

/// The far end.
pub async fn serve(bind: SocketAddr, count: Arc<Count>) -> Result<Value> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()])?;
    let certificate = made.cert.pem();
    let identity = Identity::from_pem(&certificate, made.signing_key.serialize_pem());
    let listener = tokio::net::TcpListener::bind(bind).await?;
    let hello = json!({"addr": listener.local_addr()?.to_string(), "certificate": certificate});
    let server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))?
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(1024)
        .add_service(Far { count });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(hello)
}

pub type Link = Channel;

/// What rustls with ring chooses first is what both ends agree on.
pub fn conditions() -> Value {
    json!({"cipher": "AES-256-GCM", "congestion": "the kernel's TCP"})
}

pub async fn connect(hello: &Value) -> Result<Link> {
    let certificate = Certificate::from_pem(hello["certificate"].as_str().ok_or("no certificate")?);
    let tls = ClientTlsConfig::new().ca_certificate(certificate).domain_name("localhost");
    let addr = hello["addr"].as_str().ok_or("no address")?;
    let endpoint = Endpoint::from_shared(format!("https://{addr}"))?
        .tls_config(tls)?
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    Ok(endpoint.connect().await?)
}

/// Messages until the time is up.
struct Pour {
    message: Bytes,
    begun: Instant,
    limit: Duration,
    sent: Arc<AtomicU64>,
}

impl Items for Pour {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let sent = self.sent.load(Relaxed);
        if sent.is_multiple_of(CLOCK_EVERY) && self.begun.elapsed() >= self.limit {
            return Poll::Ready(None);
        }
        self.sent.store(sent + 1, Relaxed);
        Poll::Ready(Some(self.message.clone()))
    }
}

/// Sends for as long as was asked; how many messages that were.
pub async fn stream(link: &Link, args: &Stream) -> Result<u64> {
    let sent = Arc::new(AtomicU64::new(0));
    let pour = Pour {
        message: Bytes::from(vec![0x5a; args.common.payload]),
        begun: Instant::now(),
        limit: Duration::from_secs(args.common.seconds),
        sent: sent.clone(),
    };
    let mut client = Client::new(link.clone());
    tokio::spawn(async move {
        client.ready().await?;
        let path = PathAndQuery::from_static("/net.Bench/Pour");
        client.client_streaming(Request::new(pour), path, Raw).await?;
        Ok::<_, crate::Error>(())
    })
    .await??;
    Ok(sent.load(Relaxed))
}

/// A stream for each caller, which stays.
pub async fn echo(link: &Link, args: &Echo) -> Result<(Vec<Duration>, Duration)> {
    let limit = Duration::from_secs(args.common.seconds);
    let begun = Instant::now();
    let callers: Vec<_> = (0..args.concurrency)
        .map(|_| tokio::spawn(call(Client::new(link.clone()), args.common.payload, begun, limit)))
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await??);
    }
    Ok((times, begun.elapsed()))
}

async fn call(
    mut client: Client<Channel>,
    payload: usize,
    begun: Instant,
    limit: Duration,
) -> Result<Vec<Duration>> {
    let message = Bytes::from(vec![0x5a; payload]);
    let (to, from) = tokio::sync::mpsc::channel(1);
    client.ready().await?;
    let path = PathAndQuery::from_static("/net.Bench/Echo");
    let answers = client.streaming(Request::new(ReceiverStream::new(from)), path, Raw).await?;
    let mut answers = answers.into_inner();
    let (mut times, mut now) = (Vec::new(), Instant::now());
    while now - begun < limit {
        let sent = now;
        to.send(message.clone()).await?;
        answers.message().await?.ok_or("the far end ended early")?;
        now = Instant::now();
        times.push(now - sent);
    }
    Ok(times)
}
