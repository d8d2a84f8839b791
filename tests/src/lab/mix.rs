//! Mixed load: streams of every mode that end in every way, small messages and large ones.

use net_proto::entropy::Entropy;
use net_sdk::{Error, FireAndForget, Peer, Reliable, Result, Unordered, rt};
use std::time::Duration;

use super::node::fill;

/// A reader stops streams whose labels begin so after the first message; it reads the others to their end.
pub const STOPPED: &str = "stopped";

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mixed {
    /// Messages that were admitted.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Opens `rounds` streams one after the other, with a pause between them. What is sent on which depends on
/// `seed` only. `step` is told what is done next.
pub async fn mix(
    peer: Peer,
    seed: u64,
    rounds: u64,
    pause: Duration,
    step: impl Fn(String) + Send,
) -> Result<Mixed> {
    let mut dice = Entropy::new(&[seed as u8; 32], &format!("mix {seed}"));
    let mut mixed = Mixed::default();
    for n in 0..rounds {
        match round(&peer, &format!("{seed}/{n}"), &mut dice, &mut mixed, &step).await {
            // The reader wanted no more: part of the mixture.
            Ok(()) | Err(Error::Stopped(_)) => {}
            Err(error) => return Err(error),
        }
        rt::sleep(pause).await;
    }
    step("done".into());
    Ok(mixed)
}

async fn round(
    peer: &Peer,
    name: &str,
    dice: &mut Entropy,
    mixed: &mut Mixed,
    step: &(impl Fn(String) + Send),
) -> Result<()> {
    let mut draw = |n: u64| dice.u64() % n;
    let mode = [Reliable, Reliable, Unordered, FireAndForget][draw(4) as usize];
    let label = if draw(8) == 0 { format!("{STOPPED} {name}") } else { format!("read {name}") };
    // One stream in 16 carries few messages of many packets, the others many of one or two.
    let (count, size) = if draw(16) == 0 { (4, 8 + draw(200_000)) } else { (1 + draw(64), 8 + draw(2_000)) };
    let end = draw(8);
    step(format!("opens `{label}`, {mode:?}, for {count} of {size} bytes"));
    let stream = peer.open_stream(&label, mode).await?;
    let mut message = vec![0; size as usize];
    for number in 0..count {
        fill(&mut message, number);
        if number % 16 == 0 {
            step(format!("sends {number} of {count}, {size} bytes, on `{label}`, {mode:?}"));
        }
        stream.send(&message).await?;
        mixed.messages += 1;
        mixed.bytes += size;
    }
    step(format!("ends `{label}` in way {end}, {mode:?}, after {count} of {size} bytes"));
    match end {
        0 => stream.reset(3),
        // Dropped: it is finished in the background.
        1 => {}
        _ => stream.finish().await?,
    }
    Ok(())
}
