//! One connection: commands go out, answers come in order.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use net_shell::bus::adapter::AdapterError;
use net_shell::runtime::Runtime;

use crate::addr::Addr;
use crate::config::{Checked, Login};
use crate::error::answered;
use crate::resp::{Item, Scanner, Walk, command};
use crate::socket::{Socket, Sockets};
use crate::tls::Tls;

/// Bytes that are read at a time.
const READ: usize = 64 << 10;

pub(crate) struct Conn {
    socket: Box<dyn Socket>,
    /// Where it leads, for messages.
    to: Addr,
    input: BytesMut,
    scan: Scanner,
    output: BytesMut,
    scratch: Box<[u8]>,
}

/// An error with the address, which the error of a system leaves out.
fn broken(to: &Addr, error: &io::Error) -> AdapterError {
    if error.kind() == io::ErrorKind::InvalidData {
        return AdapterError::Denied(format!("{to}: TLS: {error}"));
    }
    AdapterError::Connection(format!("{to}: {error}"))
}

impl Conn {
    /// Connects and logs in, within the time for connections.
    pub(crate) async fn open(
        (sockets, runtime): (&Sockets, &Arc<dyn Runtime>),
        config: &Checked,
        to: &Addr,
        login: Option<&Login>,
        database: u16,
    ) -> Result<Self, AdapterError> {
        let opened = async {
            let socket = sockets.dial(runtime, to).await.map_err(|error| broken(to, &error))?;
            let socket: Box<dyn Socket> = match &config.tls {
                None => socket,
                Some(tls) => {
                    let mut tls = Tls::new(socket, tls.clone(), &to.host).map_err(AdapterError::Config)?;
                    poll_fn(|cx| tls.poll_handshake(cx)).await.map_err(|error| broken(to, &error))?;
                    Box::new(tls)
                }
            };
            let mut conn = Self {
                socket,
                to: to.clone(),
                input: BytesMut::new(),
                scan: Scanner::default(),
                output: BytesMut::new(),
                scratch: vec![0; READ].into(),
            };
            conn.log_in(login, database).await?;
            Ok(conn)
        };
        within(&**runtime, config.connect_timeout, &format!("{to}: connecting"), opened).await
    }

    async fn log_in(&mut self, login: Option<&Login>, database: u16) -> Result<(), AdapterError> {
        let mut needed = 0;
        if let Some(login) = login {
            let password = login.password.as_bytes();
            match &login.username {
                Some(name) => command(&mut self.output, &[b"AUTH", name.as_bytes(), password]),
                None => command(&mut self.output, &[b"AUTH", password]),
            }
            needed += 1;
        }
        if database != 0 {
            command(&mut self.output, &[b"SELECT", database.to_string().as_bytes()]);
            needed += 1;
        }
        // For people who look at the list of clients; that it may be forbidden is no harm.
        command(&mut self.output, &[b"CLIENT", b"SETNAME", b"net"]);
        for n in 0..=needed {
            let frame = poll_fn(|cx| self.poll_frame(cx)).await?;
            if let Item::Error(text) = Walk::new(&frame).item()?
                && n < needed
            {
                return Err(answered(text));
            }
        }
        Ok(())
    }

    /// Where it leads.
    pub(crate) const fn to(&self) -> &Addr {
        &self.to
    }

    /// What is to be sent; commands are written here.
    pub(crate) const fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Sends. Ready when everything is with the system.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AdapterError>> {
        while !self.output.is_empty() {
            let n = ready!(self.socket.poll_write(cx, &self.output)).map_err(|e| broken(&self.to, &e))?;
            self.output.advance(n);
        }
        self.socket.poll_flush(cx).map_err(|e| broken(&self.to, &e))
    }

    /// The next answer. Sends meanwhile.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, AdapterError>> {
        loop {
            if !self.input.is_empty()
                && let Some(end) = self.scan.find(&self.input)?
            {
                self.scan = Scanner::default();
                return Poll::Ready(Ok(self.input.split_to(end).freeze()));
            }
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            match ready!(self.socket.poll_read(cx, &mut self.scratch)) {
                Ok(0) => {
                    let closed = format!("{}: the server closed the connection", self.to);
                    return Poll::Ready(Err(AdapterError::Connection(closed)));
                }
                Ok(n) => self.input.extend_from_slice(&self.scratch[..n]),
                Err(error) => return Poll::Ready(Err(broken(&self.to, &error))),
            }
        }
    }

    /// So many answers, within this time.
    pub(crate) async fn frames(
        &mut self,
        runtime: &dyn Runtime,
        n: usize,
        limit: Duration,
    ) -> Result<Vec<Bytes>, AdapterError> {
        let what = format!("{}: an answer", self.to);
        let all = async {
            let mut frames = Vec::with_capacity(n);
            while frames.len() < n {
                frames.push(poll_fn(|cx| self.poll_frame(cx)).await?);
            }
            Ok(frames)
        };
        within(runtime, limit, &what, all).await
    }
}

/// A future with a limit in time.
pub(crate) async fn within<T>(
    runtime: &dyn Runtime,
    limit: Duration,
    what: &str,
    future: impl Future<Output = Result<T, AdapterError>>,
) -> Result<T, AdapterError> {
    let mut future = pin!(future);
    let (mut timer, at) = (runtime.timer(), runtime.now() + limit);
    poll_fn(|cx| {
        if let Poll::Ready(result) = future.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        timer
            .poll(cx, Some(at))
            .map(|()| Err(AdapterError::Timeout(format!("{what} took longer than {limit:?}"))))
    })
    .await
}

/// Waits.
pub(crate) async fn pause(runtime: &dyn Runtime, time: Duration) {
    let (mut timer, at) = (runtime.timer(), runtime.now() + time);
    poll_fn(|cx| timer.poll(cx, Some(at))).await;
}
