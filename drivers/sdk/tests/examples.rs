//! The programs in `examples` do on every runtime what they say.

#[macro_use]
mod common;
#[allow(dead_code)] // its `main` is for people
#[path = "../examples/chat.rs"]
mod chat;
#[allow(dead_code)]
#[path = "../examples/file_sync.rs"]
mod file_sync;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{fresh, soon};
use net_sdk::{Mesh, Result, Stream, rt};

on_every_runtime! {
    what_one_says_all_others_read
    a_room_outlives_a_member
    a_folder_becomes_like_another
    names_do_not_lead_out_of_the_folder
}

async fn node() -> Result<Mesh> {
    Mesh::builder().bind("127.0.0.1:0").start().await
}

async fn guest(room: &Mesh, name: &str) -> Result<(Mesh, Stream)> {
    let mesh = Mesh::builder().bind("127.0.0.1:0").join(&room.invite()).start().await?;
    let stream = soon("enter", chat::enter(&mesh, &room.invite(), name)).await?;
    Ok((mesh, stream))
}

/// Reads until this line comes.
async fn reads(stream: &Stream, line: &str) -> Result<()> {
    loop {
        let got = soon(line, stream.recv()).await?.expect("the room is open");
        if got == line.as_bytes() {
            return Ok(());
        }
    }
}

/// Speaks until the other reads it: a line that is said before somebody entered is not theirs.
async fn meet(one: &Stream, other: &Stream, name: &str) -> Result<()> {
    let (said, heard) = (one.clone(), format!("{name}: are you there?"));
    let line = heard.clone();
    drop(rt::spawn(async move {
        for _ in 0..10_000 {
            if said.send(line.as_bytes()).await.is_err() {
                return;
            }
            rt::sleep(std::time::Duration::from_millis(5)).await;
        }
    }));
    reads(other, &heard).await
}

async fn what_one_says_all_others_read(_: &str) -> Result<()> {
    let room = node().await?;
    let served = rt::spawn(chat::host(room.clone()));
    let (ann, a) = guest(&room, "ann").await?;
    let (bob, b) = guest(&room, "bob").await?;
    let (cat, c) = guest(&room, "cat").await?;
    meet(&a, &b, "ann").await?;
    reads(&c, "ann: are you there?").await?;
    meet(&b, &a, "bob").await?;
    reads(&c, "bob: are you there?").await?;
    for mesh in [ann, bob, cat, room] {
        mesh.shutdown().await;
    }
    soon("the room ends", served).await.expect("no panic")
}

async fn a_room_outlives_a_member(_: &str) -> Result<()> {
    let room = node().await?;
    drop(rt::spawn(chat::host(room.clone())));
    let (ann, a) = guest(&room, "ann").await?;
    let (bob, b) = guest(&room, "bob").await?;
    meet(&a, &b, "ann").await?;
    ann.shutdown().await;
    let (_eve, e) = guest(&room, "eve").await?;
    meet(&e, &b, "eve").await?;
    bob.shutdown().await;
    Ok(())
}

/// Every file below a folder.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("UTF-8");
        if entry.path().is_dir() {
            let below = content(&entry.path());
            found.extend(below.into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).expect("a file"));
        }
    }
    found
}

async fn a_folder_becomes_like_another(runtime: &str) -> Result<()> {
    let dir = fresh(&format!("sync-{runtime}"));
    let (here, there) = (dir.join("here"), dir.join("there"));
    fs::create_dir_all(here.join("deep/deeper")).expect("folders");
    for (name, len) in [("empty", 0), ("small", 10), ("deep/large", 1_000_000), ("deep/deeper/odd", 65_537)] {
        let bytes: Vec<u8> = (0..len).map(|n: usize| ((n * 31) >> 3) as u8).collect();
        fs::write(here.join(name), bytes).expect("a file");
    }
    let server = node().await?;
    drop(rt::spawn(file_sync::serve(server.clone(), here.clone())));
    let mesh = Mesh::builder().bind("127.0.0.1:0").join(&server.invite()).start().await?;
    let peer = soon("connect", mesh.connect(server.ticket())).await?;
    let pull = || soon("pull", file_sync::pull(&peer, there.clone()));
    assert_eq!(pull().await.expect("pulled").len(), 4);
    assert_eq!(content(&there), content(&here));
    assert!(pull().await.expect("pulled").is_empty(), "nothing changed");
    fs::write(here.join("small"), "changed").expect("a file");
    assert_eq!(pull().await.expect("pulled"), ["small"]);
    assert_eq!(content(&there), content(&here));
    mesh.shutdown().await;
    server.shutdown().await;
    fs::remove_dir_all(dir).expect("removed");
    Ok(())
}

async fn names_do_not_lead_out_of_the_folder(runtime: &str) -> Result<()> {
    let dir = fresh(&format!("names-{runtime}"));
    let (here, there) = (dir.join("here"), dir.join("there"));
    fs::create_dir_all(&here).expect("a folder");
    fs::write(dir.join("secret"), "secret").expect("a file");
    let server = node().await?;
    drop(rt::spawn(file_sync::serve(server.clone(), here)));
    let mesh = Mesh::builder().bind("127.0.0.1:0").join(&server.invite()).start().await?;
    let peer = soon("connect", mesh.connect(server.ticket())).await?;
    let stream = peer.open_stream("get", net_sdk::Reliable).await?;
    stream.send(b"../secret").await?;
    assert!(matches!(soon("an answer", stream.recv()).await, Err(net_sdk::Error::Reset(1))));

    // A server that means ill.
    let evil = mesh.clone();
    drop(rt::spawn(async move {
        while let Ok(stream) = evil.accept_stream().await {
            _ = stream.recv().await;
            _ = stream.send(&[&[0; 32], b"../outside".as_slice()].concat()).await;
            _ = stream.finish().await;
        }
    }));
    let back = soon("accept", server.accept_peer()).await?;
    let refused = soon("pull", file_sync::pull(&back, there)).await.expect_err("it leads out");
    assert!(refused.to_string().contains("outside"), "{refused}");
    assert!(!dir.join("outside").exists());
    fs::remove_dir_all(dir).expect("removed");
    Ok(())
}
