//! TLS over a socket. rustls does no input or output of its own; this moves its bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ClientConnection;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::socket::Socket;

/// What TLS trusts and shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsConfig {
    /// Certificates in PEM; `None`: what the system trusts.
    pub(crate) roots: Option<Vec<u8>>,
    /// Certificates and key of this client, in PEM.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Certificates and what else a connection needs, read once.
pub(crate) fn config(from: &TlsConfig) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    match &from.roots {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|why| format!("certificates of authorities: {why}"))?;
                roots.add(certificate).map_err(|why| format!("certificates of authorities: {why}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("no certificate of an authority is there to trust".into());
    }
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|why| why.to_string())?
            .with_root_certificates(roots);
    let config = match &from.identity {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let bad = |why: &dyn std::fmt::Display| format!("this client's certificate: {why}");
            let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|why| bad(&why))?;
            builder.with_client_auth_cert(chain.map_err(|why| bad(&why))?, key).map_err(|why| bad(&why))?
        }
    };
    Ok(Arc::new(config))
}

/// A socket whose bytes are encrypted.
pub(crate) struct Tls {
    socket: Box<dyn Socket>,
    tls: ClientConnection,
}

/// The socket for one poll, as rustls wants it.
struct Io<'a, 'b> {
    socket: &'a mut dyn Socket,
    cx: &'a mut Context<'b>,
}

fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Io<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        now(self.socket.poll_read(self.cx, buf))
    }
}

impl Write for Io<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        now(self.socket.poll_write(self.cx, buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pending<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        other => Poll::Ready(other),
    }
}

impl Tls {
    pub(crate) fn new(
        socket: Box<dyn Socket>,
        config: Arc<rustls::ClientConfig>,
        host: &str,
    ) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|why| format!("{host}: {why}"))?;
        let tls = ClientConnection::new(config, name).map_err(|why| why.to_string())?;
        Ok(Self { socket, tls })
    }

    /// Ready when both sides know each other.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.is_handshaking() {
            let written = self.poll_out(cx)?;
            match ready!(self.poll_in(cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                _ => _ = written,
            }
        }
        self.poll_out(cx)
    }

    /// Sends what rustls has to send.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            let mut io = Io { socket: &mut *self.socket, cx };
            if ready!(pending(self.tls.write_tls(&mut io)))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives rustls what came; 0 at the end.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut io = Io { socket: &mut *self.socket, cx };
        let n = ready!(pending(self.tls.read_tls(&mut io)))?;
        let state = self.tls.process_new_packets();
        if let Err(why) = state {
            // The alert that says so to the server.
            let _ = self.poll_out(cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        Poll::Ready(Ok(n))
    }
}

impl Socket for Tls {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.tls.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
            // New keys may have to be answered.
            if let Poll::Ready(Err(error)) = self.poll_out(cx) {
                return Poll::Ready(Err(error));
            }
            if ready!(self.poll_in(cx))? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let n = self.tls.writer().write(buf)?;
            if n > 0 || buf.is_empty() {
                // The rest goes with the flush.
                let out = self.poll_out(cx);
                return if let Poll::Ready(Err(error)) = out {
                    Poll::Ready(Err(error))
                } else {
                    Poll::Ready(Ok(n))
                };
            }
            ready!(self.poll_out(cx))?;
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_out(cx)
    }
}
