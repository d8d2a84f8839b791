//! How a mesh is configured and started.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use net_proto::bus::mesh::BusPlane;
use net_proto::entropy::Entropy;
use net_proto::identity::{
    EntityId, Identity, Incarnation, Invite, MAX_TICKET_ADDRS, Mesh as MeshSecret, MeshId, MeshKey, Ticket,
};
use net_proto::lane::{NoPlanes, Plane};
use net_proto::node::{Config, Host, Node};
use net_proto::storage::Storage;
use net_proto::time::nanos;
use net_shell::aead::Native;
use net_shell::driver::{self, Settings};
use net_shell::hub::Planes;
use net_shell::keys::Exporting;
use net_shell::qlog::Qlog;
use net_shell::runtime::{Runtime, UdpOptions};
use net_shell::storage::state::Files;
use net_shell::trace::{Header, PlaneStart, Recorder};

use crate::mesh::Inner;
use crate::{Error, Mesh, Result, rt};

/// Decides whether a proven identity may connect.
pub type AcceptPolicy = Arc<dyn Fn(EntityId) -> bool + Send + Sync>;

type Tweak = Box<dyn FnOnce(&mut Config) + Send>;

/// Configures a node of a mesh; [`MeshBuilder::start`] brings it up.
#[must_use]
#[derive(Default)]
pub struct MeshBuilder {
    addrs: Vec<SocketAddr>,
    seed: Option<[u8; 32]>,
    dir: Option<PathBuf>,
    mesh: Option<MeshSecret>,
    contact: Option<Ticket>,
    runtime: Option<Arc<dyn Runtime>>,
    advertise: Vec<SocketAddr>,
    udp: UdpOptions,
    tweaks: Vec<Tweak>,
    record: Option<PathBuf>,
    event_bus: bool,
    qlog: Option<PathBuf>,
    keys: Option<PathBuf>,
    /// The first mistake; told by `start`, so that calls chain.
    mistake: Option<Error>,
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder").field("addrs", &self.addrs).finish_non_exhaustive()
    }
}

impl MeshBuilder {
    /// Binds these addresses too: `ip:port` text, a [`SocketAddr`], or several. Port 0 lets the
    /// system choose. Without a call: any IPv4 address, and any IPv6 address if the system has it.
    pub fn bind(mut self, addrs: impl IntoAddrs) -> Self {
        match addrs.into_addrs() {
            Ok(addrs) => self.addrs.extend(addrs),
            Err(mistake) => _ = self.mistake.get_or_insert(mistake),
        }
        self
    }

    /// Who this node is. Without it: what the state directory holds, else a fresh identity.
    pub fn identity(self, identity: Identity) -> Self {
        self.seed(identity.seed())
    }

    /// The same by its 32-byte seed.
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Keeps identity, mesh and boot epoch in this directory (mode 0700, files 0600). One node at a
    /// time; a second one fails to start.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Joins the mesh of an invite and dials its sender in the background.
    pub fn join(mut self, invite: &Invite) -> Self {
        self.mesh = Some(invite.mesh.clone());
        self.contact = Some(invite.ticket.clone());
        self
    }

    /// Joins a mesh by its id and key. Without this, an invite, or a mesh in the state directory,
    /// the node founds a new mesh with a fresh random key.
    pub fn mesh(mut self, mesh: MeshSecret) -> Self {
        self.mesh = Some(mesh);
        self
    }

    /// Runs on this runtime. Without it: the one that [`MeshBuilder::start`] is called in, or smol
    /// if that feature is on and nothing else is running.
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// An address at which others reach this node, for tickets: behind a NAT, or to choose among
    /// several. Without it, tickets name the bound addresses.
    pub fn advertise(mut self, addr: SocketAddr) -> Self {
        self.advertise.push(addr);
        self
    }

    /// What a stream may have queued beyond what was delivered, in bytes; 1 MiB without it.
    pub fn send_buffer(self, bytes: u64) -> Self {
        self.config(move |c| c.session.streams.send_buffer = bytes)
    }

    /// First receive window of a stream, in bytes.
    pub fn stream_window(self, bytes: u64) -> Self {
        self.config(move |c| {
            c.session.streams.local.stream_window = bytes;
            c.session.streams.max_stream_window = c.session.streams.max_stream_window.max(bytes);
        })
    }

    /// First receive window of an association, in bytes.
    pub fn window(self, bytes: u64) -> Self {
        self.config(move |c| {
            c.session.streams.local.session_window = bytes;
            c.session.streams.max_session_window = c.session.streams.max_session_window.max(bytes);
        })
    }

    /// Whether to set and read ECN bits; on without it.
    pub fn ecn(mut self, on: bool) -> Self {
        self.udp.ecn = on;
        self.config(move |c| c.session.paths.ecn = on)
    }

    /// Whether to send several datagrams with one system call where the system can; on without it.
    pub fn gso(mut self, on: bool) -> Self {
        self.udp.gso = on;
        self
    }

    /// Largest datagram to try, in bytes.
    pub fn max_datagram(self, bytes: u16) -> Self {
        self.config(move |c| c.session.paths.max_size = bytes)
    }

    /// Whether others may connect; on without it.
    pub fn accept(self, on: bool) -> Self {
        if on { self.config(|c| c.accept = None) } else { self.accept_if(|_| false) }
    }

    /// Who may connect. Called in the driver's task once the identity is proven: it must not block.
    /// A panic counts as no.
    pub fn accept_if(self, policy: impl Fn(EntityId) -> bool + Send + Sync + 'static) -> Self {
        let policy: AcceptPolicy = Arc::new(policy);
        self.config(move |c| {
            c.accept = Some(Arc::new(move |id: &EntityId| {
                let call = std::panic::AssertUnwindSafe(|| policy(*id));
                std::panic::catch_unwind(call).unwrap_or(false)
            }));
        })
    }

    /// Changes the node's settings directly, after the other methods' values.
    pub fn config(mut self, tweak: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.tweaks.push(Box::new(tweak));
        self
    }

    /// Records every step of the node to a new file, for `net replay` and [`net_shell::trace`]. For
    /// finding faults: it writes in the driver's task and slows it, and grows with all that arrives.
    ///
    /// **The file holds every secret of the node**, its identity, mesh keys and messages; its mode is
    /// 0600. A file that exists is not overwritten: [`Error::Observe`].
    pub fn record(mut self, path: impl Into<PathBuf>) -> Self {
        self.record = Some(path.into());
        self
    }

    /// Starts the node with the plane of the event bus: it can keep events for others
    /// ([`Mesh::host_events`]) and use theirs ([`NetBuilder::mesh`](crate::net::NetBuilder::mesh)). Not together
    /// with [`MeshBuilder::start_with`], where `net_proto::bus::mesh::BusPlane` is one of your planes.
    pub const fn event_bus(mut self) -> Self {
        self.event_bus = true;
        self
    }

    /// Writes what the node does to a new file, as qlog, for tools that draw connections
    /// (`docs/OBSERVABILITY.md`). It writes in the driver's task and slows it, about a hundred bytes a packet.
    /// No keys and no messages are in it, but addresses, identities, labels and sizes: its mode is 0600. A
    /// file that exists is not overwritten: [`Error::Observe`].
    pub fn qlog(mut self, path: impl Into<PathBuf>) -> Self {
        self.qlog = Some(path.into());
        self
    }

    /// Writes the key of every packet to a new file, so that a capture can be decrypted.
    ///
    /// **This ends the secrecy of everything that the node says and hears**, towards whoever gets the file
    /// and a capture, now or later: forward secrecy is void. For finding faults, on nodes without real
    /// secrets. It is never on unless this is called, and a warning is logged at the start. The file's mode
    /// is 0600; one that exists is not overwritten: [`Error::Observe`]. The form is in [`net_shell::keys`].
    pub fn export_keys(mut self, path: impl Into<PathBuf>) -> Self {
        self.keys = Some(path.into());
        self
    }

    /// Starts the node.
    ///
    /// `Ok`: the sockets are bound, the state directory is locked and its boot epoch durable. It
    /// does not say that any peer was reached. Dropped half-way, nothing runs; an epoch may be used
    /// up, which does no harm.
    pub async fn start(self) -> Result<Mesh> {
        if self.event_bus {
            let plane = |start: PlaneStart| BusPlane::new(start.identity.id(), start.incarnation.epoch);
            return Ok(self.launch(plane, |ports| Some(ports.clone())).await?.0);
        }
        Ok(self.start_with(|_| NoPlanes).await?.0)
    }

    /// Starts the node with planes: one machine, or several composed by `net_proto::planes!`. They run in
    /// the driver's task. The ports that come with the mesh are how the application reaches them; they do
    /// not keep the mesh alive.
    ///
    /// `Ok` as in [`MeshBuilder::start`]. Planes that store need [`MeshBuilder::dir`].
    pub async fn start_with<P>(self, planes: impl FnOnce(PlaneStart) -> P) -> Result<(Mesh, Arc<Planes<P>>)>
    where
        P: Plane<Cmd: Send, Event: Send> + Send + 'static,
    {
        if self.event_bus {
            return Err(Error::Config("`event_bus` is for `start`; `start_with` names its planes".into()));
        }
        self.launch(planes, |_| None).await
    }

    /// `bus`: the ports of the event bus, if they are among these.
    async fn launch<P>(
        mut self,
        planes: impl FnOnce(PlaneStart) -> P,
        bus: impl FnOnce(&Arc<Planes<P>>) -> Option<Arc<Planes<BusPlane>>>,
    ) -> Result<(Mesh, Arc<Planes<P>>)>
    where
        P: Plane<Cmd: Send, Event: Send> + Send + 'static,
    {
        if let Some(mistake) = self.mistake.take() {
            return Err(mistake);
        }
        let runtime = self.runtime.take().or_else(rt::current).ok_or(Error::NoRuntime)?;
        let entropy = runtime.entropy();
        let mut fresh = Entropy::new(&entropy, "sdk start");
        let wall = runtime.wall();
        let floor = nanos(wall.unix) / 1000;
        let (storage, seed, mesh, incarnation) = match self.dir.take() {
            Some(dir) => {
                let mut storage = runtime
                    .storage(&dir)
                    .map_err(|e| Error::State(format!("cannot open {}: {e}", dir.display())))?;
                let (seed, mesh, incarnation) =
                    restore(&mut *storage, self.seed, self.mesh.take(), floor, &mut fresh).await?;
                (Some(storage), seed, mesh, incarnation)
            }
            None => {
                let seed = self.seed.unwrap_or_else(|| fresh.array());
                let mesh = self.mesh.take().unwrap_or_else(|| found(&mut fresh));
                (None, seed, mesh, Incarnation { epoch: floor, random: fresh.u64() })
            }
        };
        let identity = Identity::from_seed(&seed);
        let entity = identity.id();

        let mut config = Config::new(identity, mesh.clone(), incarnation);
        config.ciphers = Arc::new(Native::new());
        for tweak in std::mem::take(&mut self.tweaks) {
            tweak(&mut config);
        }
        config.session.streams = config.session.streams.checked();
        let (node_seed, at) = (fresh.array(), runtime.now());
        let header = Header::new::<P>(node_seed, at, &config);
        let sockets = self.bind_all(&*runtime)?;
        // After what may fail: a file of a node that never was would be in the way.
        let recorder = match self.record.take() {
            None => None,
            Some(path) => {
                let mut recorder =
                    Recorder::create(&path, &header).map_err(|source| Error::Observe { path, source })?;
                recorder.watch_policy(&mut config);
                Some(recorder)
            }
        };
        let qlog = match self.qlog.take() {
            None => None,
            Some(path) => Some(
                Qlog::create(&path, entity, at, wall.unix)
                    .map_err(|source| Error::Observe { path, source })?,
            ),
        };
        if let Some(path) = self.keys.take() {
            let exporting = Exporting::create(&path, config.ciphers.clone())
                .map_err(|source| Error::Observe { path, source })?;
            config.ciphers = Arc::new(exporting);
        }
        let settings = Settings {
            stream_window: config.session.streams.local.stream_window,
            session_window: config.session.streams.local.session_window,
            send_buffer: config.session.streams.send_buffer,
            storage,
            recorder,
            qlog,
        };
        let node = Node::new(config, node_seed, at).map_err(|e| Error::Config(e.to_string()))?;
        let bound: Vec<SocketAddr> = sockets.iter().map(|(tx, _)| tx.local_addr()).collect();
        let addrs = if self.advertise.is_empty() { reachable(&bound) } else { self.advertise.clone() };
        let mut addrs = addrs;
        addrs.truncate(MAX_TICKET_ADDRS);

        let host = Host::new(node, planes(header.planes()));
        let (hub, ports) = driver::start(&runtime, host, sockets, settings);
        let ticket = Ticket { entity, addrs };
        let bus = bus(&ports);
        let inner = Inner { hub, runtime: runtime.clone(), bound, ticket, secret: mesh, bus };
        let mesh = Mesh { inner: Arc::new(inner) };
        if let Some(contact) = self.contact.take().filter(|contact| contact.entity != entity) {
            let hub = mesh.inner.clone();
            // The sender of the invite may be down; the mesh is up all the same.
            runtime.spawn(
                "net join",
                Box::pin(async move {
                    if let Err(error) = hub.dial(contact).await {
                        tracing::info!(%error, "the sender of the invite was not reached");
                    }
                }),
            );
        }
        Ok((mesh, ports))
    }

    fn bind_all(&self, runtime: &dyn Runtime) -> Result<Vec<net_shell::runtime::Bound>> {
        let bind = |addr| runtime.bind(addr, &self.udp).map_err(|source| Error::Bind { addr, source });
        if self.addrs.is_empty() {
            let mut sockets = vec![bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?];
            // Not every system has IPv6.
            sockets.extend(bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).ok());
            return Ok(sockets);
        }
        if self.addrs.len() > usize::from(u8::MAX) {
            return Err(Error::Config(format!("{} addresses to bind, at most 255", self.addrs.len())));
        }
        self.addrs.iter().copied().map(bind).collect()
    }
}

fn found(fresh: &mut Entropy) -> MeshSecret {
    MeshSecret { id: MeshId(fresh.array()), key: MeshKey(fresh.array()) }
}

/// Reads the state directory, and writes what it lacks.
async fn restore(
    storage: &mut dyn Storage,
    seed: Option<[u8; 32]>,
    mesh: Option<MeshSecret>,
    floor: u64,
    fresh: &mut Entropy,
) -> Result<([u8; 32], MeshSecret, Incarnation)> {
    let mut files = Files::new(storage);
    // First: it locks the directory.
    let incarnation = files.boot(floor, fresh.u64()).await?;
    let damaged = |name: &str| Error::State(format!("file `{name}` is damaged; it is left untouched"));
    let seed = match files.load("identity").await? {
        Some(held) => {
            let held: [u8; 32] = held.try_into().map_err(|_| damaged("identity"))?;
            if seed.is_some_and(|seed| seed != held) {
                return Err(Error::State("the directory belongs to another identity".into()));
            }
            held
        }
        None => {
            let seed = seed.unwrap_or_else(|| fresh.array());
            files.save("identity", &seed).await?;
            seed
        }
    };
    let held = match files.load("mesh").await? {
        Some(held) => {
            let held: [u8; 64] = held.try_into().map_err(|_| damaged("mesh"))?;
            let (mut id, mut key) = ([0; 32], [0; 32]);
            id.copy_from_slice(&held[..32]);
            key.copy_from_slice(&held[32..]);
            Some(MeshSecret { id: MeshId(id), key: MeshKey(key) })
        }
        None => None,
    };
    let mesh = match (mesh, held) {
        (None, Some(held)) => held,
        (Some(mesh), Some(held)) if mesh == held => held,
        // Joining another mesh is a decision; it is remembered.
        (mesh, _) => {
            let mesh = mesh.unwrap_or_else(|| found(fresh));
            files.save("mesh", &[mesh.id.0, mesh.key.0].concat()).await?;
            mesh
        }
    };
    Ok((seed, mesh, incarnation))
}

/// Addresses that others may reach. "Any" is replaced by the address that the system would send
/// from, or by the loopback address if it has no route at all.
fn reachable(bound: &[SocketAddr]) -> Vec<SocketAddr> {
    let addrs = bound.iter().filter_map(|addr| {
        if !addr.ip().is_unspecified() {
            return Some(*addr);
        }
        // Connecting a UDP socket sends nothing; it asks the routing table. The addresses are those
        // reserved for documentation (RFC 5737, RFC 3849).
        let (from, to): (SocketAddr, SocketAddr) = match addr {
            SocketAddr::V4(_) => (([0; 4], 0).into(), ([192, 0, 2, 1], 9).into()),
            SocketAddr::V6(_) => (
                (Ipv6Addr::UNSPECIFIED, 0).into(),
                (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
            ),
        };
        let probe = || {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.local_addr()
        };
        match (probe(), addr) {
            (Ok(local), _) if !local.ip().is_unspecified() => Some(SocketAddr::new(local.ip(), addr.port())),
            (_, SocketAddr::V4(_)) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), addr.port())),
            // Without an IPv6 route the IPv4 address is enough.
            _ if bound.len() > 1 => None,
            _ => Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), addr.port())),
        }
    });
    let mut out: Vec<SocketAddr> = Vec::new();
    addrs.for_each(|addr| {
        if !out.contains(&addr) {
            out.push(addr)
        }
    });
    out
}

/// What [`MeshBuilder::bind`] takes.
pub trait IntoAddrs {
    /// The addresses, or why not.
    fn into_addrs(self) -> Result<Vec<SocketAddr>>;
}

impl IntoAddrs for SocketAddr {
    fn into_addrs(self) -> Result<Vec<SocketAddr>> {
        Ok(vec![self])
    }
}

impl IntoAddrs for &str {
    fn into_addrs(self) -> Result<Vec<SocketAddr>> {
        self.parse().map(|addr| vec![addr]).map_err(|_| Error::BadAddress(self.into()))
    }
}

impl IntoAddrs for &String {
    fn into_addrs(self) -> Result<Vec<SocketAddr>> {
        self.as_str().into_addrs()
    }
}

impl IntoAddrs for &[SocketAddr] {
    fn into_addrs(self) -> Result<Vec<SocketAddr>> {
        Ok(self.to_vec())
    }
}

impl IntoAddrs for Vec<SocketAddr> {
    fn into_addrs(self) -> Result<Vec<SocketAddr>> {
        Ok(self)
    }
}

/// What [`Mesh::connect`] takes: a ticket, an invite, or the text of a ticket.
pub trait IntoTicket {
    /// The ticket, or why not.
    fn into_ticket(self) -> Result<Ticket>;
}

impl IntoTicket for Ticket {
    fn into_ticket(self) -> Result<Ticket> {
        Ok(self)
    }
}

impl IntoTicket for &Ticket {
    fn into_ticket(self) -> Result<Ticket> {
        Ok(self.clone())
    }
}

impl IntoTicket for &Invite {
    fn into_ticket(self) -> Result<Ticket> {
        Ok(self.ticket.clone())
    }
}

impl IntoTicket for &str {
    fn into_ticket(self) -> Result<Ticket> {
        Ok(self.parse()?)
    }
}

impl IntoTicket for &String {
    fn into_ticket(self) -> Result<Ticket> {
        self.as_str().into_ticket()
    }
}
