//! `net id`: who this node is.

use net_sdk::Mesh;
use serde_json::json;

use crate::args;
use crate::config::Config;
use crate::failure::Result;
use crate::output::Output;
use crate::state;

/// The command.
pub async fn run(args: args::Id, config: &Config, output: Output) -> Result<()> {
    let dir = state::dir(args.state.dir.or_else(|| config.dir.clone()))?;
    // A node that never speaks: reading the state directory is the builder's business.
    let mesh = Mesh::builder().dir(&dir).bind("127.0.0.1:0").accept(false).start().await?;
    let (id, mesh_id) = (mesh.id(), net_proto::identity::base32(&mesh.mesh_id().0));
    mesh.shutdown().await;
    output.say(format!("id     {id}\nmesh   {mesh_id}\nstate  {}", dir.display()));
    output.emit(&json!({"event": "id", "id": id.to_string(), "mesh": mesh_id, "dir": dir}));
    Ok(())
}
