//! A chat room. The same code runs on tokio and on smol; only `main` names a runtime.
//!
//! ```sh
//! cargo run -p net-sdk --example chat                      # opens a room and prints an invite
//! cargo run -p net-sdk --example chat -- INVITE ann        # enters it: what you type, all others read
//! cargo run -p net-sdk --example chat --features smol -- INVITE bob
//! ```
//!
//! With the feature `smol` it runs on smol. The room forwards: it is the one node that everybody can reach.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::{Arc, Mutex, PoisonError};

use net_sdk::{EntityId, Error, Invite, Mesh, Reliable, Result, Stream, rt};

/// Who is in the room: one stream each.
type Members = Arc<Mutex<BTreeMap<EntityId, Stream>>>;

/// Serves a room until the mesh is shut down.
pub async fn host(mesh: Mesh) -> Result<()> {
    let members = Members::default();
    loop {
        // Of any peer; who it is has been proven.
        let stream = match mesh.accept_stream().await {
            Ok(stream) => stream,
            Err(Error::Shutdown) => return Ok(()),
            Err(error) => return Err(error),
        };
        rt::spawn(member(stream, members.clone()));
    }
}

/// Forwards what one member says, to the end of its stream.
async fn member(stream: Stream, members: Members) {
    let who = stream.peer();
    let lock = || members.lock().unwrap_or_else(PoisonError::into_inner);
    lock().insert(who, stream.clone());
    // An error means that the member is gone: the same as the end.
    while let Ok(Some(line)) = stream.recv().await {
        for (_, other) in lock().iter().filter(|(other, _)| **other != who) {
            // Never waits: who does not read misses lines and holds up nobody.
            _ = other.try_send(&line);
        }
    }
    lock().remove(&who);
}

/// Enters a room. The room learns of a stream with its first message, so something is said at once.
pub async fn enter(mesh: &Mesh, invite: &Invite, name: &str) -> Result<Stream> {
    let room = mesh.connect(invite).await?.open_stream("chat", Reliable).await?;
    room.send(format!("* {name} is here").as_bytes()).await?;
    Ok(room)
}

/// What was typed, line by line. Reading the terminal blocks a thread, so it has one of its own.
fn typed() -> async_channel::Receiver<String> {
    let (tell, told) = async_channel::bounded(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            if tell.send_blocking(line).is_err() {
                return;
            }
        }
    });
    told
}

async fn run() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(invite) = args.next() else {
        let mesh = Mesh::builder().start().await?;
        println!("Secret, for those who may enter: {}", mesh.invite());
        return host(mesh).await;
    };
    let name = args.next().unwrap_or_else(|| "somebody".into());
    let invite: Invite = invite.parse()?;
    let mesh = Mesh::builder().join(&invite).start().await?;
    let room = enter(&mesh, &invite, &name).await?;
    let read = room.clone();
    rt::spawn(async move {
        while let Ok(Some(line)) = read.recv().await {
            println!("{}", String::from_utf8_lossy(&line));
        }
        println!("* the room is closed");
    });
    let lines = typed();
    while let Ok(line) = lines.recv().await {
        room.send(format!("{name}: {line}").as_bytes()).await?;
    }
    // Waits until the room has everything.
    mesh.shutdown().await;
    Ok(())
}

#[cfg(not(feature = "smol"))]
fn main() -> Result<()> {
    tokio::runtime::Runtime::new().expect("a runtime").block_on(run())
}

#[cfg(feature = "smol")]
fn main() -> Result<()> {
    smol::block_on(run())
}
