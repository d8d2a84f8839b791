//! What a node costs that has one peer and nothing to do.

use std::time::{Duration, Instant};

use net_sdk::rt;
use serde_json::json;

use super::{Far, Near, joined, runtime, show, system};
use crate::args::{BenchIdle, Receive};
use crate::failure::Result;
use crate::output::Output;

/// After this, the handshake, size probes and the like are over.
const SETTLE: Duration = Duration::from_secs(3);

pub fn run(args: BenchIdle, output: Output) -> Result<()> {
    let far = Far::start(&args.common, Receive::Many, 1)?;
    let invite = far.invite.clone();
    let result = runtime::run(args.common.runtime, move |runtime| async move {
        let near = Near::start(&args.common, &runtime, &invite).await?;
        rt::sleep(SETTLE).await;
        let (begun, before) = (Instant::now(), system::processor_time());
        rt::sleep(Duration::from_secs(args.seconds)).await;
        let (seconds, after) = (begun.elapsed().as_secs_f64(), system::processor_time());
        let used = after.zip(before).map(|(after, before)| (after - before).as_secs_f64());
        let result = json!({
            "work": "idle",
            "seconds": seconds,
            "processor_us": used.map(|used| (used * 1e6).round()),
            "core_percent": used.map(|used| used / seconds * 100.0),
            "memory_bytes": system::resident(),
        });
        let result = joined(result, near.conditions(&args.common).await?);
        near.end().await;
        Ok(result)
    })?;
    drop(far);
    show(&result, "Idle", output);
    Ok(())
}
