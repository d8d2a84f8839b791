//! Node processes, as a test holds them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::line::Line;
use super::until;

type Answers = Arc<Mutex<HashMap<u64, Result<Line, String>>>>;

/// A node process. It is killed when this is dropped.
pub struct Child {
    process: std::process::Child,
    input: ChildStdin,
    answers: Answers,
    asked: u64,
    /// Its number.
    pub me: u64,
    /// Where it is bound.
    pub addr: SocketAddr,
}

impl Child {
    /// Starts `program` (behind `wrapper`, if there is one) with these words.
    pub fn start(program: &str, wrapper: &[&str], words: &Line) -> Self {
        let all: Vec<&str> = wrapper.iter().copied().chain([program]).collect();
        let mut process = Command::new(all[0])
            .args(&all[1..])
            .args(words.to_string().split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the node process starts");
        let input = process.stdin.take().expect("its input");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let answers = Answers::default();
        let keep = answers.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut parts = line.splitn(3, ' ');
                let id = parts.next().and_then(|id| id.parse().ok());
                let (kind, rest) = (parts.next(), parts.next().unwrap_or_default());
                let answer = if kind == Some("ok") { Ok(Line::parse(rest)) } else { Err(rest.to_owned()) };
                id.map(|id| keep.lock().unwrap_or_else(PoisonError::into_inner).insert(id, answer));
            }
        });
        let addr = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut child = Self { process, input, answers, asked: 0, me: words.get("me"), addr };
        let started = child.wait(0).expect("it starts");
        child.addr = started.text("addr").and_then(|addr| addr.parse().ok()).expect("its address");
        child
    }

    /// Asks for something; the answer is for [`Child::wait`].
    pub fn ask(&mut self, command: &str) -> u64 {
        self.asked += 1;
        writeln!(self.input, "{} {command}", self.asked).expect("the node process lives");
        self.asked
    }

    /// Waits for an answer.
    pub fn wait(&mut self, asked: u64) -> Result<Line, String> {
        until(&format!("answer {asked} of node {}", self.me), || self.answered(asked))
    }

    /// Waits for the answer to something that takes its time, while the count of messages that came rises.
    pub fn wait_long(&mut self, asked: u64) -> Result<Line, String> {
        let mut before = None;
        loop {
            let looked = std::time::Instant::now();
            while looked.elapsed() < super::LIMIT {
                if let Some(found) = self.answered(asked) {
                    return found;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let now = self.report().get("received");
            if before.replace(now) == Some(now) {
                return Err(format!("node {} stands still", self.me));
            }
        }
    }

    fn answered(&mut self, asked: u64) -> Option<Result<Line, String>> {
        let found = self.answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&asked);
        if found.is_none() {
            let ended = self.process.try_wait().expect("a process");
            assert!(ended.is_none(), "node {} ended: {ended:?}", self.me);
        }
        found
    }

    /// Asks and waits.
    pub fn call(&mut self, command: &str) -> Result<Line, String> {
        let asked = self.ask(command);
        self.wait(asked)
    }

    /// What it counts.
    pub fn report(&mut self) -> Line {
        self.call("report").expect("a report")
    }

    /// Waits until a count is at least this.
    pub fn reaches(&mut self, name: &str, least: u64) {
        until(&format!("{name} >= {least} at node {}", self.me), || {
            (self.report().number(name)? >= least).then_some(())
        });
    }

    /// Connects to another node, by this address of it.
    pub fn connect(&mut self, to: SocketAddr, who: u64) -> Result<Line, String> {
        self.call(&format!("connect to={to} who={who}"))
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name}");
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) {
        self.process.kill().expect("it lived");
        _ = self.process.wait();
    }

    /// It uses less than half of a core over a second; see [`are_calm`].
    pub fn is_calm(&mut self) {
        are_calm([self]);
    }

    /// It never held more than its ceiling and what a process takes anyway.
    pub fn is_within_its_ceiling(&mut self) {
        /// Socket buffers, ports, the runtime, and the counts of the test itself.
        const ALLOWANCE: u64 = 16 << 20;
        let report = self.report();
        let (peak, ceiling) = (report.get("peak"), report.get("ceiling"));
        println!("node {}: at most {peak} bytes, ceiling {ceiling}", self.me);
        assert!(peak <= ceiling + ALLOWANCE, "node {}: {peak} bytes, ceiling {ceiling}", self.me);
    }

    /// Ends it; every message that was admitted is flushed or counted as lost.
    pub fn balances(mut self) -> Line {
        let admitted = self.report().get("admitted");
        let drained = self.call("shutdown").expect("a shutdown");
        let told = drained.get("flushed") + drained.get("lost");
        assert_eq!(told, admitted, "node {}: {drained}, admitted {admitted}", self.me);
        drained
    }
}

/// Each of them uses less than half of a core over the same second: it does not spin. Processor time, so
/// other work on the machine does not count.
pub fn are_calm<const N: usize>(nodes: [&mut Child; N]) {
    let begun = std::time::Instant::now();
    let nodes = nodes.map(|node| {
        let before = node.report().get("cpu_ms");
        (node, before)
    });
    std::thread::sleep(Duration::from_secs(1));
    for (node, before) in nodes {
        let used = node.report().get("cpu_ms") - before;
        let passed = begun.elapsed().as_millis() as u64;
        assert!(used * 2 <= passed, "node {} used {used} ms of {passed} ms", node.me);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
