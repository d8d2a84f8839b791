//! What the tests of the SDK share.
#![allow(dead_code, unused_macros)] // each test uses its part

pub mod clock;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use net_sdk::{Mesh, Mode, Peer, Result, Runtime, Stream, rt};
use net_smol::Smol;

/// Makes a test of each case on each runtime. The case gets the name of the runtime.
macro_rules! on_every_runtime {
    ($($case:ident)*) => {
        #[cfg(feature = "tokio")]
        mod on_tokio {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> net_sdk::Result<()> {
                super::$case("tokio").await
            })*
        }

        mod on_smol {
            $(#[test]
            fn $case() -> net_sdk::Result<()> {
                let runtime = crate::common::smol_runtime();
                smol::block_on(net_sdk::rt::enter(runtime, super::$case("smol")))
            })*
        }
    };
}

/// A runtime for those that bring their own.
pub fn smol_runtime() -> Arc<dyn Runtime> {
    Arc::new(Smol::new())
}

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
