//! The one module that knows `quinn-udp` and `socket2`.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use net_proto::path::Ecn;
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::{MAX_SLOTS, SLOT, Slots};
use crate::runtime::{Batch, Slot, Transmit, UdpCaps, UdpOptions};

/// A bound, non-blocking UDP socket with GSO, GRO and ECN where the system has them.
#[derive(Debug)]
pub struct UdpSocket {
    io: std::net::UdpSocket,
    state: UdpSocketState,
    options: UdpOptions,
    local: SocketAddr,
    /// GSO failed at run time; remembered, because some drivers refuse every batch.
    gso_failed: AtomicBool,
    send_buffer: usize,
    recv_buffer: usize,
}

impl UdpSocket {
    /// Binds. An IPv6 socket takes IPv6 only, so that both families can share a port.
    pub fn bind(at: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let io = bind_std(at, options)?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let send_buffer = state.send_buffer_size(UdpSockRef::from(&io))?;
        let recv_buffer = state.recv_buffer_size(UdpSockRef::from(&io))?;
        let local = io.local_addr()?;
        tracing::debug!(%local, send_buffer, recv_buffer, gso = state.max_gso_segments(), "socket bound");
        let gso_failed = AtomicBool::new(false);
        Ok(Self { io, state, options: *options, local, gso_failed, send_buffer, recv_buffer })
    }

    /// The socket, to register for readiness. Reading or writing it directly loses batches.
    pub const fn std(&self) -> &std::net::UdpSocket {
        &self.io
    }

    /// Where it is bound.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What it can do now.
    pub fn caps(&self) -> UdpCaps {
        let gso = self.options.gso && !self.gso_failed.load(Ordering::Relaxed);
        UdpCaps {
            segments: if gso { self.state.max_gso_segments() } else { 1 },
            gro_segments: if self.options.gro { self.state.gro_segments() } else { 1 },
            ecn: self.options.ecn,
            may_fragment: self.state.may_fragment(),
            send_buffer: self.send_buffer,
            recv_buffer: self.recv_buffer,
        }
    }

    /// Sends one batch; errors as [`UdpTx::try_send`](crate::runtime::UdpTx::try_send) says.
    pub fn try_send(&self, t: &Transmit<'_>) -> io::Result<()> {
        let segment_size = t.segment.filter(|size| *size < t.data.len());
        if segment_size.is_some() && self.caps().segments < 2 {
            return Err(ErrorKind::Unsupported.into());
        }
        let ecn = if self.options.ecn { to_codepoint(t.ecn) } else { None };
        let batch =
            quinn_udp::Transmit { destination: t.to, ecn, contents: t.data, segment_size, src_ip: t.from };
        loop {
            match self.state.try_send(UdpSockRef::from(&self.io), &batch) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => return self.outcome(other, segment_size.is_some()),
            }
        }
    }

    /// What the system's answer to a send means for the caller; `batched`: it was a batch.
    pub(super) fn outcome(&self, answer: io::Result<()>, batched: bool) -> io::Result<()> {
        match answer {
            Ok(()) => Ok(()),
            // Some network cards refuse batches only when they meet one. A batch that is refused
            // for another reason costs no more than the batching.
            Err(e) if batched && matches!(e.raw_os_error(), Some(errno::EIO | errno::EINVAL)) => {
                if !self.gso_failed.swap(true, Ordering::Relaxed) {
                    tracing::info!(error = %e, local = %self.local, "no GSO on this socket; sending one by one");
                }
                Err(ErrorKind::Unsupported.into())
            }
            Err(e) if e.raw_os_error() == Some(errno::ENOBUFS) => Err(ErrorKind::ResourceBusy.into()),
            Err(e) => Err(e),
        }
    }

    /// Receives what is there; `WouldBlock` if nothing is.
    pub fn recv<'a>(&self, memory: &'a mut Slots) -> io::Result<Batch<'a>> {
        self.fill(memory)?;
        Ok(memory.batch())
    }

    /// [`UdpSocket::recv`] in two steps: [`Slots::batch`] lends what came.
    pub fn fill(&self, memory: &mut Slots) -> io::Result<()> {
        memory.filled = 0;
        memory.drained = false;
        let slots = memory.ready();
        let mut meta = [RecvMeta::default(); MAX_SLOTS];
        let count = slots.len().min(MAX_SLOTS);
        let got = {
            let mut buffers: [IoSliceMut<'_>; MAX_SLOTS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
            for (buffer, slot) in buffers.iter_mut().zip(slots.iter_mut()) {
                *buffer = IoSliceMut::new(&mut slot.buf);
            }
            loop {
                let io = UdpSockRef::from(&self.io);
                match self.state.recv(io, &mut buffers[..count], &mut meta[..count]) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    other => break other?,
                }
            }
        };
        if got == slots.len() && got < MAX_SLOTS {
            slots.push(Slot::new(SLOT));
        }
        for (slot, meta) in slots.iter_mut().zip(&meta[..got]) {
            slot.len = meta.len;
            slot.stride = meta.stride;
            slot.from = meta.addr;
            slot.to = meta.dst_ip;
            slot.ecn = if self.options.ecn { from_codepoint(meta.ecn) } else { Ecn::NotEct };
        }
        memory.filled = got;
        // `recvmmsg` stops early only where the socket is empty. Elsewhere one datagram comes at a time.
        memory.drained = cfg!(any(target_os = "linux", target_os = "android")) && got < count;
        Ok(())
    }
}

/// A plain socket of `std` that blocks, bound as [`Runtime::bind`](crate::runtime::Runtime::bind)
/// promises (an IPv6 socket takes IPv6 only; `options` give its buffers): for runtimes that receive
/// in threads of their own.
pub fn bind_std(at: SocketAddr, options: &UdpOptions) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The system caps both silently; what it granted is reported.
    let _ = socket.set_send_buffer_size(options.send_buffer);
    let _ = socket.set_recv_buffer_size(options.recv_buffer);
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// Error numbers that differ between systems and that `std` does not name.
mod errno {
    pub const EIO: i32 = 5;
    pub const EINVAL: i32 = 22;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub const ENOBUFS: i32 = 105;
    #[cfg(windows)]
    pub const ENOBUFS: i32 = 10055;
    #[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
    pub const ENOBUFS: i32 = 55;
}

const fn to_codepoint(ecn: Ecn) -> Option<EcnCodepoint> {
    match ecn {
        Ecn::NotEct => None,
        Ecn::Ect0 => Some(EcnCodepoint::Ect0),
        Ecn::Ect1 => Some(EcnCodepoint::Ect1),
        Ecn::Ce => Some(EcnCodepoint::Ce),
    }
}

const fn from_codepoint(ecn: Option<EcnCodepoint>) -> Ecn {
    match ecn {
        None => Ecn::NotEct,
        Some(EcnCodepoint::Ect0) => Ecn::Ect0,
        Some(EcnCodepoint::Ect1) => Ecn::Ect1,
        Some(EcnCodepoint::Ce) => Ecn::Ce,
    }
}
