//! `net send`: the sending end on the network, through interruptions.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use net_sdk::{Error, Invite, Mesh, Peer, Reliable, Stream};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use super::scan::{self, Plan};
use super::send::{self, Ledger, Sent, Step};
use super::wire::Reason;
use super::{LABEL, code};
use crate::args;
use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::{Bar, Output, Progress, millis, rate, size};

/// Pauses between attempts grow from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Queued in the node beyond what is acknowledged.
const SEND_BUFFER: u64 = 4 << 20;

/// Why an attempt ended early.
enum Cut {
    /// Another attempt may do.
    Interrupted(Error),
    /// None will.
    For(Failure),
}

impl From<Error> for Cut {
    fn from(error: Error) -> Self {
        match error {
            // The receiver may be started again, whatever it said when it went.
            Error::Disconnected(_)
            | Error::Closed
            | Error::Reset(code::BUSY)
            | Error::Stopped(code::BUSY) => Self::Interrupted(error),
            Error::Reset(code) | Error::Stopped(code) => Self::For(refused(code)),
            _ if error.is_retryable() => Self::Interrupted(error),
            _ => Self::For(error.into()),
        }
    }
}

fn refused(why: u16) -> Failure {
    Failure::new(
        Code::Refused,
        match why {
            code::STORAGE => "the receiver's folder cannot be used".to_string(),
            code::MALFORMED => {
                "the receiver does not accept what was sent: see what it says there".to_string()
            }
            _ => format!("the receiver refused the transfer with code {why}"),
        },
    )
}

/// The invite that was given, or that stands on the standard input.
pub fn read_invite(given: &str) -> Result<Invite> {
    let mut text = given.to_string();
    if given == "-" {
        text.clear();
        std::io::stdin().take(1 << 16).read_to_string(&mut text)?;
    }
    text.trim().parse().map_err(|e| {
        Failure::usage(e).remedy("an invite begins with `ni1`; `net recv` prints one, and it is one word")
    })
}

/// The command.
pub async fn run(args: args::Send, config: &Config, output: Output) -> Result<()> {
    let invite = read_invite(&args.to)?;
    let progress = output.progress();
    let plan = Arc::new(prepare(&args, &progress).await?);
    for path in &plan.skipped {
        progress.note(format!("skipped, neither file nor folder: {}", path.display()));
    }
    let builder = Mesh::builder().mesh(invite.mesh.clone()).accept(false).send_buffer(SEND_BUFFER);
    let builder = config.apply(builder);
    let patience = Duration::from_secs(args.patience.or(config.patience).unwrap_or(60));
    let mesh = match args.state.dir {
        Some(dir) => builder.dir(dir),
        None => builder,
    };
    let mesh = mesh.start().await?;
    let ended = tokio::select! {
        ended = persist(&mesh, &invite, &plan, patience, &progress, output) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted").remedy("the same command goes on")),
    };
    progress.clear();
    mesh.shutdown_within(Duration::from_secs(2)).await;
    ended
}

async fn prepare(args: &args::Send, progress: &Progress) -> Result<Plan> {
    let path = args.path.clone();
    let found = tokio::task::spawn_blocking(move || scan::find(&path)).await.map_err(Failure::failed)??;
    let bar = progress.bytes("hashing", found.bytes());
    let plan = tokio::task::spawn_blocking(move || {
        let plan = scan::hash(found, |n| bar.add(n));
        bar.finish();
        plan
    });
    plan.await.map_err(Failure::failed)?
}

/// Attempts until everything is settled or patience ends.
async fn persist(
    mesh: &Mesh,
    invite: &Invite,
    plan: &Arc<Plan>,
    patience: Duration,
    progress: &Progress,
    output: Output,
) -> Result<()> {
    let begun = Instant::now();
    let bar = Arc::new(progress.bytes("sending", plan.bytes));
    let (mut attempts, mut pause) = (0u32, BACKOFF.0);
    let mut deadline = Instant::now() + patience;
    let mut carried = 0;
    loop {
        attempts += 1;
        let connected = timeout_at(deadline, mesh.connect(invite)).await;
        let cut = match connected {
            Err(_) => return Err(silence(patience)),
            Ok(Err(error)) => error.into(),
            Ok(Ok(peer)) => {
                let (before, since) = (carried, Instant::now());
                let ended = attempt(&peer, plan, &bar, &mut carried).await;
                // Patience is for silence: time with the receiver does not count, and progress renews it.
                deadline += since.elapsed();
                if carried > before {
                    (deadline, pause) = (Instant::now() + patience, BACKOFF.0);
                }
                match ended {
                    Ok(ledger) => {
                        return report(&ledger, plan, &peer, begun, carried, attempts, output).await;
                    }
                    Err(cut) => cut,
                }
            }
        };
        match cut {
            Cut::For(failure) => return Err(failure),
            Cut::Interrupted(error) if Instant::now() + pause >= deadline => {
                return Err(Failure::from(error).remedy("the same command goes on where it was interrupted"));
            }
            Cut::Interrupted(error) => {
                progress.note(format!("{error}; trying again"));
                output
                    .emit(&json!({"event": "interrupted", "error": error.to_string(), "attempt": attempts}));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

fn silence(patience: Duration) -> Failure {
    Failure::new(Code::Unreachable, format_args!("no authenticated answer in {} s", patience.as_secs())).remedy(
        "is `net recv` running there, is the address in its invite right, its UDP port open, and is this its \
         newest invite?",
    )
}

async fn attempt(peer: &Peer, plan: &Arc<Plan>, bar: &Arc<Bar>, carried: &mut u64) -> Result<Ledger, Cut> {
    let stream = peer.open_stream(LABEL, Reliable).await?;
    let mut ledger = Ledger::new(plan);
    for message in send::manifest(plan) {
        stream.send(&message).await?;
    }
    while listen(&stream, plan, &mut ledger).await? != Step::Ready {}
    let here = ledger.whole(plan) + ledger.here;
    bar.begin_at(here);

    let (wants, out, handle) = (ledger.wants(plan), stream.clone(), Handle::current());
    let (plan_there, bar_there) = (plan.clone(), bar.clone());
    // Files are read on a thread of their own; it waits where the stream has no credit.
    let sending = tokio::task::spawn_blocking(move || {
        let mut sent = 0;
        let ended = send::content(
            &plan_there,
            &wants,
            |message| handle.block_on(out.send(message)),
            |what| match what {
                Sent::Bytes(n) => {
                    sent += n;
                    bar_there.add(n);
                }
                Sent::Again(n) => bar_there.set(bar_there.position().saturating_sub(n)),
                // The receiver says so too.
                Sent::Broken(..) => {}
            },
        );
        (sent, ended)
    });
    let listening = async {
        loop {
            match listen(&stream, plan, &mut ledger).await {
                Ok(Step::Listen) => {}
                Ok(Step::End) => return Ok(()),
                Ok(Step::Ready) => return Err(broken(&stream)),
                Err(cut) => {
                    // Wakes the sending thread.
                    stream.reset(code::MALFORMED);
                    return Err(cut);
                }
            }
        }
    };
    let (sent, listened) = tokio::join!(sending, listening);
    let (sent, ended) = sent.map_err(|e| Cut::For(Failure::failed(e)))?;
    *carried += sent;
    listened?;
    ended?;
    // The receiver waits for the end, so that nothing of its last words is lost.
    _ = stream.finish().await;
    Ok(ledger)
}

async fn listen(stream: &Stream, plan: &Plan, ledger: &mut Ledger) -> Result<Step, Cut> {
    let message = stream.recv().await?.ok_or(Cut::Interrupted(Error::Closed))?;
    ledger.handle(plan, &message).map_err(|_| broken(stream))
}

fn broken(stream: &Stream) -> Cut {
    stream.reset(code::MALFORMED);
    Cut::For(Failure::failed(send::BadReply))
}

async fn report(
    ledger: &Ledger,
    plan: &Plan,
    peer: &Peer,
    begun: Instant,
    carried: u64,
    attempts: u32,
    output: Output,
) -> Result<()> {
    let took = begun.elapsed();
    let stats = peer.stats().await.ok();
    let failures: Vec<(usize, Option<Reason>)> = ledger.failures().collect();
    let why = |reason: Option<Reason>| reason.map_or("it was not confirmed".to_string(), |r| r.to_string());
    output.emit(&json!({
        "event": "done",
        "entries": plan.entries.len(),
        "verified": ledger.verified(),
        "bytes": plan.bytes,
        "bytes_sent": carried,
        "seconds": took.as_secs_f64(),
        "attempts": attempts,
        "skipped": plan.skipped.len(),
        "rtt_us": stats.map(|s| s.rtt.as_micros() as u64),
        "packets_sent": stats.map(|s| s.packets_sent),
        "packets_lost": stats.map(|s| s.packets_lost),
        "failed": failures.iter().map(|(index, reason)| {
            json!({"path": plan.entries[*index].path, "why": why(*reason)})
        }).collect::<Vec<_>>(),
    }));
    let mut rows = vec![
        (
            "verified",
            format!(
                "{} of {} files and folders, {}",
                ledger.verified(),
                plan.entries.len(),
                size(plan.bytes)
            ),
        ),
        (
            "sent",
            match carried {
                0 => "nothing: it was all there".to_string(),
                _ => format!("{} in {:.1} s, {}", size(carried), took.as_secs_f64(), rate(carried, took)),
            },
        ),
    ];
    if attempts > 1 {
        rows.push(("attempts", attempts.to_string()));
    }
    if let Some(stats) = stats {
        rows.push(("round trip", millis(stats.rtt)));
        rows.push(("packets", format!("{} sent, {} lost", stats.packets_sent, stats.packets_lost)));
    }
    output.table("Sent", &rows);
    if failures.is_empty() {
        return Ok(());
    }
    for (index, reason) in failures.iter().take(20) {
        output.note(format!("not there: {}: {}", plan.entries[*index].path, why(*reason)));
    }
    let text = format!("{} of {} files and folders are not there", failures.len(), plan.entries.len());
    Err(Failure::new(Code::NotVerified, text))
}
