//! Mixed load: streams of every mode that end in every way, small messages and large ones.

use net_proto::entropy::Entropy;
use net_sdk::{Error, FireAndForget, Peer, Reliable, Result, Unordered, rt};
use std::time::Duration;

use super::node::fill;

/// A reader stops streams with this label after the first message.
pub const STOPPED: &str = "mix stopped";
/// It reads the others to their end.
const READ: &str = "mix read";

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mixed {
    /// Messages that were admitted.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Opens `rounds` streams one after the other, with a pause between them. What is sent on which depends on
/// `seed` only.
pub async fn mix(peer: Peer, seed: u64, rounds: u64, pause: Duration) -> Result<Mixed> {
    let mut dice = Entropy::new(&[seed as u8; 32], &format!("mix {seed}"));
    let mut mixed = Mixed::default();
    for _ in 0..rounds {
        match round(&peer, &mut dice, &mut mixed).await {
            // The reader wanted no more: part of the mixture.
            Ok(()) | Err(Error::Stopped(_)) => {}
            Err(error) => return Err(error),
        }
        rt::sleep(pause).await;
    }
    Ok(mixed)
}

async fn round(peer: &Peer, dice: &mut Entropy, mixed: &mut Mixed) -> Result<()> {
    let mut draw = |n: u64| dice.u64() % n;
    let mode = [Reliable, Reliable, Unordered, FireAndForget][draw(4) as usize];
    let label = if draw(8) == 0 { STOPPED } else { READ };
    // One stream in 16 carries few messages of many packets, the others many of one or two.
    let (count, size) = if draw(16) == 0 { (4, 8 + draw(200_000)) } else { (1 + draw(64), 8 + draw(2_000)) };
    let end = draw(8);
    let stream = peer.open_stream(label, mode).await?;
    let mut message = vec![0; size as usize];
    for number in 0..count {
        fill(&mut message, number);
        stream.send(&message).await?;
        mixed.messages += 1;
        mixed.bytes += size;
    }
    match end {
        0 => stream.reset(3),
        // Dropped: it is finished in the background.
        1 => {}
        _ => stream.finish().await?,
    }
    Ok(())
}
