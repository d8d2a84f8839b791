//! Making a world: nodes, machines, links, attackers, what happens when.

use super::*;

impl World {
    /// Adds a node with an application; it starts at once.
    pub fn spawn(&mut self, app: impl App) -> u32 {
        self.add(Some(Box::new(app)))
    }

    /// Adds a node without an application: the test takes its events and gives its commands.
    pub fn spawn_bare(&mut self) -> u32 {
        self.add(None)
    }

    /// Adds a machine without a node: tasks that are spawned on its runtime use the world's clock and
    /// links. This is where the SDK and asynchronous applications run.
    pub fn host(&mut self) -> u32 {
        self.tasks = true;
        let place = self.add_place(false);
        let p = &mut self.places[place as usize];
        (p.plain, p.machine) = (false, true);
        self.exec.set_clock(place, p.clock);
        // Its sockets have addresses, the machine alone has none.
        self.owners.remove(&default_addr(place));
        place
    }

    /// The runtime of a machine.
    pub fn runtime(&self, host: u32) -> Arc<dyn Runtime> {
        let p = &self.places[host as usize];
        let exec = self.exec.clone();
        Arc::new(HostRuntime { exec, host, ip: p.addr.ip() })
    }

    /// Adds a machine and starts a task on it that gets its runtime.
    pub fn spawn_task<F>(&mut self, task: impl FnOnce(Arc<dyn Runtime>) -> F) -> u32
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let host = self.host();
        self.start_task(host, task);
        host
    }

    /// Starts a further task on a machine.
    pub fn start_task<F>(&mut self, host: u32, task: impl FnOnce(Arc<dyn Runtime>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = self.runtime(host);
        self.places[host as usize].powered = true;
        self.exec.spawn(host, "application", Box::pin(task(runtime)));
        self.push(self.now, host, Kind::Tasks);
    }

    /// Stops a machine as a power cut does: its tasks, sockets and unsynced writes are gone.
    pub fn crash_host(&mut self, host: u32) {
        self.places[host as usize].chain.numbers(&[self.now, 0xdead]);
        self.places[host as usize].powered = false;
        for node in self.exec.crash(host) {
            self.watch.see(self.now(), &Seen::Stopped { node });
        }
        self.owners.retain(|_, owner| *owner != Owner::Host(host));
    }

    /// Lets all ready tasks run and takes out what they did. `turn`: only this machine may be called now.
    pub(super) fn run_tasks(&mut self, turn: Option<u32>) {
        let mut ran = std::mem::take(&mut self.ran);
        let stage = Stage {
            watch: std::mem::replace(&mut self.watch, Watch::new(None)),
            now: self.now,
            seed: self.seed(),
            invariants_every: self.config.invariants_every,
        };
        self.watch = stage::play(stage, || self.exec.run(self.now, turn, &mut ran));
        for (host, number) in ran.polled.drain(..) {
            self.places[host as usize].chain.numbers(&[self.now, 8, number]);
        }
        for (addr, host) in ran.bound.drain(..) {
            match host {
                Some(host) => self.owners.insert(addr, Owner::Host(host)),
                None => self.owners.remove(&addr),
            };
        }
        for (node, addr) in ran.paths.drain(..) {
            self.refuse_attackers(node, addr);
        }
        for Outgoing { place, node, from, to, ecn, data, segment } in ran.outbox.drain(..) {
            self.stats.batches += 1;
            let chain = &mut self.places[place as usize].chain;
            chain.numbers(&[self.now, 7]);
            chain.bytes(&data);
            let from = self.machine_source(place, from, to);
            for (datagram, id) in data.chunks(segment).zip(self.stats.datagrams + 1..) {
                if let Some(node) = node {
                    let sent = Seen::Sent { node, id, src: from, dst: to, ecn, data: datagram };
                    self.watch.see(Duration::from_nanos(self.now), &sent);
                }
            }
            if segment >= data.len() {
                self.depart(place, from, to, data, ecn);
                continue;
            }
            for datagram in data.chunks(segment) {
                let datagram = self.buffer(datagram);
                self.depart(place, from, to, datagram, ecn);
            }
            self.exec.recycle(data);
        }
        for (host, at) in ran.calls.drain(..) {
            self.push(at.max(self.now + 1), host, Kind::Tasks);
        }
        self.ran = ran;
    }

    pub(super) fn add(&mut self, app: Option<Box<dyn App>>) -> u32 {
        let place = self.add_place(app.is_none());
        self.boot(place, app);
        place
    }

    pub(super) fn add_place(&mut self, bare: bool) -> u32 {
        let place = self.places.len() as u32;
        assert!(place < MOST_PLACES, "a world has at most {MOST_PLACES} places");
        let addr = default_addr(place);
        self.owners.insert(addr, Owner::Node(place));
        let identity = Identity::from_seed(&bytes32(self.seed(), Domain::Identity, u64::from(place), 0));
        self.places.push(Place {
            node: None,
            bare,
            app: None,
            events: Vec::new(),
            identity,
            life: 0,
            addr,
            public: None,
            also: Vec::new(),
            nat: None,
            clock: Clock::new(
                CLOCK_START + below(draw(self.seed(), Domain::Clock, u64::from(place), 0), 1 << 40),
            ),
            dials: 0,
            armed: None,
            app_timer: None,
            steps: 0,
            jobs: 0,
            chain: Chain::new(u64::from(place)),
            causes: 0,
            packets: 0,
            plain: true,
            machine: false,
            powered: false,
        });
        place
    }

    pub(super) fn boot(&mut self, place: u32, app: Option<Box<dyn App>>) {
        let seed = self.seed();
        let p = &mut self.places[place as usize];
        p.life += 1;
        let life = u64::from(p.life);
        let key = u64::from(place);
        let mesh = Mesh {
            id: MeshId(bytes32(seed, Domain::Mesh, 0, 0)),
            key: MeshKey(bytes32(seed, Domain::Mesh, 0, 1)),
        };
        let random = draw(seed, Domain::Incarnation, key, life);
        let mut config = Config::new(p.identity.clone(), mesh, Incarnation { epoch: life, random });
        config.ciphers = if self.config.real_ciphers { Arc::new(Portable) } else { Arc::new(Null) };
        (self.config.tune)(place, &mut config);
        let now = Instant::from_nanos(p.local(self.now));
        match Node::new(config, bytes32(seed, Domain::NodeSeed, key, life), now) {
            Ok(node) => p.node = Some(node),
            Err(error) => return self.fail(Some(place), format!("the node cannot start: {error}")),
        }
        p.app = app;
        p.dials = 0;
        let (life, entity) = (p.life, p.identity.id());
        self.watch.see(self.now(), &Seen::Started { node: place, life, entity });
        self.push(self.now, place, Kind::Start(life));
    }

    /// Stops a node as a power cut does: nothing is said, everything in memory is gone.
    pub fn crash(&mut self, place: u32) {
        let p = &mut self.places[place as usize];
        p.chain.numbers(&[self.now, 0xdead]);
        p.node = None;
        p.app = None;
        p.armed = None;
        p.app_timer = None;
        p.events.clear();
        p.life += 1;
        self.watch.see(self.now(), &Seen::Stopped { node: place });
    }

    /// Starts a node again: the same identity, a new incarnation, the same address.
    pub fn restart(&mut self, place: u32, app: impl App) {
        self.crash(place);
        self.boot(place, Some(Box::new(app)));
    }

    /// Starts a bare node again.
    pub fn restart_bare(&mut self, place: u32) {
        self.crash(place);
        self.boot(place, None);
    }

    /// Sets how fast a node's clock runs from now on, in parts per million off.
    pub fn drift(&mut self, place: u32, ppm: i32) {
        self.change_clock(place, |clock, now| clock.set_drift(now, ppm));
    }

    /// The way from one node to another, if there is one yet.
    pub(super) fn known_way(&self, from: u32, to: u32) -> Option<Way> {
        let ways = self.ways.get(from as usize)?;
        let place = ways.binary_search_by_key(&to, |(to, _)| *to).ok()?;
        Some(ways[place].1)
    }

    pub(super) fn way(&mut self, from: u32, to: u32) -> Way {
        if let Some(way) = self.known_way(from, to) {
            return way;
        }
        let way = Way::Link(self.links.len() as u32);
        let key = u64::from(from) << 32 | u64::from(to);
        self.links.push(Link::new(key, self.usual.clone()));
        if self.ways.len() <= from as usize {
            self.ways.resize_with(from as usize + 1, Vec::new);
        }
        let ways = &mut self.ways[from as usize];
        let place = ways.partition_point(|(other, _)| *other < to);
        ways.insert(place, (to, way));
        if self.faults.on_links() {
            self.refresh_link(from, to);
        }
        way
    }

    /// The number of a link on a way, counted from 0.
    pub(super) fn link_of(&self, way: Way, hop: u32) -> Option<usize> {
        match way {
            Way::Link(link) => (hop == 0).then_some(link as usize),
            Way::Long(long) => self.long[long as usize].get(hop as usize).copied(),
            Way::None => None,
        }
    }

    /// The link that datagrams from one node to another pass (the first, if there are several).
    ///
    /// # Panics
    ///
    /// If [`World::set_route`] left no link between them.
    pub fn link(&mut self, from: u32, to: u32) -> &mut Link {
        let way = self.way(from, to);
        let link = self.link_of(way, 0).expect("a way has a link");
        self.link_by_number(link)
    }

    /// Sets both directions between two nodes.
    pub fn set_links(&mut self, a: u32, b: u32, config: &LinkConfig) {
        let config = Shared::from(config.clone());
        self.link(a, b).config = config.clone();
        self.link(b, a).config = config;
    }

    /// Makes a link that several pairs can share. `key` must be unique among shared links.
    pub fn shared_link(&mut self, key: u32, config: LinkConfig) -> usize {
        self.by_node = false;
        self.links.push(Link::new(u64::from(key) | 1 << 63, config));
        self.links.len() - 1
    }

    /// Sends datagrams from one node to another through these links, in order.
    pub fn set_route(&mut self, from: u32, to: u32, links: &[usize]) {
        self.by_node = false;
        let _ = self.way(from, to);
        let way = Way::Long(self.long.len() as u32);
        self.long.push(links.to_vec());
        let ways = self.ways[from as usize].iter_mut();
        ways.filter(|(other, _)| *other == to).for_each(|(_, known)| *known = way);
    }

    /// A link by the number that [`World::shared_link`] gave.
    pub fn link_by_number(&mut self, link: usize) -> &mut Link {
        // Whoever asks may change it.
        self.fastest = None;
        &mut self.links[link]
    }

    /// Cuts or mends both directions between two sets of nodes.
    pub fn partition(&mut self, left: &[u32], right: &[u32], cut: bool) {
        for a in left {
            for b in right {
                self.link(*a, *b).config.cut = cut;
                self.link(*b, *a).config.cut = cut;
            }
        }
    }

    /// Gives a node another address; what is on the way to the old one arrives nowhere. A machine with tasks
    /// notices nothing: the others see its port 7000 at `addr`, its other ports as far from there.
    pub fn roam(&mut self, place: u32, addr: SocketAddr) {
        self.by_node = false;
        let p = &mut self.places[place as usize];
        if p.machine {
            return self.see_machine_at(place, addr);
        }
        p.plain = false;
        let visible = p.public.unwrap_or(p.addr);
        self.owners.remove(&visible);
        p.public = None;
        p.addr = addr;
        self.owners.insert(addr, Owner::Node(place));
    }

    /// Puts a node behind an address translation, or changes the address that it is seen under
    /// (a rebinding). The node itself notices nothing.
    pub fn rebind(&mut self, place: u32, public: SocketAddr) {
        self.by_node = false;
        let p = &mut self.places[place as usize];
        if p.machine {
            return self.see_machine_at(place, public);
        }
        p.plain = false;
        let visible = p.public.unwrap_or(p.addr);
        self.owners.remove(&visible);
        p.public = Some(public);
        self.owners.insert(public, Owner::Node(place));
    }

    fn see_machine_at(&mut self, place: u32, addr: SocketAddr) {
        if let Some(nat) = self.places[place as usize].nat {
            // It moves behind its translation: the others see it at another port.
            return self.nats[nat].rebind();
        }
        self.machine_seen_at.retain(|_, of| *of != place);
        self.machine_seen_at.insert(addr.ip(), place);
        self.places[place as usize].public = Some(addr);
    }

    /// An attacker beside the path of two nodes: it copies every datagram between them and sends the
    /// copy from `addr` so that it arrives `lead` before the original. What is sent to it is passed on
    /// to the other side if `relay` is set, otherwise swallowed.
    pub fn copier(&mut self, a: u32, b: u32, addr: SocketAddr, lead: Duration, relay: bool) -> usize {
        self.by_node = false;
        self.owners.insert(addr, Owner::Copier(self.copiers.len()));
        self.copiers.push(Copier {
            between: (a, b),
            addr,
            lead: nanos(lead),
            relay,
            handshakes_only: false,
            got: (0, 0),
        });
        self.copiers.len() - 1
    }

    /// Lets a copier copy and pass on nothing but handshakes.
    pub fn copy_handshakes_only(&mut self, copier: usize) {
        self.copiers[copier].handshakes_only = true;
    }

    /// Datagrams and bytes that were sent to a copier.
    pub fn copier_got(&self, copier: usize) -> (u64, u64) {
        self.copiers[copier].got
    }

    /// A stranger with an address, who can send what he likes. Returns his number.
    pub fn outsider(&mut self, addr: SocketAddr) -> usize {
        self.owners.insert(addr, Owner::Outsider(self.outsiders.len()));
        self.outsiders.push((addr, Vec::new()));
        self.outsiders.len() - 1
    }

    /// What was sent to a stranger so far; handed out once.
    pub fn outsider_got(&mut self, outsider: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.outsiders[outsider].1)
    }

    /// A stranger's datagram reaches a node now.
    pub fn inject(&mut self, outsider: usize, to: u32, data: &[u8]) {
        let src = self.outsiders[outsider].0;
        let dst = self.addr(to);
        self.arrive_at(self.now, data.to_vec(), src, dst, Ecn::NotEct, to);
    }

    /// Does something at a time since the start of the world.
    pub fn at(&mut self, at: Duration, script: impl FnOnce(&mut World) + 'static) {
        let slot = self.scripts.put(Box::new(script));
        self.pending += 1;
        self.plots += 1;
        self.plot.push(Reverse((nanos(at).max(self.now), self.plots, slot)));
    }
}
