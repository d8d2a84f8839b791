//! Real servers for tests: each test starts its own, on ports and in a folder that nobody else has,
//! and may kill, pause and restart it. Nothing is left behind, also when a test panics or is killed.
//!
//! A kind of server is a [`Recipe`]: command line, files, and how to see that it answers.

pub mod nats;
pub mod packages;
pub mod ports;
pub mod redis;

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use packages::Program;
use ports::Claim;

/// Bounds a hang, and nothing else.
const LIMIT: Duration = Duration::from_secs(60);
/// How often something that is not told is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Sets of ports that are tried before a first start counts as failed.
const ATTEMPTS: u32 = 5;

/// What kind of server it is: all that differs from one kind to the next.
pub trait Recipe: Clone + Send + 'static {
    /// The program, and the Debian package that has it.
    fn program(&self) -> Program;

    /// So many ports are claimed.
    fn ports(&self) -> usize {
        1
    }

    /// Called once, before the first start: writes the files that the server reads.
    fn prepare(&self, _place: &Place) {}

    /// The command line. The same at every start: that is what makes a restart one.
    fn arguments(&self, place: &Place) -> Vec<String>;

    /// Whether it answers requests by now.
    fn ready(&self, place: &Place) -> bool;
}

/// Where a server lives: the same from its first start to its end.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its folder, with an absolute path.
    pub dir: PathBuf,
    /// Its ports on 127.0.0.1.
    pub ports: Vec<u16>,
}

impl Place {
    /// The address of one of its ports.
    pub fn addr(&self, port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[port]))
    }

    /// A path in its folder, as text for a command line.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    /// Writes a file in its folder.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).expect("the server's folder can be written to");
    }
}

/// A server of one test. Dropping it ends it and removes its folder.
pub struct Server<R: Recipe> {
    recipe: R,
    program: PathBuf,
    place: Place,
    process: Option<Child>,
    guard: Guard,
    _claims: Vec<Claim>,
}

impl<R: Recipe> Server<R> {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// If its program is missing and cannot be installed (the message names the package), or if it
    /// does not answer (the message says what it wrote).
    pub fn start(recipe: R) -> Self {
        let program = packages::find(&recipe.program());
        let mut attempt = 1;
        loop {
            let mut server = Self::prepared(recipe.clone(), &program);
            match server.try_start() {
                Ok(()) => return server,
                // Somebody who claims no ports may have been faster.
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                Err(why) => panic!("{why}"),
            }
        }
    }

    fn prepared(recipe: R, program: &Path) -> Self {
        let claims: Vec<_> = (0..recipe.ports()).map(|_| Claim::any()).collect();
        let place = Place { dir: fresh_dir(), ports: claims.iter().map(Claim::port).collect() };
        let guard = Guard::new(&place.dir);
        recipe.prepare(&place);
        Self { recipe, program: program.to_owned(), place, process: None, guard, _claims: claims }
    }

    fn try_start(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.place.dir.join("log"));
        let log = log.map_err(|error| format!("the log of {}: {error}", self.name()))?;
        let process = Command::new(&self.program)
            .args(self.recipe.arguments(&self.place))
            .current_dir(&self.place.dir)
            .stdin(Stdio::null())
            .stderr(log.try_clone().map_err(|error| error.to_string())?)
            .stdout(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        self.guard.watches(Some(process.id()));
        let process = self.process.insert(process);
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = process.try_wait() {
                self.process = None;
                self.guard.watches(None);
                return Err(format!("{} ended with {status} at its start:\n{}", self.name(), self.log()));
            }
            if self.recipe.ready(&self.place) {
                return Ok(());
            }
            if begun.elapsed() > LIMIT {
                return Err(format!("{} does not answer for {LIMIT:?}:\n{}", self.name(), self.log()));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn name(&self) -> &'static str {
        self.recipe.program().name
    }

    /// What kind it is.
    pub const fn recipe(&self) -> &R {
        &self.recipe
    }

    /// Where it lives.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The address of its first port.
    pub fn addr(&self) -> SocketAddr {
        self.place.addr(0)
    }

    /// Its first port.
    pub fn port(&self) -> u16 {
        self.place.ports[0]
    }

    /// The last lines that it wrote.
    pub fn log(&self) -> String {
        let text = fs::read(self.place.dir.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().map(|line| format!("  | {line}\n")).collect()
    }

    /// Whether it was started and not killed.
    pub const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Ends it as a crash would: SIGKILL. Its data stay. Nothing happens if it does not run.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child of this process");
            process.wait().expect("a child of this process");
            self.guard.watches(None);
        }
    }

    /// Ends it as an operator would: SIGTERM, and waits.
    ///
    /// # Panics
    /// If it does not end.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let Some(mut process) = self.process.take() else { return };
        let begun = Instant::now();
        while process.try_wait().expect("a child of this process").is_none() {
            assert!(begun.elapsed() < LIMIT, "{} does not end on SIGTERM:\n{}", self.name(), self.log());
            std::thread::sleep(LOOK);
        }
        self.guard.watches(None);
    }

    /// Starts it again at the same ports with the same data, and waits until it answers. Kills it
    /// first if it runs.
    ///
    /// # Panics
    /// If it does not come back.
    pub fn restart(&mut self) {
        self.kill();
        let begun = Instant::now();
        // What is left of its connections may hold the port for a moment.
        while let Err(why) = self.try_start() {
            assert!(begun.elapsed() < LIMIT, "{why}");
            std::thread::sleep(LOOK);
        }
    }

    /// Stops its time: SIGSTOP. Connections stay open and nobody answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on after [`Server::pause`].
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let Some(process) = &self.process else { return };
        let pid = process.id().to_string();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name} to {}", self.name());
    }
}

impl<R: Recipe> Drop for Server<R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} at {} wrote last:\n{}", self.name(), self.addr(), self.log());
        }
        self.kill();
    }
}

/// A small process that outlives this one if it has to: when its input ends, however that comes, it
/// kills the server that it was told last, and removes the folder.
struct Guard {
    process: Child,
}

impl Guard {
    fn new(dir: &Path) -> Self {
        let script = r#"trap '' INT TERM HUP
            last=; while read -r pid; do last=$pid; done
            if [ -n "$last" ]; then kill -9 "$last" 2>/dev/null; fi
            rm -rf "$0""#;
        let process = Command::new("sh")
            .args(["-c", script])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        Self { process }
    }

    /// The server to kill at the end.
    fn watches(&mut self, pid: Option<u32>) {
        let line = pid.map_or_else(|| "\n".to_owned(), |pid| format!("{pid}\n"));
        let told = self.process.stdin.as_mut().map(|input| input.write_all(line.as_bytes()));
        assert!(matches!(told, Some(Ok(()))), "the guard of a server is gone");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        _ = self.process.wait();
    }
}

fn fresh_dir() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("net-server-{}-{n}", std::process::id()));
    // One of a process that had the same number.
    _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder for temporary files");
    dir.canonicalize().expect("it exists")
}
