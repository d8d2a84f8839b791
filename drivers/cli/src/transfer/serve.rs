//! `net recv`: the receiving end on the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use net_sdk::{Mesh, Mode, Stream};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::receive::{Receiver, Seen};
use super::{LABEL, code};
use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::{Bar, Output, Progress, printable, several, size};
use crate::{args, ping, state, stats};

/// Most transfers at once.
const MAX_TRANSFERS: usize = 16;

/// After so many bytes programs hear of progress.
const TELL: u64 = 4 << 20;

/// The command.
pub async fn run(args: args::Recv, config: &Config, output: Output) -> Result<()> {
    std::fs::create_dir_all(&args.into)
        .map_err(|e| Failure::failed(format_args!("{}: {e}", args.into.display())))?;
    let root = std::fs::canonicalize(&args.into)?;
    let dir = state::dir(args.state.dir.clone().or_else(|| config.dir.clone()))?;
    let mesh = state::listen(Mesh::builder, &args.listen, config, &dir, output).await?;
    stats::serve(&mesh, &dir, output);

    let invite = mesh.invite();
    output.emit(&json!({
        "event": "ready", "invite": invite.to_string(), "ticket": mesh.ticket().to_string(),
        "id": mesh.id().to_string(), "bound": mesh.local_addrs(), "advertised": invite.ticket.addrs,
    }));
    let addrs: Vec<String> = invite.ticket.addrs.iter().map(ToString::to_string).collect();
    output.say(format!("Receiving into {}, reachable at {}.", root.display(), addrs.join(", ")));
    output.say(
        "The invite below is SECRET: whoever has it can send files here and read what others in this mesh",
    );
    output.say("would let them read. It stays valid when this program is started again. Send with:\n");
    output.say(format!("net send PATH --to {invite}\n"));

    let (ended, mut transfers) = mpsc::channel(1);
    let server = Arc::new(Server { root, keep: args.keep, output, running: AtomicUsize::new(0), ended });
    let result = loop {
        tokio::select! {
            stream = mesh.accept_stream() => server.clone().serve(stream?),
            // The end of a transfer, with whether everything is there.
            Some(complete) = transfers.recv() => if args.once {
                break if complete {
                    Ok(())
                } else {
                    Err(Failure::new(Code::NotVerified, "the transfer ended, but not everything is there"))
                };
            },
            _ = tokio::signal::ctrl_c() => break Ok(()),
        }
    };
    mesh.shutdown().await;
    result
}

struct Server {
    root: PathBuf,
    keep: bool,
    output: Output,
    running: AtomicUsize,
    ended: mpsc::Sender<bool>,
}

impl Server {
    fn serve(self: Arc<Self>, stream: Stream) {
        match stream.label() {
            ping::LABEL => _ = tokio::spawn(ping::echo(stream)),
            LABEL if stream.mode() != Mode::Reliable => turn_away(&stream, code::MALFORMED),
            LABEL if self.running.fetch_add(1, Relaxed) >= MAX_TRANSFERS => {
                self.running.fetch_sub(1, Relaxed);
                turn_away(&stream, code::BUSY);
            }
            LABEL => {
                // Files are written on a thread of their own; it waits where nothing arrives.
                let handle = Handle::current();
                tokio::task::spawn_blocking(move || {
                    let complete = self.receive(&stream, &handle);
                    self.running.fetch_sub(1, Relaxed);
                    if let Some(complete) = complete {
                        _ = handle.block_on(self.ended.send(complete));
                    }
                });
            }
            _ => turn_away(&stream, code::UNKNOWN),
        }
    }

    /// One transfer; `None` if it was interrupted.
    fn receive(&self, stream: &Stream, handle: &Handle) -> Option<bool> {
        let from = stream.peer();
        let progress = self.output.progress();
        let mut watch = Watch { output: self.output, progress, bar: None };
        let mut receiver = Receiver::new(&self.root, self.keep);
        let result = loop {
            let message = match handle.block_on(stream.recv()) {
                Ok(Some(message)) => message,
                Ok(None) => break Some(receiver.complete()),
                // The sender has all it needs; its goodbye may overtake the end of the stream.
                Err(_) if receiver.over() => break Some(receiver.complete()),
                Err(error) => {
                    receiver.interrupt();
                    watch.clear();
                    self.output
                        .note(format!("from {from:?}: {error}; what arrived is kept for the next attempt"));
                    self.output.emit(&json!({"event": "interrupted", "from": from.to_string(), "error": error.to_string()}));
                    return None;
                }
            };
            let (mut replies, mut seen) = (Vec::new(), Vec::new());
            let handled = receiver.handle(&message, &mut |r| replies.push(r), &mut |s| seen.push(s));
            seen.into_iter().for_each(|seen| watch.see(seen, &receiver));
            let sent = replies.iter().try_for_each(|reply| handle.block_on(stream.send(&reply.message())));
            if let Err(error) = handled {
                watch.clear();
                self.output.note(format!("from {from:?}: {}", printable(&error.to_string())));
                self.output
                    .emit(&json!({"event": "refused", "from": from.to_string(), "error": error.to_string()}));
                turn_away(stream, code::MALFORMED);
                return None;
            }
            // The next read says what is wrong.
            _ = sent;
        };
        _ = handle.block_on(stream.finish());
        result
    }
}

fn turn_away(stream: &Stream, why: u16) {
    stream.reset(why);
    stream.stop(why);
}

/// Shows what happens.
struct Watch {
    output: Output,
    progress: Progress,
    bar: Option<Bar>,
}

impl Watch {
    fn clear(&self) {
        self.progress.clear();
    }

    fn see(&mut self, seen: Seen, receiver: &Receiver) {
        let path = |index: usize| receiver.entries().get(index).map_or("", |entry| &entry.path);
        match seen {
            Seen::Begins { files, bytes, here } => {
                self.output.emit(&json!({"event": "begins", "files": files, "bytes": bytes, "here": here}));
                let there =
                    if here > 0 { format!(", {} of it here already", size(here)) } else { String::new() };
                self.progress.note(format!("{}, {}{there}", several(files, "file"), size(bytes)));
                let bar = self.progress.bytes("receiving", bytes);
                bar.begin_at(here);
                self.bar = Some(bar);
            }
            Seen::Bytes(n) => {
                if let Some(bar) = &self.bar {
                    let before = bar.position();
                    bar.add(n);
                    if before / TELL != (before + n) / TELL {
                        self.output.emit(&json!({"event": "progress", "bytes": before + n}));
                    }
                }
            }
            Seen::Verified(index) => {
                self.output.emit(&json!({"event": "verified", "path": path(index)}));
            }
            Seen::Failed(index, reason, why) => {
                self.progress.note(format!("{}: {}", path(index), printable(&why)));
                let reason = reason.to_string();
                self.output
                    .emit(&json!({"event": "failed", "path": path(index), "reason": reason, "why": why}));
            }
            Seen::Over(verified) => {
                self.clear();
                let count = receiver.entries().len();
                self.output.say(format!("{verified} of {count} files and folders verified."));
                self.output.emit(&json!({"event": "received", "verified": verified, "entries": count}));
            }
        }
    }
}
