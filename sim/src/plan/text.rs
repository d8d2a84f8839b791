//! Plans as text, one line per fault: `at 3.2s cut 4->7 for 800ms`.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use net_proto::time::{Duration, nanos};
use thiserror::Error;

use super::{DiskFault, Fault, LinkFault, Nodes, Plan, What};

/// Why a text is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// A time as people write it, exact to the nanosecond.
pub(crate) fn show(ns: u64) -> String {
    let (unit, size) = match ns {
        0 => return "0s".into(),
        n if n >= 1_000_000_000 => ("s", 1_000_000_000),
        n if n >= 1_000_000 => ("ms", 1_000_000),
        n if n >= 1_000 => ("us", 1_000),
        _ => ("ns", 1),
    };
    let (whole, part) = (ns / size, ns % size);
    if part == 0 {
        return format!("{whole}{unit}");
    }
    let digits = size.ilog10() as usize;
    let part = format!("{part:0digits$}");
    format!("{whole}.{}{unit}", part.trim_end_matches('0'))
}

/// Reads what [`show`] writes.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a time such as 3.2s, 800ms, 40us or 5ns");
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = text.split_at(at);
    let size: u64 = match unit {
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        _ => return Err(bad()),
    };
    decimal(number, size).map(Duration::from_nanos).ok_or_else(bad)
}

/// A decimal times `size`, exact or nothing.
fn decimal(text: &str, size: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(part) || whole.is_empty() || part.len() > 9 {
        return None;
    }
    let mut sum = whole.parse::<u64>().ok()?.checked_mul(size)?;
    let mut unit = size;
    for digit in part.bytes() {
        if digit != b'0' && !unit.is_multiple_of(10) {
            return None;
        }
        unit /= 10;
        sum = sum.checked_add(u64::from(digit - b'0') * unit)?;
    }
    Some(sum)
}

fn percent(ppm: u32) -> String {
    let (whole, part) = (ppm / 10_000, ppm % 10_000);
    if part == 0 {
        return format!("{whole}%");
    }
    format!("{whole}.{}%", format!("{part:04}").trim_end_matches('0'))
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Ranges(ranges) = self else { return f.write_char('*') };
        for (i, range) in ranges.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match range.len() {
                1 => write!(f, "{comma}{}", range.start)?,
                _ => write!(f, "{comma}{}-{}", range.start, range.end - 1)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(node) => write!(f, "crash {node}"),
            Self::Jump(node, by) => write!(f, "jump {node} by {}", show(nanos(*by))),
            Self::Drift(node, ppm) => write!(f, "drift {node} by {ppm}ppm"),
            Self::Rebind(node) => write!(f, "rebind {node}"),
            Self::Roam(node) => write!(f, "roam {node}"),
            Self::Disk(node, does) => match does {
                DiskFault::Errors(ppm) => write!(f, "disk {node} errors {}", percent(*ppm)),
                DiskFault::Full => write!(f, "disk {node} full"),
                DiskFault::Lost(ppm) => write!(f, "disk {node} lost {}", percent(*ppm)),
                DiskFault::Torn(ppm) => write!(f, "disk {node} torn {}", percent(*ppm)),
                DiskFault::Misdirected(ppm) => write!(f, "disk {node} misdirected {}", percent(*ppm)),
                DiskFault::Rot => write!(f, "disk {node} rot"),
                DiskFault::Slow(by) => write!(f, "disk {node} slow {}", show(nanos(*by))),
            },
            Self::Link { from, to, both, does } => {
                let between = format!("{from}{}{to}", if *both { "<->" } else { "->" });
                match does {
                    LinkFault::Cut => write!(f, "cut {between}"),
                    LinkFault::Clog => write!(f, "clog {between}"),
                    LinkFault::Lose(ppm) => write!(f, "lose {between} {}", percent(*ppm)),
                    LinkFault::Bursts(enter, leave, loss) => {
                        let (enter, leave, loss) = (percent(*enter), percent(*leave), percent(*loss));
                        write!(f, "bursts {between} {enter} {leave} {loss}")
                    }
                    LinkFault::Drop(range) => write!(f, "drop {between} #{}-{}", range.start, range.end),
                    LinkFault::Slow(by) => write!(f, "slow {between} by {}", show(nanos(*by))),
                    LinkFault::Jitter(by) => write!(f, "jitter {between} by {}", show(nanos(*by))),
                    LinkFault::Reorder(ppm, by) => {
                        write!(f, "reorder {between} {} by {}", percent(*ppm), show(nanos(*by)))
                    }
                    LinkFault::Duplicate(ppm) => write!(f, "duplicate {between} {}", percent(*ppm)),
                    LinkFault::Corrupt(ppm) => write!(f, "corrupt {between} {}", percent(*ppm)),
                    LinkFault::Truncate(ppm) => write!(f, "truncate {between} {}", percent(*ppm)),
                    LinkFault::Mtu(size) => write!(f, "mtu {between} {size}"),
                    LinkFault::Rate(rate, queue) => write!(f, "rate {between} {rate}bps queue {queue}"),
                    LinkFault::Mark(ppm) => write!(f, "mark {between} {}", percent(*ppm)),
                    LinkFault::Bleach => write!(f, "bleach {between}"),
                }
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} {}", show(nanos(self.at)), self.what)?;
        match self.lasting {
            Some(lasting) => write!(f, " for {}", show(nanos(lasting))),
            None => Ok(()),
        }
    }
}

/// The words of a line, one after the other.
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn word(&mut self, want: &str) -> Result<(), String> {
        let got = self.next(&format!("the word `{want}`"))?;
        if got == want { Ok(()) } else { Err(format!("`{want}` was expected, not `{got}`")) }
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let text = self.next(what)?;
        text.parse().map_err(|_| format!("`{text}` is not {what}"))
    }

    fn suffixed<T: FromStr>(&mut self, suffix: &str, what: &str) -> Result<T, String> {
        let text = self.next(what)?;
        let number = text.strip_suffix(suffix).and_then(|n| n.parse().ok());
        number.ok_or_else(|| format!("`{text}` is not {what} with {suffix}"))
    }

    fn time(&mut self) -> Result<Duration, String> {
        time(self.next("a time")?)
    }

    fn by(&mut self) -> Result<Duration, String> {
        self.word("by")?;
        self.time()
    }

    fn percent(&mut self) -> Result<u32, String> {
        let text = self.next("a percentage")?;
        let ppm = text.strip_suffix('%').and_then(|n| decimal(n, 10_000));
        match ppm {
            Some(ppm) if ppm <= 1_000_000 => Ok(ppm as u32),
            _ => Err(format!("`{text}` is not a percentage with at most four decimals")),
        }
    }

    fn link(&mut self) -> Result<(Nodes, Nodes, bool), String> {
        let text = self.next("a link such as 4->7 or 0-3<->4-7")?;
        let (both, halves) = match text.split_once("<->") {
            Some(halves) => (true, Some(halves)),
            None => (false, text.split_once("->")),
        };
        let (from, to) = halves.ok_or_else(|| format!("`{text}` is not a link such as 4->7"))?;
        Ok((nodes(from)?, nodes(to)?, both))
    }
}

fn nodes(text: &str) -> Result<Nodes, String> {
    if text == "*" {
        return Ok(Nodes::All);
    }
    let bad = || format!("`{text}` is not a set of nodes such as 4, 0-24 or 1,3,5-9 or *");
    let number = |t: &str| t.parse::<u32>().ok().filter(|n| *n < 1 << 24);
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first).ok_or_else(bad)?, number(last).ok_or_else(bad)?);
        if first > last {
            return Err(bad());
        }
        all.extend(first..=last);
    }
    Ok(Nodes::of(all))
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut w = Words(line.split_whitespace());
        w.word("at")?;
        let at = w.time()?;
        let kind = w.next("what goes wrong")?;
        let what = match kind {
            "crash" => What::Crash(w.number("a node")?),
            "jump" => What::Jump(w.number("a node")?, w.by()?),
            "drift" => {
                let node = w.number("a node")?;
                w.word("by")?;
                What::Drift(node, w.suffixed("ppm", "parts per million")?)
            }
            "rebind" => What::Rebind(w.number("a node")?),
            "roam" => What::Roam(w.number("a node")?),
            "disk" => {
                let node = w.number("a node")?;
                let does = match w.next("what the disk does")? {
                    "errors" => DiskFault::Errors(w.percent()?),
                    "full" => DiskFault::Full,
                    "lost" => DiskFault::Lost(w.percent()?),
                    "torn" => DiskFault::Torn(w.percent()?),
                    "misdirected" => DiskFault::Misdirected(w.percent()?),
                    "rot" => DiskFault::Rot,
                    "slow" => DiskFault::Slow(w.time()?),
                    other => return Err(format!("a disk cannot be `{other}`")),
                };
                What::Disk(node, does)
            }
            _ => {
                let (from, to, both) = w.link()?;
                let does = match kind {
                    "cut" => LinkFault::Cut,
                    "clog" => LinkFault::Clog,
                    "lose" => LinkFault::Lose(w.percent()?),
                    "bursts" => LinkFault::Bursts(w.percent()?, w.percent()?, w.percent()?),
                    "drop" => {
                        let text = w.next("numbers such as #17-20")?;
                        let range = text.strip_prefix('#').and_then(|t| t.split_once('-'));
                        let range = range.and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
                        LinkFault::Drop(range.ok_or_else(|| format!("`{text}` is not #17-20"))?)
                    }
                    "slow" => LinkFault::Slow(w.by()?),
                    "jitter" => LinkFault::Jitter(w.by()?),
                    "reorder" => LinkFault::Reorder(w.percent()?, w.by()?),
                    "duplicate" => LinkFault::Duplicate(w.percent()?),
                    "corrupt" => LinkFault::Corrupt(w.percent()?),
                    "truncate" => LinkFault::Truncate(w.percent()?),
                    "mtu" => LinkFault::Mtu(w.number("a size in bytes")?),
                    "rate" => {
                        let rate = w.suffixed("bps", "a rate")?;
                        w.word("queue")?;
                        LinkFault::Rate(rate, w.number("bytes")?)
                    }
                    "mark" => LinkFault::Mark(w.percent()?),
                    "bleach" => LinkFault::Bleach,
                    other => return Err(format!("nothing is called `{other}`")),
                };
                What::Link { from, to, both, does }
            }
        };
        let lasting = match w.0.next() {
            None => None,
            Some("for") => Some(w.time()?),
            Some(other) => return Err(format!("`for` was expected, not `{other}`")),
        };
        match w.0.next() {
            None => Ok(Self { at, lasting, what }),
            Some(rest) => Err(format!("nothing may follow, but `{rest}` does")),
        }
    }
}

impl FromStr for Plan {
    type Err = ParseError;

    /// Empty lines and what follows a `#` at a line's beginning are skipped.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(i, line)| (i + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let mut head = |want: &str| -> Result<(usize, String), ParseError> {
            let (line, text) =
                lines.next().ok_or_else(|| ParseError { line: 0, what: format!("`{want}` is missing") })?;
            match text.strip_prefix(want).and_then(|rest| rest.strip_prefix(' ')) {
                Some(rest) => Ok((line, rest.trim().to_owned())),
                None => Err(ParseError { line, what: format!("`{want} ..` was expected") }),
            }
        };
        let (line, version) = head("net-sim plan")?;
        if version != "1" {
            return Err(ParseError { line, what: format!("version {version} is not known, only 1 is") });
        }
        let (_, scenario) = head("scenario")?;
        let (line, seed) = head("seed")?;
        let seed = seed.parse().map_err(|e| ParseError { line, what: format!("seed: {e}") })?;
        let (line, nodes) = head("nodes")?;
        let nodes = nodes.parse().map_err(|e| ParseError { line, what: format!("nodes: {e}") })?;
        let (line, span) = head("time")?;
        let time = time(&span).map_err(|what| ParseError { line, what })?;
        let faults = lines.map(|(line, text)| text.parse().map_err(|what| ParseError { line, what }));
        Ok(Self { scenario, seed, nodes, time, faults: faults.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact() {
        for ns in [0, 1, 999, 1_000, 1_500, 40_000, 800_000_000, 3_200_000_000, 60_000_000_001, u64::MAX] {
            assert_eq!(time(&show(ns)), Ok(Duration::from_nanos(ns)), "{}", show(ns));
        }
        assert_eq!(show(3_200_000_000), "3.2s");
        assert_eq!(show(800_000_000), "800ms");
        for bad in ["", "s", "3", "3m", "1.5ns", "3.2.1s", "-1s", "99999999999999s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plan_survives_its_text() {
        let text = "\
net-sim plan 1
scenario stations
seed 7
nodes 50
time 30s
at 3.2s cut 4->7 for 800ms
at 3.2s cut 0-24<->25-49 for 20s
at 4s clog 1,3,5-9->* for 1.5s
at 5s lose 4->7 12.34% for 1s
at 5s bursts 4->7 1% 20% 80% for 1s
at 5s drop 4->7 #17-20
at 5s slow 4->7 by 100ms for 1s
at 5s jitter 4->7 by 3ms for 1s
at 5s reorder 4->7 10% by 20ms for 1s
at 5s duplicate *->* 0.5% for 1s
at 5s corrupt 4->7 1% for 1s
at 5s truncate 4->7 1% for 1s
at 5s mtu 4->7 1200 for 1s
at 5s rate 4->7 1000000bps queue 30000 for 1s
at 5s mark 4->7 5% for 1s
at 5s bleach 4->7 for 1s
at 6s crash 12 for 2s
at 6s crash 13
at 7s jump 3 by 5s
at 7s drift 3 by -200ppm for 9s
at 8s rebind 3
at 8s roam 3
at 9s disk 3 errors 10% for 1s
at 9s disk 3 full for 1s
at 9s disk 3 lost 10% for 1s
at 9s disk 3 torn 10% for 1s
at 9s disk 3 misdirected 10% for 1s
at 9s disk 3 rot
at 9s disk 3 slow 40ms for 1s
";
        let plan: Plan = text.parse().unwrap();
        assert_eq!(plan.faults.len(), 29);
        assert_eq!(plan.to_string(), text);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let head = "net-sim plan 1\nscenario x\nseed 1\nnodes 2\ntime 1s\n";
        for (bad, says) in [
            ("cut 4->7", "`at` was expected"),
            ("at 3 cut 4->7", "not a time"),
            ("at 3s melt 4->7", "nothing is called `melt`"),
            ("at 3s cut 4-7", "not a link"),
            ("at 3s cut 7-4->1", "not a set of nodes"),
            ("at 3s lose 1->2 101%", "not a percentage"),
            ("at 3s lose 1->2", "a percentage is missing"),
            ("at 3s cut 1->2 for 1s more", "nothing may follow"),
            ("at 3s disk 1 melted", "a disk cannot be `melted`"),
        ] {
            let error = format!("{head}# a comment\n\n{bad}\n").parse::<Plan>().unwrap_err();
            assert!(error.what.contains(says) && error.line == 8, "{bad}: {error}");
        }
        assert!("net-sim plan 2\n".parse::<Plan>().is_err());
    }
}
