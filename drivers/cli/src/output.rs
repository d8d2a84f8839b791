//! What the program says: to people, or as JSON, one object a line.
//!
//! Results go to the standard output, progress and complaints to the standard error. Writing to a
//! closed pipe is no error: nobody reads any more.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::failure::Failure;

/// How to talk.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    bars: bool,
    colour: bool,
}

impl Output {
    /// As the arguments, the terminal and `NO_COLOR` (no-color.org) want it.
    pub fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            bars: stderr().is_terminal() && !dumb,
            colour: stdout().is_terminal() && !plain && !dumb,
        }
    }

    /// Whether the output is for programs.
    pub const fn json(self) -> bool {
        self.json
    }

    /// A line for people.
    pub fn say(self, line: impl AsRef<str>) {
        if !self.json {
            _ = writeln!(stdout(), "{}", line.as_ref());
        }
    }

    /// A line for people that is no result.
    pub fn note(self, line: impl AsRef<str>) {
        if !self.json {
            _ = writeln!(stderr(), "{}", line.as_ref());
        }
    }

    /// An object for programs.
    pub fn emit(self, value: &Value) {
        if self.json {
            let mut out = stdout().lock();
            _ = writeln!(out, "{value}");
            _ = out.flush();
        }
    }

    /// A closing table: names left, values right, continuation lines under the values.
    pub fn table(self, title: &str, rows: &[(&str, String)]) {
        if self.json {
            return;
        }
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.say("");
        self.say(if self.colour { format!("\x1b[1m{title}\x1b[0m") } else { title.to_string() });
        for (name, value) in rows {
            for (i, line) in value.lines().enumerate() {
                self.say(format!("  {:width$}  {line}", if i == 0 { name } else { "" }));
            }
        }
    }

    /// Why the program ends early.
    pub fn fail(self, failure: &Failure) {
        self.emit(&serde_json::json!({
            "event": "error", "code": failure.code as u8, "error": failure.what, "remedy": failure.remedy,
        }));
        let mut err = stderr().lock();
        _ = writeln!(err, "net: {}", failure.what);
        if let Some(remedy) = &failure.remedy {
            _ = writeln!(err, "     {remedy}");
        }
    }

    /// Room for progress bars.
    pub fn progress(self) -> Progress {
        let target =
            if self.bars && !self.json { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Progress { output: self, many: MultiProgress::with_draw_target(target) }
    }
}

/// Several bars on a terminal; a plain line now and then elsewhere; nothing with JSON.
pub struct Progress {
    output: Output,
    many: MultiProgress,
}

impl Progress {
    /// A bar that counts bytes.
    pub fn bytes(&self, name: &str, total: u64) -> Bar {
        self.bar(
            name,
            total,
            "{prefix:>10} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta}",
            true,
        )
    }

    /// A bar that counts things.
    pub fn count(&self, name: &str, total: u64) -> Bar {
        self.bar(name, total, "{prefix:>10} {wide_bar} {pos}/{len}", false)
    }

    /// Events of which nobody knows how many will come.
    pub fn flow(&self, name: &str) -> Bar {
        self.add(name, ProgressBar::no_length(), "{prefix:>10} {spinner} {human_pos} {per_sec} {msg}", false)
    }

    fn bar(&self, name: &str, total: u64, template: &str, bytes: bool) -> Bar {
        self.add(name, ProgressBar::new(total), template, bytes)
    }

    fn add(&self, name: &str, bar: ProgressBar, template: &str, bytes: bool) -> Bar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.many.add(bar.with_style(style).with_prefix(name.to_string()));
        bar.tick();
        let plain = !self.output.bars && !self.output.json;
        Bar { bar, plain: plain.then(|| Mutex::new(Instant::now())), bytes, output: self.output }
    }

    /// A line above the bars.
    pub fn note(&self, line: impl AsRef<str>) {
        if self.output.bars && !self.output.json {
            _ = self.many.println(line);
        } else {
            self.output.note(line);
        }
    }

    /// Takes all bars away.
    pub fn clear(&self) {
        _ = self.many.clear();
    }
}

/// How often a plain progress line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// One bar.
pub struct Bar {
    bar: ProgressBar,
    /// When the last plain line was written, where there is no terminal.
    plain: Option<Mutex<Instant>>,
    bytes: bool,
    output: Output,
}

impl Bar {
    /// So much more is done.
    pub fn add(&self, n: u64) {
        self.bar.inc(n);
        self.tell();
    }

    /// So much is done in all.
    pub fn set(&self, n: u64) {
        self.bar.set_position(n);
        self.tell();
    }

    /// So many events are acknowledged in all, and so many wait.
    pub fn flow(&self, acknowledged: u64, waiting: u64) {
        self.bar.set_position(acknowledged);
        self.bar.set_message(if waiting > 0 { format!("{waiting} wait") } else { String::new() });
        self.tell();
    }

    /// So much is done in all, and from here the speed is measured.
    pub fn begin_at(&self, n: u64) {
        self.bar.set_position(n);
        self.bar.reset_eta();
    }

    /// What has been done.
    pub fn position(&self) -> u64 {
        self.bar.position()
    }

    /// It is over; the bar goes.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn tell(&self) {
        let Some(last) = &self.plain else { return };
        let Ok(mut last) = last.lock() else { return };
        if last.elapsed() < PLAIN_EVERY {
            return;
        }
        *last = Instant::now();
        let done = self.bar.position();
        let rate = self.bar.per_sec() as u64;
        let Some(total) = self.bar.length() else {
            let line = format!("{:>10} {done}, {rate}/s  {}", self.bar.prefix(), self.bar.message());
            return self.output.note(line.trim_end());
        };
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        let show = |n| if self.bytes { size(n) } else { n.to_string() };
        self.output.note(format!(
            "{:>10} {percent:3} %  {} of {}, {}/s, ETA {} s",
            self.bar.prefix(),
            show(done),
            show(total),
            show(rate),
            self.bar.eta().as_secs()
        ));
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// So many of something, for people.
pub fn several(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// A short time for people.
pub fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.3} ms") } else { format!("{ms:.1} ms") }
}

/// Bytes per second for people.
pub fn rate(bytes: u64, time: Duration) -> String {
    format!("{}/s", size((bytes as f64 / time.as_secs_f64().max(1e-9)) as u64))
}

/// Text of a peer without anything that a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_their_unit_in_time() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.0 KiB");
        assert_eq!(size(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn one_is_not_several() {
        assert_eq!((several(1, "file"), several(0, "file")), ("1 file".into(), "0 files".into()));
    }

    #[test]
    fn a_peer_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb"), "a\u{fffd}[2Jb");
    }
}
