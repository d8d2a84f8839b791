//! `net doctor`: what this machine offers to a node, and what to do about what is missing.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_proto::path::Ecn;
use net_proto::session::aead::{Cipher, CipherSuite};
use net_sdk::{Mesh, Runtime};
use net_shell::aead::Native;
use net_shell::runtime::{Bound, Transmit, UdpOptions};
use serde_json::json;

use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::{Output, millis, size};
use crate::{args, state, transfer};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// As it should be.
    Good,
    /// A node works, with less speed or comfort.
    Note,
    /// A node does not work.
    Bad,
}

/// One line of the report.
struct Finding {
    name: &'static str,
    level: Level,
    what: String,
    remedy: Option<&'static str>,
}

impl Finding {
    fn good(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, level: Level::Good, what: what.into(), remedy: None }
    }

    fn note(name: &'static str, what: impl Into<String>, remedy: &'static str) -> Self {
        Self { name, level: Level::Note, what: what.into(), remedy: Some(remedy) }
    }

    fn bad(name: &'static str, what: impl Into<String>, remedy: &'static str) -> Self {
        Self { name, level: Level::Bad, what: what.into(), remedy: Some(remedy) }
    }
}

/// The command.
pub async fn run(args: args::Doctor, config: &Config, output: Output) -> Result<()> {
    let runtime: Arc<dyn Runtime> = Arc::new(net_sdk::Tokio::new(tokio::runtime::Handle::current()));
    let mut findings = Vec::new();
    match runtime.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &UdpOptions::default()) {
        Ok(bound) => sockets(&*runtime, bound, &mut findings).await,
        Err(e) => findings.push(Finding::bad("UDP", e.to_string(), "allow UDP sockets for this user")),
    }
    findings.push(match runtime.bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), &UdpOptions::default()) {
        Ok(_) => Finding::good("IPv6", "sockets can be bound"),
        Err(e) => {
            Finding::note("IPv6", e.to_string(), "nodes use IPv4 alone; nothing to do if that is meant")
        }
    });
    findings.push(routes());
    findings.push(clock(&*runtime));
    findings.push(timers(&*runtime).await);
    findings.push(ciphers());
    findings.push(directory(args.state.dir.clone().or_else(|| config.dir.clone())));
    if let Some(to) = &args.to {
        findings.extend(path(to, &args, config).await?);
    }
    if cfg!(debug_assertions) {
        findings.push(Finding::note("build", "without optimisation", "measure with `--release` only"));
    }
    report(&findings, output)
}

fn report(findings: &[Finding], output: Output) -> Result<()> {
    for f in findings {
        let level = match f.level {
            Level::Good => "ok",
            Level::Note => "note",
            Level::Bad => "BAD",
        };
        output.say(format!("{level:>4}  {:14} {}", f.name, f.what));
        if let Some(remedy) = f.remedy {
            output.say(format!("      {:14} {remedy}", ""));
        }
        output.emit(&json!({
            "event": "check", "name": f.name, "level": level.to_lowercase(), "what": f.what, "remedy": f.remedy,
        }));
    }
    let bad = findings.iter().filter(|f| f.level == Level::Bad).count();
    output.emit(&json!({"event": "done", "checks": findings.len(), "bad": bad}));
    if bad > 0 {
        return Err(Failure::new(Code::Failed, format_args!("{bad} of {} checks are bad", findings.len())));
    }
    Ok(())
}

/// Buffers, batches and marks, tried with datagrams to itself.
async fn sockets(runtime: &dyn Runtime, (tx, mut rx): Bound, findings: &mut Vec<Finding>) {
    let asked = UdpOptions::default();
    let caps = tx.caps();
    let granted =
        format!("send {}, receive {}", size(caps.send_buffer as u64), size(caps.recv_buffer as u64));
    findings.push(if caps.recv_buffer < asked.recv_buffer || caps.send_buffer < asked.send_buffer {
        Finding::note(
            "UDP buffers",
            format!("{granted}; {} were asked for", size(asked.recv_buffer as u64)),
            "Linux: sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304; else bursts may be lost",
        )
    } else {
        Finding::good("UDP buffers", granted)
    });

    // Three full datagrams and a shorter one, in one call if the system can.
    const SEGMENT: usize = 1_200;
    let data = vec![7; 3 * SEGMENT + 100];
    let batched = caps.segments >= 4;
    let to = tx.local_addr();
    let mut failed = None;
    let pieces: Vec<&[u8]> = if batched { vec![&data] } else { data.chunks(SEGMENT).collect() };
    for piece in pieces {
        let segment = batched.then_some(SEGMENT);
        let transmit = Transmit { to, from: None, ecn: Ecn::Ect0, data: piece, segment };
        loop {
            match tx.try_send(&transmit) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if poll_fn(|cx| tx.poll_writable(cx)).await.is_err() {
                        break;
                    }
                }
                Err(e) => {
                    failed = Some(e.to_string());
                    break;
                }
                Ok(()) => break,
            }
        }
    }
    let (mut sizes, mut marks, mut receives) = (Vec::new(), Vec::new(), 0);
    let mut timer = runtime.timer();
    let until = runtime.now() + Duration::from_secs(1);
    while sizes.len() < 4 && failed.is_none() {
        let more = poll_fn(|cx| {
            if let std::task::Poll::Ready(batch) = rx.poll_recv(cx) {
                if let Ok(batch) = batch {
                    receives += batch.0.iter().filter(|slot| slot.len > 0).count();
                    batch.for_each(|_, _, ecn, datagram| {
                        sizes.push(datagram.len());
                        marks.push(ecn);
                    });
                }
                return std::task::Poll::Ready(true);
            }
            timer.poll(cx, Some(until)).map(|()| false)
        });
        if !more.await {
            break;
        }
    }
    let whole = sizes.iter().sum::<usize>() == data.len() && sizes.len() == 4;
    let after = tx.caps();
    findings.push(match (failed, whole) {
        (Some(e), _) => Finding::bad("loopback", e, "a firewall may forbid UDP on this machine"),
        (None, false) => Finding::bad(
            "loopback",
            format!("of 4 datagrams {} came back", sizes.len()),
            "a firewall may drop UDP on this machine",
        ),
        (None, true) => Finding::good("loopback", "datagrams come back whole"),
    });
    findings.push(if after.segments > 1 {
        Finding::good("GSO", format!("up to {} datagrams with one send", after.segments))
    } else {
        Finding::note(
            "GSO",
            "one datagram with one send",
            "Linux has it from 4.18 on; speed is lower without",
        )
    });
    findings.push(if after.gro_segments > 1 {
        let seen = if whole && receives < sizes.len() { "seen to work" } else { "not seen on loopback" };
        Finding::good("GRO", format!("up to {} datagrams with one receive; {seen}", after.gro_segments))
    } else {
        Finding::note(
            "GRO",
            "one datagram with one receive",
            "Linux has it from 5.0 on; speed is lower without",
        )
    });
    findings.push(if after.ecn && marks.iter().all(|mark| *mark == Ecn::Ect0) && whole {
        Finding::good("ECN", "marks are set and read")
    } else {
        Finding::note("ECN", "marks do not come through", "congestion is then noticed by loss alone")
    });
    findings.push(if after.may_fragment {
        Finding::note(
            "fragments",
            "the system may cut datagrams",
            "sizes are not probed: 1,200 bytes are used",
        )
    } else {
        Finding::good("fragments", "never: sizes can be probed")
    });
}

/// From which addresses this machine would send to the world.
fn routes() -> Finding {
    // Connecting a UDP socket sends nothing; the address is reserved for documentation (RFC 5737).
    let ask = || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    match ask() {
        Ok(from) if private(from.ip()) => Finding::good(
            "address",
            format!("{}, private: others reach it through a forwarded port and `--advertise`", from.ip()),
        ),
        Ok(from) => Finding::good("address", from.ip().to_string()),
        Err(e) => {
            Finding::note("address", format!("no route to the world: {e}"), "fine for a closed network")
        }
    }
}

fn private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// Steps of the monotonic clock, and whether the wall clock is believable.
fn clock(runtime: &dyn Runtime) -> Finding {
    let wall = runtime.wall();
    // 2025-01-01: this program is younger.
    if wall.unix < Duration::from_secs(1_735_689_600) {
        return Finding::note(
            "clock",
            "the wall clock lies in the past",
            "set it: a node without a state directory derives its incarnation from it",
        );
    }
    let mut least = Duration::MAX;
    for _ in 0..1_000 {
        let from = runtime.now();
        let mut to = runtime.now();
        while to == from {
            to = runtime.now();
        }
        least = least.min(to.since(from));
    }
    Finding::good("clock", format!("steps of {} ns", least.as_nanos()))
}

/// How late timers are.
async fn timers(runtime: &dyn Runtime) -> Finding {
    let mut timer = runtime.timer();
    let mut late = Vec::new();
    for _ in 0..50 {
        let at = runtime.now() + Duration::from_millis(2);
        poll_fn(|cx| timer.poll(cx, Some(at))).await;
        late.push(runtime.now().since(at));
    }
    late.sort();
    let (middle, worst) = (late[late.len() / 2], late[late.len() - 1]);
    let what = format!("{} late in the middle, {} at worst", millis(middle), millis(worst));
    if middle > Duration::from_millis(5) {
        return Finding::note(
            "timers",
            what,
            "the machine is busy or its timer is coarse; round trips look longer",
        );
    }
    Finding::good("timers", what)
}

/// What the data ciphers reach on one core.
fn ciphers() -> Finding {
    let suite = Native::new();
    let mut text = Vec::new();
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        if suite.offered() & cipher.bit() == 0 {
            continue;
        }
        let key = suite.key(cipher, &[7; 32]);
        let mut packet = vec![0; 1_400];
        let (begun, mut sealed) = (Instant::now(), 0u64);
        while begun.elapsed() < Duration::from_millis(50) {
            for _ in 0..64 {
                std::hint::black_box(key.seal(sealed, b"doctor", &mut packet));
                sealed += 1;
            }
        }
        let per_second = (sealed * 1_400) as f64 / begun.elapsed().as_secs_f64();
        text.push(format!("{} {}/s", cipher.name(), size(per_second as u64)));
    }
    let text = text.join(", ");
    if suite.offered() & Cipher::Aes256Gcm.bit() == 0 {
        return Finding::note("ciphers", text, "this processor has no AES instructions; ChaCha20 is used");
    }
    Finding::good("ciphers", text)
}

/// Whether the state directory can be used, without making one.
fn directory(asked: Option<std::path::PathBuf>) -> Finding {
    let dir = match state::dir(asked) {
        Ok(dir) => dir,
        Err(e) => return Finding::note("state", e.what, "name one with --dir"),
    };
    let Ok(about) = std::fs::metadata(&dir) else {
        return Finding::good("state", format!("{} is made when it is needed", dir.display()));
    };
    if !about.is_dir() {
        return Finding::bad(
            "state",
            format!("{} is no directory", dir.display()),
            "choose another with --dir",
        );
    }
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o077 != 0 {
        return Finding::note(
            "state",
            format!("{} can be read by others", dir.display()),
            "chmod 700: it holds the secret keys",
        );
    }
    Finding::good("state", dir.display().to_string())
}

/// What the path to a node carries.
async fn path(to: &str, args: &args::Doctor, config: &Config) -> Result<Vec<Finding>> {
    let mesh = if to.starts_with("nt1") {
        let dir = state::dir(args.state.dir.clone().or_else(|| config.dir.clone()))?;
        config.apply(Mesh::builder().dir(dir).accept(false)).start().await?
    } else {
        let invite = transfer::read_invite(to)?;
        config.apply(Mesh::builder().mesh(invite.mesh).accept(false)).start().await?
    };
    let ticket: net_sdk::Ticket = if to.starts_with("nt1") {
        to.parse().map_err(Failure::usage)?
    } else {
        transfer::read_invite(to)?.ticket
    };
    let measured = probe(&mesh, ticket).await;
    mesh.shutdown_within(Duration::from_secs(1)).await;
    measured
}

async fn probe(mesh: &Mesh, ticket: net_sdk::Ticket) -> Result<Vec<Finding>> {
    let peer = mesh.connect(ticket).await?;
    // Sizes are probed while nearly full packets are acknowledged: some data has to go.
    let stream = peer.open_stream(crate::ping::LABEL, net_sdk::Reliable).await?;
    let block = vec![0; 32 << 10];
    for _ in 0..16 {
        stream.send(&block).await?;
        if !matches!(tokio::time::timeout(Duration::from_secs(2), stream.recv()).await, Ok(Ok(Some(_)))) {
            break;
        }
    }
    _ = stream.finish().await;
    let stats = peer.stats().await?;
    let carried = format!("datagrams of {} bytes, round trip {}", stats.datagram_size, millis(stats.rtt));
    Ok(vec![
        Finding::good(
            "peer",
            format!("{:?} at {}", peer.id(), peer.addr().map_or("a relay".into(), |a| a.to_string())),
        ),
        if stats.datagram_size < 1_400 {
            Finding::note("path", carried, "a tunnel or a small MTU on the way; it works, with more packets")
        } else {
            Finding::good("path", carried)
        },
    ])
}
