//! One run: a command, what it printed, and the processor time that it and its children took.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

use crate::rows::{Metric, Side, Who};
use crate::{Result, Stack};

/// What both sides are given.
pub struct Setting {
    pub net: PathBuf,
    pub peer: Stack,
    pub seconds: u64,
    pub loss: f64,
    /// Of the losses; the same for both sides of a pair.
    pub key: u64,
}

/// What came of a run.
pub struct Run {
    pub json: Value,
    /// User and system, of all processes but the relay, in seconds.
    pub processor: f64,
}

impl Run {
    pub fn metric(&self, metric: Metric) -> Result<f64> {
        let key = |name: &str| {
            let value = self.json[name].as_f64();
            value.ok_or_else(|| crate::Error::from(format!("no `{name}` in {}", self.json)))
        };
        match metric {
            Metric::Key(name) => key(name),
            Metric::ProcessorPerGib => {
                let gib = key("delivered")? * key("payload")? / f64::from(1 << 30);
                Ok(self.processor / gib)
            }
        }
    }
}

/// Killed and waited for when dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + f64::from(t.tv_usec() as i32) / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

pub fn run(side: &Side, setting: &Setting) -> Result<Run> {
    let me = std::env::current_exe()?;
    let mut command = match side.who {
        Who::Net => {
            let mut command = Command::new(&setting.net);
            command.arg("bench").args(side.args).arg("--json");
            command
        }
        who => {
            let stack = if who == Who::Bare { Stack::Bare } else { setting.peer };
            let mut command = Command::new(&me);
            command.args(side.args).args(["--stack", &stack.name()]);
            command
        }
    };
    command.args(["--seconds", &setting.seconds.to_string()]);
    // Smol runs its tasks on one thread otherwise; the others have one for each core.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    command.env("SMOL_THREADS", cores.to_string());
    let mut relay = None;
    if setting.loss > 0.0 {
        // A port that was free a moment ago: the relay has to know it before the far end starts.
        let far = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let (loss, key) = (setting.loss.to_string(), setting.key.to_string());
        let started = Command::new(&me)
            .args(["relay", "--target", &far, "--loss", &loss, "--key", &key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut started = Guard(started);
        let mut via = String::new();
        BufReader::new(started.0.stdout.take().ok_or("no pipe")?).read_line(&mut via)?;
        command.args(["--bind", &far, "--via", via.trim()]);
        relay = Some(started);
    }
    let before = children()?;
    let mut child = Guard(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let mut out = child.0.stdout.take().ok_or("no pipe")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + Duration::from_secs(setting.seconds + 60);
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            return Err(format!("{command:?} does not end").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let processor = children()? - before;
    drop(relay);
    let text = reader.join().map_err(|_| "the reading thread panicked")??;
    if !status.success() {
        return Err(format!("{command:?}: {status}: {text}").into());
    }
    let line = text.lines().last().unwrap_or_default();
    let json = serde_json::from_str(line).map_err(|e| format!("{command:?}: {e}: {text}"))?;
    Ok(Run { json, processor })
}
