//! `net replay`: lives the record of a node again, event for event, and says where it differs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use net_proto::bus::mesh::BusPlane;
use net_proto::lane::{NoPlanes, Plane};
use net_proto::node::Event;
use net_proto::session::Peer;
use net_sdk::{EntityId, PlaneStart};
use net_shell::trace::{Happened, Reader, Replay, TraceError};
use serde_json::{Value, json};

use crate::args;
use crate::failure::{Code, Failure, Result};
use crate::output::{Output, printable, several};

/// The command.
pub fn run(args: &args::Replay, output: Output) -> Result<()> {
    let unreadable = |e| {
        let failure = unreadable(e);
        Failure { what: format!("{}: {}", args.record.display(), failure.what), ..failure }
    };
    let reader = Reader::open(&args.record).map_err(unreadable)?;
    match reader.header.planes_type() {
        None => live(args, reader, |_| NoPlanes, output),
        Some(planes) if planes == std::any::type_name::<BusPlane>() => {
            let plane = |start: PlaneStart| BusPlane::new(start.identity.id(), start.incarnation.epoch);
            live(args, reader, plane, output)
        }
        Some(planes) => {
            Err(Failure::new(Code::Usage, format_args!("the record is of a node with planes: {planes}"))
                .remedy("a program that has them replays it with net_shell::trace::Trace::replay_with"))
        }
    }
}

fn unreadable(error: TraceError) -> Failure {
    match error {
        TraceError::Format => Failure::new(Code::Usage, error)
            .remedy("records replay in the version of the program that wrote them"),
        error => Failure::failed(error),
    }
}

fn live<P: Plane>(
    args: &args::Replay,
    mut reader: Reader,
    planes: impl FnOnce(PlaneStart) -> P,
    output: Output,
) -> Result<()> {
    let mut replay = Replay::new(&reader.header, reader.header.config(), planes).map_err(unreadable)?;
    let mut story =
        Story { output, steps: args.steps, events: !args.summary, told: 0, peers: BTreeMap::new() };
    output.say(format!("A record of {}", reader.header.entity()));

    let begun = Instant::now();
    let outcome = loop {
        match reader.next_entry() {
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
            Ok(Some(entry)) => {
                if let Err(e) = replay.live(entry, &mut |happened| story.tell(&happened)) {
                    break Err(e);
                }
            }
        }
    };
    let took = begun.elapsed();

    let (steps, inputs) = replay.lived();
    let (covers, cut) = (replay.after(), reader.is_cut() && outcome.is_ok());
    let per_minute = inputs as f64 / took.as_secs_f64().max(1e-9) * 60.0;
    let hash: String = replay.end().hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let same = outcome.is_ok();
    output.emit(&json!({
        "event": "replay", "id": reader.header.entity().to_string(), "same": same, "steps": steps,
        "inputs": inputs, "told": story.told, "covers_s": covers.as_secs_f64(), "took_s": took.as_secs_f64(),
        "inputs_per_minute": per_minute as u64, "hash": hash, "cut": cut,
    }));
    output.table(
        "replay",
        &[
            ("steps", format!("{steps}, {} among them", several(inputs, "input"))),
            ("events", story.told.to_string()),
            ("covers", format!("{:.3} s of the node's time", covers.as_secs_f64())),
            ("took", format!("{:.3} s: {:.1} million inputs a minute", took.as_secs_f64(), per_minute / 1e6)),
            ("hash", hash),
            (
                "outcome",
                match (same, cut) {
                    (true, false) => "the same, to the end".into(),
                    (true, true) => "the same, up to where the record was cut off".into(),
                    (false, _) => "the last step or event differs".into(),
                },
            ),
        ],
    );
    outcome.map_err(|error| match error {
        TraceError::Differs(d) => {
            output.emit(&json!({
                "event": "differs", "step": d.step, "after_us": micros(d.after), "name": d.name, "what": d.what,
            }));
            Failure::new(Code::Differs, d).remedy(
                "the record was changed, or another build wrote it; up to there the node did as recorded",
            )
        }
        error => unreadable(error),
    })
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// Tells what the node lives through.
struct Story {
    output: Output,
    /// Every step, too.
    steps: bool,
    events: bool,
    told: u64,
    peers: BTreeMap<Peer, EntityId>,
}

impl Story {
    fn tell(&mut self, happened: &Happened<'_>) {
        match happened {
            Happened::Step { number, after, name, input } if self.steps => {
                self.output.emit(&json!({
                    "event": "step", "number": number, "after_us": micros(*after), "name": name, "input": input,
                }));
                self.output.say(format!("{:>12.6} s  step {number}: {name}", after.as_secs_f64()));
            }
            Happened::Step { .. } => {}
            Happened::Event { after, event } => {
                self.told += 1;
                if let Some((name, text, peer)) = self.describe(event).filter(|_| self.events) {
                    self.output.emit(&json!({
                        "event": "told", "after_us": micros(*after), "name": name, "text": text,
                        "peer": peer.map_or(Value::Null, |peer| peer.to_string().into()),
                    }));
                    let peer = peer.map_or_else(String::new, |peer| format!(" {}", short(peer)));
                    self.output.say(format!("{:>12.6} s {peer} {text}", after.as_secs_f64()));
                }
            }
        }
    }

    /// A name, a sentence, and whom it is about. Nothing for what happens all the time.
    fn describe(&mut self, event: &Event) -> Option<(&'static str, String, Option<EntityId>)> {
        let whom = |peer: &Peer| self.peers.get(peer).copied();
        let lost = |lost: &net_sdk::Lost| match lost.messages {
            0 => String::new(),
            n => format!("; {} not acknowledged", several(n, "message")),
        };
        Some(match event {
            Event::Connected { peer, entity, path, cipher, dial } => {
                self.peers.insert(*peer, *entity);
                let how = if dial.is_some() { "connected, dialled" } else { "connected" };
                let at = path.udp_addr().map_or_else(|| "a relay".into(), |addr| addr.to_string());
                ("connected", format!("{how} at {at}, {}", cipher.name()), Some(*entity))
            }
            Event::Disconnected { peer, entity, reason, lost: what } => {
                self.peers.remove(peer);
                ("disconnected", format!("disconnected: {reason}{}", lost(what)), Some(*entity))
            }
            Event::DialFailed { dial, error } => {
                ("dial_failed", format!("dial {dial} failed: {error}"), None)
            }
            Event::PathChanged { peer, path } => {
                let to = path.udp_addr().map_or_else(|| "a relay".into(), |addr| addr.to_string());
                ("path_changed", format!("reached at {to} from now on"), whom(peer))
            }
            Event::StreamReady { peer, stream, .. } => {
                ("stream_opened", format!("stream {} opened here", stream.0), whom(peer))
            }
            Event::StreamOpened { peer, stream, label, mode, .. } => (
                "stream_accepted",
                format!("stream {} opened by the peer: {}, {mode:?}", stream.0, printable(label)),
                whom(peer),
            ),
            Event::StreamRefused { error, .. } => {
                ("stream_refused", format!("stream refused: {error}"), None)
            }
            Event::Finished { peer, stream } => {
                ("stream_finished", format!("stream {} finished by the peer", stream.0), whom(peer))
            }
            Event::ResetByPeer { peer, stream, code } => {
                ("stream_reset", format!("stream {} reset by the peer with {code}", stream.0), whom(peer))
            }
            Event::StoppedByPeer { peer, stream, code } => {
                ("stream_stopped", format!("stream {} stopped by the peer with {code}", stream.0), whom(peer))
            }
            Event::StreamClosed { peer, stream, lost: what } => {
                ("stream_closed", format!("stream {} closed{}", stream.0, lost(what)), whom(peer))
            }
            Event::Drained => ("drained", "the last peer is gone".into(), None),
            _ => return None,
        })
    }
}

/// Enough of an id to tell peers apart.
fn short(id: EntityId) -> String {
    id.to_string().chars().take(8).collect()
}
