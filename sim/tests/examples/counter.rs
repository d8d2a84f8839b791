//! An application as a user would write it: a counter that everybody can raise, replicated to everybody.
//! It names no runtime and no simulator; `main` would call [`Counter::run`] with `Mesh::builder()`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net_sdk::{Mesh, MeshBuilder, Mode, Stream, Ticket, rt};

const EVERY: Duration = Duration::from_millis(200);
/// How often each life raises the counter.
const RAISES: u32 = 30;

/// Every life of every node has a share of its own, which only grows: merging is the greater of two.
#[derive(Clone, Default)]
pub struct Counter {
    shares: Arc<Mutex<BTreeMap<u64, u64>>>,
    /// A bug on purpose: a share is sent once, as if a neighbour never forgot.
    once: bool,
}

impl Counter {
    pub fn new(once: bool) -> Self {
        Self { once, ..Self::default() }
    }

    pub fn total(&self) -> u64 {
        self.shares.lock().unwrap().values().sum()
    }

    pub async fn run(self, builder: MeshBuilder, neighbours: Vec<Ticket>) {
        let mesh = builder.start().await.expect("the node starts");
        for ticket in neighbours {
            rt::spawn(self.clone().tell(mesh.clone(), ticket));
        }
        rt::spawn(self.clone().raise());
        while let Ok(stream) = mesh.accept_stream().await {
            rt::spawn(self.clone().hear(stream));
        }
    }

    async fn raise(self) {
        let life = u64::from_le_bytes(*rt::rng().first_chunk().unwrap());
        for _ in 0..RAISES {
            *self.shares.lock().unwrap().entry(life).or_default() += 1;
            rt::sleep(EVERY).await;
        }
    }

    /// Tells one neighbour what it does not know, for ever.
    async fn tell(self, mesh: Mesh, ticket: Ticket) {
        let mut known = BTreeMap::new();
        loop {
            if !self.once {
                known.clear();
            }
            let _ = self.tell_once(&mesh, &ticket, &mut known).await;
            rt::sleep(EVERY).await;
        }
    }

    async fn tell_once(
        &self,
        mesh: &Mesh,
        to: &Ticket,
        known: &mut BTreeMap<u64, u64>,
    ) -> net_sdk::Result<()> {
        let stream = mesh.connect(to).await?.open_stream("shares", Mode::Reliable).await?;
        loop {
            let news = self.shares.lock().unwrap().clone();
            for (life, share) in news {
                if known.insert(life, share) != Some(share) {
                    stream.send(&[life.to_le_bytes(), share.to_le_bytes()].concat()).await?;
                }
            }
            // Learns that the neighbour is gone, too.
            stream.flush().await?;
            rt::sleep(EVERY).await;
        }
    }

    async fn hear(self, stream: Stream) {
        while let Ok(Some(message)) = stream.recv().await {
            let (life, share) = message.split_at(8);
            let [life, share] = [life, share].map(|b| u64::from_le_bytes(b.try_into().unwrap()));
            let mut shares = self.shares.lock().unwrap();
            let mine = shares.entry(life).or_default();
            *mine = share.max(*mine);
        }
    }
}
