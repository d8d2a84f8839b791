//! The demo's closing table.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;

use super::Told;
use super::bus::Got;
use crate::eavesdrop::{Overheard, entropy_of};
use crate::failure::{Code, Failure, Result};
use crate::output::{Output, millis, rate, size};
use crate::relay::Relay;

/// What passed the relays.
pub struct Relayed {
    /// Datagrams on the way from who dialled.
    pub there: u64,
    /// Of those, lost.
    pub there_lost: u64,
    /// Datagrams on the way back.
    pub back: u64,
    /// Of those, lost.
    pub back_lost: u64,
    /// What both heard.
    pub overheard: Overheard,
}

impl Relayed {
    /// Ends the relays.
    pub fn new(relays: [Relay; 2]) -> Self {
        let mut sum =
            Self { there: 0, there_lost: 0, back: 0, back_lost: 0, overheard: Overheard::default() };
        for relay in relays {
            let c = relay.counters();
            sum.there += c.there.load(Relaxed);
            sum.there_lost += c.there_lost.load(Relaxed);
            sum.back += c.back.load(Relaxed);
            sum.back_lost += c.back_lost.load(Relaxed);
            sum.overheard.merge(relay.finish());
        }
        sum
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn percent(part: u64, of: u64) -> f64 {
    part as f64 * 100.0 / of.max(1) as f64
}

/// Tells people or programs, and whether the demo succeeded.
pub fn tell(told: &Told, output: Output) -> Result<()> {
    let wrong = told.wrong();
    if output.json() {
        output.emit(&as_json(told, wrong.is_empty()));
    } else {
        table(told, wrong.is_empty(), output);
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Code::NotVerified, wrong.join("; "))),
    }
}

fn table(told: &Told, verified: bool, output: Output) {
    let Told { input, file, lines, relay, to_b, .. } = told;
    let heard = &relay.overheard;
    let (found, markers) = told.control();
    let lost = relay.there_lost + relay.back_lost;
    let through = relay.there + relay.back;
    let header = heard
        .headers
        .first()
        .map_or("none".to_string(), |h| format!("{} {} {}", hex(&h[..1]), hex(&h[1..5]), hex(&h[5..])));
    let rows = [
        (
            "file",
            format!(
                "{}, {} in {} messages\nBLAKE3 {} at both ends",
                input.name,
                size(file.bytes),
                file.messages,
                file.hash
            ),
        ),
        ("throughput", format!("{}, {} under way", rate(file.bytes, told.took), millis(told.took))),
        (
            input.kind,
            format!(
                "{} messages, {}, in order and whole at the third node\nwhich also got {} receipts from the second",
                lines.messages,
                size(lines.bytes),
                told.receipts
            ),
        ),
        ("readings", format!("{} sent and never repeated, {} arrived", told.readings_sent, told.readings)),
        (
            "events",
            format!(
                "one program, twice: {} of {} in memory, {};\n{} of {} emitted at the first node, kept by the second, \
                 read at the third, {}",
                told.in_memory.in_order,
                Got::ALL,
                millis(told.in_memory.took),
                told.on_mesh.in_order,
                Got::ALL,
                millis(told.on_mesh.took),
            ),
        ),
        (
            "round trip",
            format!("{} smoothed, {} at best, through the relay", millis(to_b.rtt), millis(to_b.rtt_min)),
        ),
        (
            "losses",
            format!(
                "the relay lost {lost} of {through} datagrams on purpose ({:.2} %)\nthe sender took {} of {} packets \
                 for lost, {} of them wrongly\n{} of content went twice",
                percent(lost, through),
                to_b.packets_lost + told.to_c.packets_lost,
                to_b.packets_sent + told.to_c.packets_sent,
                to_b.spurious_losses + told.to_c.spurious_losses,
                size(told.file_stats.retransmitted + told.line_stats.retransmitted),
            ),
        ),
        (
            "datagrams",
            format!(
                "{} to {} bytes, {} in the middle",
                heard.smallest.min(heard.largest),
                heard.largest,
                heard.median()
            ),
        ),
        (
            "eavesdropper",
            format!(
                "in clear: type, index and number of a packet, as in {header}\nthe rest has {:.4} bits of entropy a \
                 byte; the file has {:.4}\n{found} of {markers} pieces of the file are found in the file, {} on the way",
                heard.entropy(),
                entropy_of(&input.bytes),
                heard.matches,
            ),
        ),
        ("cipher", to_b.cipher.name().to_string()),
        ("whole demo", format!("{:.1} s", told.whole.as_secs_f64())),
    ];
    output.table(if verified { "Everything arrived." } else { "NOT everything arrived." }, &rows);
}

fn as_json(told: &Told, verified: bool) -> serde_json::Value {
    let Told { input, file, lines, relay, to_b, to_c, .. } = told;
    let heard = &relay.overheard;
    let (found, markers) = told.control();
    json!({
        "event": "done",
        "verified": verified,
        "input": input.name,
        "bytes": file.bytes,
        "blake3": file.hash.to_hex().as_str(),
        "seconds": told.took.as_secs_f64(),
        "mib_per_s": file.bytes as f64 / 1_048_576.0 / told.took.as_secs_f64(),
        "lines": lines.messages,
        "receipts": told.receipts,
        "readings_sent": told.readings_sent,
        "readings_arrived": told.readings,
        "events": Got::ALL,
        "events_in_memory": told.in_memory.in_order,
        "events_on_mesh": told.on_mesh.in_order,
        "cipher": to_b.cipher.name(),
        "rtt_us": to_b.rtt.as_micros() as u64,
        "rtt_min_us": to_b.rtt_min.as_micros() as u64,
        "loss_percent": told.loss,
        "datagrams": relay.there + relay.back,
        "datagrams_lost": relay.there_lost + relay.back_lost,
        "packets_sent": to_b.packets_sent + to_c.packets_sent,
        "packets_lost": to_b.packets_lost + to_c.packets_lost,
        "spurious_losses": to_b.spurious_losses + to_c.spurious_losses,
        "retransmitted_bytes": told.file_stats.retransmitted + told.line_stats.retransmitted,
        "datagram_smallest": heard.smallest.min(heard.largest),
        "datagram_median": heard.median(),
        "datagram_largest": heard.largest,
        "headers": heard.headers.iter().map(|h| hex(h)).collect::<Vec<_>>(),
        "entropy_bits_per_byte": heard.entropy(),
        "plaintext_markers": markers,
        "plaintext_markers_in_file": found,
        "plaintext_matches": heard.matches,
        "whole_seconds": told.whole.as_secs_f64(),
    })
}
