//! Processes of the program, and what they say.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// The program with `args`, away from the state and settings of whoever runs the tests.
pub fn net(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_net"));
    command.args(args).stdin(Stdio::null()).stderr(Stdio::piped());
    for name in
        ["NET_DIR", "NET_INVITE", "NET_BUS", "NET_TRACE", "NET_QLOG", "NET_EXPORT_KEYS", "XDG_DATA_HOME"]
    {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end.
pub fn run(args: &[&str]) -> Output {
    net(args).output().expect("the program runs")
}

/// The last object that it wrote.
pub fn last(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_else(|| panic!("it said nothing: {output:?}"));
    serde_json::from_str(line).expect("JSON")
}

/// A process that goes on; killed when dropped.
pub struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it with `--json`.
    pub fn start(args: &[&str]) -> Self {
        let mut command = net(args);
        // Nobody would read the pipe.
        command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Reads to the next event of this name.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ended before `{name}`")).expect("text");
            let value: Value = serde_json::from_str(&line).expect("JSON");
            if value["event"] == name {
                return value;
            }
        }
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Option<i32> {
        // What it still says must not fill the pipe.
        for line in self.lines.by_ref() {
            drop(line);
        }
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// An address that was free a moment ago, to be named before it is bound.
pub fn free() -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    socket.local_addr().expect("an address")
}
