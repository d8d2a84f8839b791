//! What the tests of the SDK share.
#![allow(dead_code)] // each test uses its part

use std::path::PathBuf;
use std::time::Duration;

use net_sdk::{Mesh, Mode, Peer, Result, Stream, rt};

/// A hang becomes a failure that says where.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match rt::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than a minute"),
    }
}

/// Two nodes of one mesh, the first connected to the second.
pub async fn pair() -> Result<(Mesh, Mesh, Peer)> {
    let b = Mesh::builder().bind("127.0.0.1:0").start().await?;
    let a = Mesh::builder().bind("127.0.0.1:0").join(&b.invite()).start().await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    assert_eq!(peer.id(), b.id());
    Ok((a, b, peer))
}

/// Both ends of a stream; its first message went through.
pub async fn opened(b: &Mesh, peer: &Peer, mode: Mode) -> Result<(Stream, Stream)> {
    let tx = soon("open", peer.open_stream("logs", mode)).await?;
    tx.send(b"first").await?;
    let rx = soon("accept", b.accept_stream()).await?;
    assert_eq!(soon("first", rx.recv()).await?.as_deref(), Some(&b"first"[..]));
    soon("flush", tx.flush()).await?;
    assert_eq!((rx.label(), rx.mode()), ("logs", mode));
    Ok((tx, rx))
}

/// A path below the system's folder for temporary files, with nothing there.
pub fn fresh(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("net-sdk-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let _ = std::fs::remove_file(&path);
    path
}
