//! The adapter of the bus to the simulated engine.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use net_proto::bus::{Position, Shard};
use net_proto::path::Ecn;
use net_shell::bus::adapter::{
    Ack, Adapter, AdapterCaps, AdapterError, Batch, BoxFut, Incoming, Link, Page, Setup,
};
use net_shell::runtime::{Runtime, Timer, Transmit, UdpOptions, UdpRx, UdpTx};

use super::session::{AGAIN, Connection, DEAD, Over};
use super::wire::{Answer, Ask, Entry, MOST, Message, Part, ROOM};
use crate::sometimes;

/// Leads to the server at an address. Needs the runtime of a simulated machine.
pub struct EngineAdapter {
    server: SocketAddr,
    runtime: OnceLock<Arc<dyn Runtime>>,
}

impl fmt::Debug for EngineAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineAdapter").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A socket to the server.
struct Socket {
    runtime: Arc<dyn Runtime>,
    server: SocketAddr,
    tx: Arc<dyn UdpTx>,
    rx: Box<dyn UdpRx>,
    timer: Box<dyn Timer>,
}

impl Socket {
    fn open(runtime: &Arc<dyn Runtime>, server: SocketAddr) -> Result<Self, AdapterError> {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let bound = runtime.bind(any, &UdpOptions::default());
        let (tx, rx) = bound.map_err(|why| AdapterError::Connection(why.to_string()))?;
        Ok(Self { runtime: runtime.clone(), server, tx, rx, timer: runtime.timer() })
    }

    fn send(&self, data: &[u8]) {
        let to = self.server;
        // What cannot be sent is lost, as on the way.
        _ = self.tx.try_send(&Transmit { to, from: None, ecn: Ecn::NotEct, data, segment: None });
    }

    /// The next messages; `Ready` even if none of them was whole.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Message>> {
        let Poll::Ready(batch) = self.rx.poll_recv(cx) else { return Poll::Pending };
        let mut messages = Vec::new();
        if let Ok(batch) = batch {
            batch.for_each(|_, _, _, data| messages.extend(Message::decode(data)));
        }
        Poll::Ready(messages)
    }
}

impl EngineAdapter {
    pub(super) const fn new(server: SocketAddr) -> Self {
        Self { server, runtime: OnceLock::new() }
    }

    fn socket(&self) -> Result<Socket, AdapterError> {
        Socket::open(self.runtime.get().ok_or(AdapterError::Shutdown)?, self.server)
    }

    /// Asks until there is an answer, for at most `limit` and what a connection may be silent.
    async fn ask(&self, ask: Ask, limit: Duration) -> Result<Answer, AdapterError> {
        let mut socket = self.socket()?;
        let call = number(&socket);
        let question = Message::Ask { call, ask }.encode();
        let until = socket.runtime.now() + limit + DEAD;
        loop {
            socket.send(&question);
            let again = (socket.runtime.now() + AGAIN).min(until);
            let answer = poll_fn(|cx| {
                while let Poll::Ready(messages) = socket.poll_recv(cx) {
                    for message in messages {
                        if let Message::Answer { call: of, answer } = message
                            && of == call
                        {
                            return Poll::Ready(Some(answer));
                        }
                    }
                }
                socket.timer.poll(cx, Some(again)).map(|()| None)
            })
            .await;
            match answer {
                Some(answer) => return Ok(answer),
                None if socket.runtime.now() >= until => {
                    return Err(AdapterError::Timeout("the server is silent".into()));
                }
                None => {}
            }
        }
    }
}

/// A fresh number for a connection or a question.
fn number(socket: &Socket) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&socket.runtime.entropy()[..8]);
    u64::from_le_bytes(bytes)
}

fn unexpected<T>(answer: &Answer) -> Result<T, AdapterError> {
    Err(AdapterError::Protocol(format!("{answer:?}")))
}

impl Adapter for EngineAdapter {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn caps(&self) -> AdapterCaps {
        AdapterCaps {
            durable: true,
            dedup: false,
            max_event: ROOM as u32,
            batch_events: MOST as u32,
            batch_bytes: ROOM as u32 / 2,
            window: 4,
        }
    }

    fn start<'a>(&'a self, setup: &'a Setup) -> BoxFut<'a, Result<(), AdapterError>> {
        _ = self.runtime.set(setup.runtime.clone());
        self.health()
    }

    fn open(&self, shard: Shard) -> BoxFut<'_, Result<Box<dyn Link>, AdapterError>> {
        Box::pin(async move {
            let socket = self.socket()?;
            let connection = Connection::new(socket.runtime.now(), number(&socket), shard);
            let mut link = EngineLink { socket, connection };
            poll_fn(|cx| match link.turn(cx) {
                Err(error) => Poll::Ready(Err(error)),
                Ok(_) if link.connection.is_open() => Poll::Ready(Ok(())),
                Ok(_) => Poll::Pending,
            })
            .await?;
            Ok(Box::new(link) as Box<dyn Link>)
        })
    }

    fn read<'a>(
        &'a self,
        from: &'a [(Shard, Option<Position>)],
        limit: usize,
        wait: Duration,
    ) -> BoxFut<'a, Result<Vec<Page>, AdapterError>> {
        Box::pin(async move {
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
            let ask = Ask::Read { from: from.to_vec(), limit, wait: wait.as_millis() as u32 };
            match self.ask(ask, wait).await? {
                Answer::Page(parts) => Ok(parts.into_iter().map(page).collect()),
                other => unexpected(&other),
            }
        })
    }

    fn tail<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<(Shard, Position)>, AdapterError>> {
        Box::pin(async move {
            match self.ask(Ask::Tail(shards.to_vec()), Duration::ZERO).await? {
                Answer::Tail(tail) => Ok(tail),
                other => unexpected(&other),
            }
        })
    }

    fn shards(&self) -> BoxFut<'_, Result<Vec<Shard>, AdapterError>> {
        Box::pin(async move {
            match self.ask(Ask::Shards, Duration::ZERO).await? {
                Answer::Shards(shards) => Ok(shards),
                other => unexpected(&other),
            }
        })
    }

    fn health(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async move {
            match self.ask(Ask::Ping, Duration::ZERO).await? {
                Answer::Pong => Ok(()),
                other => unexpected(&other),
            }
        })
    }

    fn shutdown(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        Box::pin(async { Ok(()) })
    }
}

fn page(part: Part) -> Page {
    let incoming =
        |(position, Entry { id, stamp, raw })| Incoming { position, id: Some(id), stamp, raw: raw.into() };
    let events = part.events.into_iter().map(incoming).collect();
    Page { shard: part.shard, lost: part.lost, events, more: part.more }
}

/// A connection that writes, and its socket.
struct EngineLink {
    socket: Socket,
    connection: Connection,
}

impl EngineLink {
    /// Takes what came, says what is due. Answers an acknowledgement.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Option<u64>, AdapterError> {
        let mut acked = None;
        while let Poll::Ready(messages) = self.socket.poll_recv(cx) {
            let now = self.socket.runtime.now();
            for message in &messages {
                acked = self.connection.handle(now, message).max(acked);
            }
        }
        while self.socket.timer.poll(cx, self.connection.poll_timeout()).is_ready() {
            self.connection.handle_timeout(self.socket.runtime.now());
        }
        self.flush();
        match self.connection.over() {
            // What was acknowledged before the end counts.
            Some(_) if acked.is_some() => {
                cx.waker().wake_by_ref();
                Ok(acked)
            }
            Some(over) => {
                sometimes!("a link broke with events under way", self.connection.under_way() > 0);
                Err(match over {
                    Over::Reset => AdapterError::Connection("reset by the server".into()),
                    Over::Silent => AdapterError::Timeout("the server is silent".into()),
                })
            }
            None => Ok(acked),
        }
    }

    fn flush(&mut self) {
        while let Some(data) = self.connection.poll_transmit() {
            self.socket.send(&data);
        }
    }
}

impl Link for EngineLink {
    fn send(&mut self, batch: Batch) -> Result<(), AdapterError> {
        let last = batch.first + batch.events.len() as u64 - 1;
        let entry =
            |e: net_shell::bus::adapter::Outgoing| Entry { id: e.id, stamp: e.stamp, raw: e.raw.to_vec() };
        self.connection.send(self.socket.runtime.now(), last, batch.events.into_iter().map(entry).collect());
        self.flush();
        Ok(())
    }

    fn poll_ack(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ack, AdapterError>> {
        match self.turn(cx) {
            Ok(Some(upto)) => Poll::Ready(Ok(Ack { upto })),
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
