//! A run as a picture for people: nodes are lanes, datagrams arrows from when they left to when they
//! arrived, faults bands. As text, and as one HTML file that needs nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Entry, Item, Record, datagram_kind};
use crate::plan::show;

/// Rows of the picture; a longer run shows its end.
const ROWS: usize = 3_000;
/// Lanes of the picture.
const LANES: usize = 64;

/// What the timeline shows.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Title: the test and its seed.
    pub title: String,
    /// Why the run failed, if it did.
    pub failure: Option<String>,
    /// Only these nodes, if there are any.
    pub nodes: Vec<u32>,
}

struct Lanes {
    nodes: Vec<u32>,
}

impl Lanes {
    fn new(record: &Record, options: &Options) -> Self {
        let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
        for entry in &record.entries {
            if let Some(node) = node_of(&entry.what) {
                *seen.entry(node).or_default() += 1;
            }
        }
        let wanted: BTreeSet<u32> = options.nodes.iter().copied().collect();
        let mut nodes: Vec<(u32, u64)> =
            seen.into_iter().filter(|(n, _)| wanted.is_empty() || wanted.contains(n)).collect();
        // The busiest, in order of their numbers.
        nodes.sort_by_key(|(node, count)| (std::cmp::Reverse(*count), *node));
        nodes.truncate(LANES);
        let mut nodes: Vec<u32> = nodes.into_iter().map(|(n, _)| n).collect();
        nodes.sort_unstable();
        Self { nodes }
    }

    fn x(&self, node: u32) -> Option<usize> {
        self.nodes.binary_search(&node).ok().map(|lane| 170 + lane * 150)
    }
}

const fn node_of(item: &Item) -> Option<u32> {
    match item {
        Item::Sent { node, .. }
        | Item::Arrived { node, .. }
        | Item::Said { node, .. }
        | Item::Life { node, .. } => Some(*node),
        Item::Fault { .. } => None,
    }
}

/// The run as text, a line for each thing that happened.
pub fn text(record: &Record, options: &Options) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", options.title);
    if record.dropped > 0 {
        let _ = writeln!(out, "({} earlier entries are not kept)", record.dropped);
    }
    let mut left: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
    for Entry { at, what, .. } in &record.entries {
        let shown = |node: u32| options.nodes.is_empty() || options.nodes.contains(&node);
        if node_of(what).is_some_and(|n| !shown(n)) {
            continue;
        }
        let _ = write!(out, "{:>14} ", show(*at));
        let _ = match what {
            Item::Sent { node, id, src, dst, data, .. } => {
                left.insert(*id, (*node, *at));
                let (kind, len) = (datagram_kind(data), data.len());
                writeln!(out, "node {node:<4} sends #{id} {kind} {len} B from {src} to {dst}")
            }
            Item::Arrived { node, id, len } => match left.get(id) {
                Some((from, since)) => {
                    writeln!(
                        out,
                        "node {node:<4} gets  #{id} {len} B from node {from} after {}",
                        show(at - since)
                    )
                }
                None => writeln!(out, "node {node:<4} gets  #{id} {len} B"),
            },
            Item::Said { node, text } => writeln!(out, "node {node:<4} {text}"),
            Item::Life { node, begins } => {
                writeln!(out, "node {node:<4} {}", if *begins { "STARTS" } else { "CRASHES" })
            }
            Item::Fault { number, text, begins } => {
                let word = if *begins { "BEGINS" } else { "ENDS" };
                let name = if *number == usize::MAX { String::new() } else { format!("fault {number} ") };
                writeln!(out, "---- {name}{word}: {text}")
            }
        };
    }
    if let Some(failure) = &options.failure {
        let _ = writeln!(out, "FAILED {failure}");
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The run as one HTML file with a drawing in it. Rows are instants in order, not to scale, so that a
/// busy millisecond and a quiet minute are both readable.
pub fn html(record: &Record, options: &Options) -> String {
    let lanes = Lanes::new(record, options);
    let shown: Vec<&Entry> =
        record.entries.iter().filter(|e| node_of(&e.what).is_none_or(|n| lanes.x(n).is_some())).collect();
    let skipped = shown.len().saturating_sub(ROWS);
    let shown = &shown[skipped..];
    let arrivals: BTreeSet<u64> = shown
        .iter()
        .filter_map(|e| if let Item::Arrived { id, .. } = e.what { Some(id) } else { None })
        .collect();
    let y = |row: usize| 60 + row * 14;
    let width = 170 + lanes.nodes.len().max(1) * 150 + 40;
    let height = y(shown.len()) + 60;
    let mut out = String::new();
    let mut put = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    put("<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    put(&format!("<title>{}</title>", escape(&options.title)));
    put("<style>body{font:13px sans-serif;margin:1em}svg{background:#fff}text{font:10px monospace}\
         .lane{stroke:#bbb}.m{stroke:#36c;fill:none;marker-end:url(#a)}.h{stroke:#080}.l{stroke:#c33;\
         stroke-dasharray:3 2;marker-end:none}.f{fill:#c33}.band{stroke:#c33;stroke-width:3;opacity:.5}\
         .s{fill:#555}.life{fill:#c33;font-weight:bold}.end{fill:#c33;font-weight:bold}</style></head><body>");
    put(&format!("<h1>{}</h1>", escape(&options.title)));
    if let Some(failure) = &options.failure {
        put(&format!("<p class=\"end\">{}</p>", escape(failure)));
    }
    let earlier = record.dropped + skipped as u64;
    put(&format!(
        "<p>Time goes down, a row for each thing that happened; blue arrows are data, green ones \
         handshakes, red dashes datagrams that did not arrive, red bars faults. <a href=\"#end\">To the \
         end</a>.{}</p>",
        if earlier > 0 { format!(" {earlier} earlier entries are not shown.") } else { String::new() }
    ));
    put(&format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\">"));
    put(
        "<defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" \
         orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#36c\"/></marker></defs>",
    );
    for node in &lanes.nodes {
        let x = lanes.x(*node).unwrap_or(0);
        put(&format!("<line class=\"lane\" x1=\"{x}\" y1=\"40\" x2=\"{x}\" y2=\"{}\"/>", height - 20));
        put(&format!("<text x=\"{}\" y=\"30\">node {node}</text>", x - 20));
    }
    let mut left: BTreeMap<u64, (usize, usize, &'static str, usize)> = BTreeMap::new();
    let mut bands: BTreeMap<usize, usize> = BTreeMap::new();
    let mut last = u64::MAX;
    for (row, Entry { at, what, .. }) in shown.iter().enumerate() {
        let y = y(row);
        if *at != last {
            put(&format!("<text x=\"4\" y=\"{}\">{}</text>", y + 3, show(*at)));
            last = *at;
        }
        match what {
            Item::Sent { node, id, dst, data, .. } => {
                let Some(x) = lanes.x(*node) else { continue };
                let kind = datagram_kind(data);
                left.insert(*id, (x, y, kind, data.len()));
                if !arrivals.contains(id) {
                    put(&format!(
                        "<path class=\"m l\" d=\"M{x} {y}l40 10\"><title>#{id} {kind} {} B to {dst}: did not \
                         arrive</title></path>",
                        data.len()
                    ));
                }
            }
            Item::Arrived { node, id, .. } => {
                let (Some(x), Some((fx, fy, kind, len))) = (lanes.x(*node), left.get(id)) else { continue };
                let class = if *kind == "data" { "m" } else { "m h" };
                put(&format!(
                    "<path class=\"{class}\" d=\"M{fx} {fy}L{x} {y}\"><title>#{id} {kind} {len} B</title></path>"
                ));
            }
            Item::Said { node, text } => {
                let Some(x) = lanes.x(*node) else { continue };
                let name = text.trim_start_matches("-> ");
                let word: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
                put(&format!(
                    "<g class=\"s\"><circle cx=\"{x}\" cy=\"{y}\" r=\"2\"/><text x=\"{}\" y=\"{}\">{}</text><title>{}\
                     </title></g>",
                    x + 5,
                    y + 3,
                    escape(&word),
                    escape(text)
                ));
            }
            Item::Life { node, begins } => {
                let Some(x) = lanes.x(*node) else { continue };
                let word = if *begins { "starts" } else { "crashes" };
                put(&format!("<text class=\"life\" x=\"{}\" y=\"{}\">{word}</text>", x + 5, y + 3));
            }
            Item::Fault { number, text, begins } => {
                let x = 120 + (number % 6) * 6;
                if *begins {
                    bands.insert(*number, y);
                } else if let Some(from) = bands.remove(number) {
                    put(&format!("<line class=\"band\" x1=\"{x}\" y1=\"{from}\" x2=\"{x}\" y2=\"{y}\"/>"));
                }
                let word = if *begins { "" } else { "end of " };
                put(&format!(
                    "<text class=\"f\" x=\"{}\" y=\"{}\">{word}{}</text>",
                    x + 8,
                    y + 3,
                    escape(text)
                ));
            }
        }
    }
    for (number, from) in bands {
        let x = 120 + (number % 6) * 6;
        put(&format!("<line class=\"band\" x1=\"{x}\" y1=\"{from}\" x2=\"{x}\" y2=\"{}\"/>", height - 40));
    }
    if let Some(failure) = &options.failure {
        put(&format!(
            "<text id=\"end\" class=\"end\" x=\"4\" y=\"{}\">{}</text>",
            height - 25,
            escape(failure)
        ));
    }
    put("</svg></body></html>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_proto::path::Ecn;

    fn record() -> Record {
        let mut record = Record::default();
        let addr = |n: u8| std::net::SocketAddr::from(([10, 0, 0, n], 7_000));
        let sent =
            |id| Item::Sent { node: 4, id, src: addr(5), dst: addr(8), ecn: Ecn::NotEct, data: vec![5; 60] };
        let fault = |begins| Item::Fault { number: 0, text: "cut 4->7".into(), begins };
        let items = [
            (0, Item::Life { node: 4, begins: true }),
            (1_000_000, sent(1)),
            (2_000_000, fault(true)),
            (3_000_000, sent(2)),
            (11_000_000, Item::Arrived { node: 7, id: 1, len: 60 }),
            (11_000_000, Item::Said { node: 7, text: "Readable <x>".into() }),
            (12_000_000, fault(false)),
        ];
        record.entries.extend(items.into_iter().map(|(at, what)| Entry { at, event: 0, what }));
        record
    }

    fn options() -> Options {
        Options { title: "a <test>".into(), failure: Some("at 12ms: broken".into()), nodes: vec![] }
    }

    #[test]
    fn the_text_tells_what_happened() {
        let text = text(&record(), &options());
        for want in [
            "1ms node 4    sends #1 data 60 B",
            "gets  #1 60 B from node 4 after 10ms",
            "fault 0 BEGINS: cut 4->7",
            "FAILED at 12ms: broken",
        ] {
            assert!(text.contains(want), "{want}\n{text}");
        }
    }

    #[test]
    fn the_picture_has_lanes_arrows_and_faults_and_nothing_from_outside() {
        let html = html(&record(), &options());
        assert_eq!(html.matches("class=\"lane\"").count(), 2);
        assert_eq!(html.matches("class=\"m\"").count(), 1, "one arrived");
        assert_eq!(html.matches("class=\"m l\"").count(), 1, "one did not");
        assert_eq!(html.matches("class=\"band\"").count(), 1);
        assert!(html.contains("Readable &lt;x&gt;") && html.contains("a &lt;test&gt;"));
        assert_eq!(html.matches("http").count(), 1, "only the name of the drawing's language");
        assert_eq!(html.matches("<g").count(), html.matches("</g>").count());
    }
}
