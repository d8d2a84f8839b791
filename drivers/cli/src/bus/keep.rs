//! `net bus keep`: a node that keeps events for others of its mesh.

use net_sdk::net::{HostLimits, Hosting};
use net_sdk::{Mesh, Stream};
use serde_json::json;

use crate::args::BusKeep;
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::output::{Output, several, size};
use crate::{ping, state, stats};

/// A label that this command does not know.
const UNKNOWN: u16 = 4;

/// The command.
pub async fn run(args: BusKeep, config: &Config, output: Output) -> Result<()> {
    let dir = state::dir(args.state.dir.clone().or_else(|| config.dir.clone()))?;
    let mesh = state::listen(|| Mesh::builder().event_bus(), &args.listen, config, &dir, output).await?;
    let limits = HostLimits { events: args.events, bytes: args.bytes, ..HostLimits::default() };
    let hosting = Hosting { limits, ..Hosting::default() };
    let kept = mesh.host_events(&args.name, hosting).await.map_err(|error| match error {
        net_sdk::SdkError::Host(_) => Failure::usage(error).remedy("a name has 1 to 64 bytes"),
        error => error.into(),
    })?;
    stats::serve(&mesh, &dir, output);
    let invite = mesh.invite();
    output.emit(&json!({
        "event": "ready", "name": args.name, "invite": invite.to_string(), "ticket": mesh.ticket().to_string(),
        "id": mesh.id().to_string(), "bound": mesh.local_addrs(), "advertised": invite.ticket.addrs,
    }));
    let addrs: Vec<String> = invite.ticket.addrs.iter().map(ToString::to_string).collect();
    output.say(format!("Keeping the events `{}` in memory, reachable at {}.", args.name, addrs.join(", ")));
    output.say(
        "The invite below is SECRET: whoever has it can write and read these events. It stays valid when",
    );
    output.say("this program is started again; the events do not.\n");
    let name = if args.name == "net" { String::new() } else { format!(" --name {}", args.name) };
    output.say(format!("net bus emit{name} --mesh {invite}\n"));
    let ended = tokio::select! {
        ended = serve(&mesh) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    let held = kept.stats().await.unwrap_or_default();
    output.say(format!("{} go, {}.", several(held.events, "event"), size(held.bytes)));
    output.emit(&json!({
        "event": "end", "events": held.events, "bytes": held.bytes, "duplicates": held.duplicates,
    }));
    drop(kept);
    mesh.shutdown().await;
    ended
}

/// Answers `net ping`; other streams are not for this program.
async fn serve(mesh: &Mesh) -> Result<()> {
    loop {
        let stream: Stream = mesh.accept_stream().await?;
        if stream.label() == ping::LABEL {
            tokio::spawn(ping::echo(stream));
        } else {
            stream.reset(UNKNOWN);
            stream.stop(UNKNOWN);
        }
    }
}
