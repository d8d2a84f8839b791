//! Makes a folder like one of another machine. The same code runs on tokio and on smol.
//!
//! ```sh
//! cargo run -p net-sdk --example file_sync -- serve FOLDER           # prints an invite
//! cargo run -p net-sdk --example file_sync -- pull INVITE FOLDER
//! ```
//!
//! With the feature `smol` it runs on smol. Files that are the same already are not sent, others are
//! replaced when they are whole; nothing is deleted. `net send` and `net recv` do much more.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use net_sdk::{Error, Invite, Mesh, Peer, Reliable, Stream, rt};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Bytes of a file in one message.
const PIECE: usize = 64 << 10;
/// The label of a stream that lists files: each message of the answer is a hash and a name.
const LIST: &str = "list";
/// The label of a stream that asks for one file: its name there, its content back.
const GET: &str = "get";

/// Serves `folder` to everybody who holds the mesh key, until the mesh is shut down.
pub async fn serve(mesh: Mesh, folder: PathBuf) -> Result<()> {
    loop {
        let stream = match mesh.accept_stream().await {
            Ok(stream) => stream,
            Err(Error::Shutdown) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let folder = folder.clone();
        rt::spawn(async move {
            let who = stream.peer();
            if let Err(error) = answer(&stream, folder).await {
                eprintln!("{who}: {error}");
                stream.reset(1); // the other side gets `Error::Reset(1)`
            }
        });
    }
}

async fn answer(stream: &Stream, folder: PathBuf) -> Result<()> {
    let Some(question) = stream.recv().await? else { return Ok(()) };
    if stream.label() == LIST {
        for (name, hash) in rt::blocking(move || list(&folder)).await?? {
            stream.send(&[&hash, name.as_bytes()].concat()).await?;
        }
    } else {
        let path = inside(&folder, std::str::from_utf8(&question)?)?;
        let mut file = rt::blocking(|| File::open(path)).await??;
        loop {
            // Files block, so they are read where that holds nobody up.
            let (back, piece) = rt::blocking(move || {
                let mut piece = vec![0; PIECE];
                let read = file.read(&mut piece);
                (file, read.map(|len| piece[..len].to_vec()))
            })
            .await?;
            let piece = piece?;
            if piece.is_empty() {
                break;
            }
            // Waits while the other side is slow: no more than a window is ever held.
            stream.send(&piece).await?;
            file = back;
        }
    }
    Ok(stream.finish().await?)
}

/// Makes `folder` like the one that `peer` serves; the names of the files that were not like it.
pub async fn pull(peer: &Peer, folder: PathBuf) -> Result<Vec<String>> {
    let mine = {
        let folder = folder.clone();
        rt::blocking(move || fs::create_dir_all(&folder).and_then(|()| list(&folder))).await??
    };
    let listing = peer.open_stream(LIST, Reliable).await?;
    listing.send(b"").await?;
    let mut wanted = Vec::new();
    while let Some(line) = listing.recv().await? {
        let (hash, name) = line.split_first_chunk::<32>().ok_or("a line is cut")?;
        let name = std::str::from_utf8(name)?.to_owned();
        if !mine.contains(&(name.clone(), *hash)) {
            wanted.push((name, *hash));
        }
    }
    for (name, hash) in &wanted {
        fetch(peer, inside(&folder, name)?, name, *hash).await?;
    }
    Ok(wanted.into_iter().map(|(name, _)| name).collect())
}

/// Gets one file. It appears under its name when it is whole and on the disk.
async fn fetch(peer: &Peer, path: PathBuf, name: &str, hash: [u8; 32]) -> Result<()> {
    let stream = peer.open_stream(GET, Reliable).await?;
    stream.send(name.as_bytes()).await?;
    let part = path.with_extension("part");
    let at = part.clone();
    let open = move || {
        fs::create_dir_all(at.parent().unwrap_or(Path::new("")))?;
        File::create(at)
    };
    let mut file = rt::blocking(open).await??;
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = stream.recv().await? {
        hasher.update(&piece);
        file = rt::blocking(move || file.write_all(&piece).map(|()| file)).await??;
    }
    if *hasher.finalize().as_bytes() != hash {
        return Err(format!("{name} changed meanwhile").into());
    }
    Ok(rt::blocking(move || file.sync_all().and_then(|()| fs::rename(part, path))).await??)
}

/// The files of a folder, with the hashes of their contents.
fn list(folder: &Path) -> io::Result<Vec<(String, [u8; 32])>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_type()?.is_file() {
                let hash =
                    *blake3::Hasher::new().update_reader(File::open(entry.path())?)?.finalize().as_bytes();
                let path = entry.path();
                let name = path.strip_prefix(folder).ok().and_then(Path::to_str);
                found.extend(name.map(|name| (name.replace('\\', "/"), hash)));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Where a name of the other side leads: never out of the folder.
fn inside(folder: &Path, name: &str) -> Result<PathBuf> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !plain {
        return Err(format!("not a name of a file in the folder: {name:?}").into());
    }
    Ok(folder.join(name))
}

async fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", folder] => {
            let mesh = Mesh::builder().start().await?;
            println!("Secret, for those who may read the folder: {}", mesh.invite());
            serve(mesh, folder.into()).await
        }
        ["pull", invite, folder] => {
            let invite: Invite = invite.parse()?;
            let mesh = Mesh::builder().join(&invite).start().await?;
            let peer = mesh.connect(&invite).await?;
            for name in pull(&peer, folder.into()).await? {
                println!("{name}");
            }
            mesh.shutdown().await;
            Ok(())
        }
        _ => Err("file_sync serve FOLDER, or file_sync pull INVITE FOLDER".into()),
    }
}

#[cfg(not(feature = "smol"))]
fn main() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run())
}

#[cfg(feature = "smol")]
fn main() -> Result<()> {
    smol::block_on(run())
}
