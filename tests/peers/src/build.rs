//! How many packages a streams-only program links, and how long its clean release build takes.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;
use crate::run::root;

const PROGRAM: &str = r#"
use net_sdk::{Mesh, Reliable, Result};

async fn run() -> Result<()> {
    let b = Mesh::builder().bind("127.0.0.1:0").start().await?;
    let a = Mesh::builder().join(&b.invite()).start().await?;
    let peer = a.connect(b.ticket()).await?;
    let stream = peer.open_stream("hello", Reliable).await?;
    stream.send(b"hello").await?;
    stream.flush().await?;
    println!("{:?}", b.accept_stream().await?.recv().await?);
    Ok(())
}
"#;

const RUNTIMES: [(&str, &str, &str, f64, f64); 2] = [
    (
        "tokio",
        "tokio = { version = \"1\", features = [\"rt-multi-thread\"] }",
        "fn main() -> Result<()> { tokio::runtime::Runtime::new().expect(\"a runtime\").block_on(run()) }",
        90.0,
        60.0,
    ),
    ("smol", "smol = \"2\"", "fn main() -> Result<()> { smol::block_on(run()) }", 95.0, 60.0),
];

/// The rows.
pub fn measure() -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for (runtime, dependency, main, packages_goal, seconds_goal) in RUNTIMES {
        let dir = std::env::temp_dir().join(format!("net-peers-{}-{runtime}", std::process::id()));
        let made = one(&dir, runtime, dependency, main);
        _ = std::fs::remove_dir_all(&dir);
        let (packages, seconds) = made?;
        let row = |what: &str, work: String, value: f64, unit: &str, goal: f64| {
            let verdict = if value <= goal { "met" } else { "missed" };
            json!({
                "id": format!("build-{runtime}-{what}"), "work": work, "unit": unit, "sense": "at most",
                "ours": {"name": "Net", "median": value, "min": value, "max": value, "conditions": {}},
                "goal": {"bound": goal, "verdict": verdict},
            })
        };
        let work = format!("packages of a streams-only program on {runtime}");
        rows.push(row("packages", work, packages as f64, "packages", packages_goal));
        let work = format!("its clean release build on {runtime}");
        rows.push(row("seconds", work, seconds, "s", seconds_goal));
    }
    Ok(rows)
}

fn one(dir: &Path, runtime: &str, dependency: &str, main: &str) -> Result<(usize, f64)> {
    std::fs::create_dir_all(dir.join("src"))?;
    let sdk = root().join("drivers/sdk").canonicalize()?;
    let manifest = format!(
        "[package]\nname = \"streams-only\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n{dependency}\n\
         net-sdk = {{ path = {:?}, default-features = false, features = [\"{runtime}\"] }}\n",
        sdk.display().to_string()
    );
    std::fs::write(dir.join("Cargo.toml"), manifest)?;
    std::fs::write(dir.join("src/main.rs"), format!("{PROGRAM}\n{main}\n"))?;
    // The versions of the workspace.
    std::fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock"))?;
    let cargo = |args: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(args).current_dir(dir).env("CARGO_TARGET_DIR", dir.join("target"));
        command
    };
    let tree = cargo(&["tree", "-e", "normal,build", "--prefix", "none", "-f", "{p}"]).output()?;
    if !tree.status.success() {
        return Err(String::from_utf8_lossy(&tree.stderr).into_owned().into());
    }
    let text = String::from_utf8_lossy(&tree.stdout).into_owned();
    let mut packages: Vec<&str> =
        text.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| !line.is_empty()).collect();
    packages.sort_unstable();
    packages.dedup();
    // Fetched before the clock starts.
    let fetched = cargo(&["fetch"]).output()?;
    if !fetched.status.success() {
        return Err(String::from_utf8_lossy(&fetched.stderr).into_owned().into());
    }
    let begun = Instant::now();
    if !cargo(&["build", "--release", "--quiet"]).status()?.success() {
        return Err("it does not build".into());
    }
    // The program itself is no package that it links.
    Ok((packages.len() - 1, begun.elapsed().as_secs_f64()))
}
