//! Sockets: the only part that differs between runtimes.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::task::{Context, Poll};

use net_shell::runtime::Runtime;

use crate::addr::Addr;

/// A connected byte stream.
pub(crate) trait Socket: Send {
    /// 0 at its end.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>;
    /// Ready when nothing that was written waits in this process.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Whose sockets are used.
#[derive(Clone)]
pub(crate) enum Sockets {
    #[cfg(feature = "tokio")]
    Tokio(tokio::runtime::Handle),
    #[cfg(feature = "smol")]
    Smol,
}

impl Sockets {
    /// Those of the tokio runtime that is entered here; else those of async-io.
    pub(crate) fn detect() -> Option<Self> {
        #[cfg(feature = "tokio")]
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            return Some(Self::Tokio(handle));
        }
        #[cfg(feature = "smol")]
        return Some(Self::Smol);
        #[cfg(not(feature = "smol"))]
        None
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<Box<dyn Socket>> {
        match self {
            #[cfg(feature = "tokio")]
            Self::Tokio(handle) => {
                // Readers may be polled outside of the runtime; the socket needs it to register.
                let mut connect = std::pin::pin!(tokio::net::TcpStream::connect(to));
                let stream = std::future::poll_fn(|cx| {
                    let _entered = handle.enter();
                    connect.as_mut().poll(cx)
                })
                .await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            #[cfg(feature = "smol")]
            Self::Smol => {
                let stream = async_io::Async::<std::net::TcpStream>::connect(to).await?;
                stream.get_ref().set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            #[cfg(not(any(feature = "tokio", feature = "smol")))]
            _ => {
                _ = to;
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }

    /// Connects to the first address of a host that answers.
    pub(crate) async fn dial(&self, runtime: &Arc<dyn Runtime>, to: &Addr) -> io::Result<Box<dyn Socket>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for addr in resolve(runtime, to).await? {
            match self.connect(addr).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn resolve(runtime: &Arc<dyn Runtime>, to: &Addr) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = to.host.parse() {
        return Ok(vec![SocketAddr::new(ip, to.port)]);
    }
    let (answer, found) = async_channel::bounded(1);
    let to = to.clone();
    runtime.blocking(Box::new(move || {
        let all = (to.host.as_str(), to.port).to_socket_addrs().map(Iterator::collect);
        // Nobody waits any more.
        let _ = answer.try_send(all);
    }));
    found.recv().await.unwrap_or_else(|_| Err(io::Error::other("the runtime is gone")))
}

#[cfg(feature = "tokio")]
impl Socket for tokio::net::TcpStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            // Not through `AsyncRead`: its budget makes a task that has bytes wait for its turn.
            match self.try_read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.poll_read_ready(cx))?;
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.poll_write_ready(cx))?;
                }
                other => return Poll::Ready(other),
            }
        }
    }
}

#[cfg(feature = "smol")]
impl Socket for async_io::Async<std::net::TcpStream> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match io::Read::read(&mut self.get_ref(), buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.poll_readable(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match io::Write::write(&mut self.get_ref(), buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.poll_writable(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Poll::Ready(other),
            }
        }
    }
}
