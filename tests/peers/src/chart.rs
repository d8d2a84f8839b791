//! The ratios as a bar chart: SVG as text, with its own background, legible in light and dark.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::{Result, report};

/// Where bars begin, in pixels.
const LEFT: f64 = 400.0;
const WIDTH: f64 = 420.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 64.0;
const ROW: f64 = 30.0;
const BOTTOM: f64 = 58.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.small{font-size:11px;fill:#59636e}\
.title{font-size:16px;font-weight:600}.paper{fill:#fff;stroke:#d1d9e0}.bar{fill:#2f6fdb}.short{fill:#c4622d}\
.line{stroke:#1f2328}.grid{stroke:#d1d9e0}.whisker{stroke:#1f2328;stroke-width:1.5}.goal{stroke:#1a7f37;\
stroke-width:2}.good{fill:#1a7f37}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.paper{fill:#0d1117;stroke:#3d444d}\
.bar{fill:#5b95f5}.short{fill:#e08a54}.line{stroke:#e6edf3}.grid{stroke:#30363d}.whisker{stroke:#e6edf3}\
.goal{stroke:#3fb950}.good{fill:#3fb950}}";

struct Bar {
    name: String,
    against: String,
    /// How many times better we are: of a figure that should be small, the inverse of the ratio.
    median: f64,
    min: f64,
    max: f64,
    goal: Option<f64>,
}

fn bar(row: &Value) -> Option<Bar> {
    let ratio = &row["ratio"];
    let at_least = row["sense"] == "at least";
    let better = |value: &Value| value.as_f64().map(|x| if at_least { x } else { 1.0 / x });
    let (a, b) = (better(&ratio["min"])?, better(&ratio["max"])?);
    Some(Bar {
        name: row["work"].as_str()?.to_string(),
        against: row["theirs"]["name"].as_str()?.to_string(),
        median: better(&ratio["median"])?,
        min: a.min(b),
        max: a.max(b),
        goal: better(&row["goal"]["bound"]),
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The command `chart`.
pub fn draw(json: &Path, svg: &Path) -> Result<()> {
    let all = report::read(json)?;
    std::fs::write(svg, picture(&all)?)?;
    Ok(())
}

fn picture(all: &Value) -> Result<String> {
    let peer = all["peer"].as_str().unwrap_or_default();
    let rows = all["rows"].as_array().ok_or("no rows")?;
    // Bare UDP does no work that we do: no comparison of equals.
    let bars: Vec<Bar> = rows.iter().filter_map(bar).filter(|bar| bar.against != "bare UDP").collect();
    let most = bars.iter().flat_map(|bar| [bar.max, bar.goal.unwrap_or(0.0)]).fold(2.0, f64::max).min(12.0);
    let top = most.ceil();
    let x = |value: f64| LEFT + value.min(top) / top * WIDTH;
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + ROW * bars.len() as f64 + BOTTOM);
    let foot = TOP + ROW * bars.len() as f64;
    let mut out = String::new();
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"Net against {peer}, times better\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n\
         <text class=\"title\" x=\"20\" y=\"30\">Net against {peer}: times better</text>\n\
         <text class=\"small\" x=\"20\" y=\"48\">Longer is better; 1x is {peer} unless another is named.</text>",
        width - 1.0,
        height - 1.0,
    )?;
    for step in 0..=top as u32 {
        let at = x(f64::from(step));
        let class = if step == 1 { "line" } else { "grid" };
        writeln!(
            out,
            "<line class=\"{class}\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{foot}\"/>\
             <text class=\"small\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{step}x</text>",
            TOP - 4.0,
            foot + 16.0
        )?;
    }
    for (i, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * i as f64;
        let middle = y + ROW / 2.0;
        let class = if bar.median < 1.0 { "short" } else { "bar" };
        writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\"/>\
             <line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.2}x</text>",
            LEFT - 10.0,
            middle + 4.0,
            escape(&bar.name),
            middle - 8.0,
            x(bar.median) - LEFT,
            x(bar.min),
            x(bar.max),
            x(bar.max.max(bar.median).max(bar.goal.unwrap_or(0.0))) + 8.0,
            middle + 4.0,
            bar.median
        )?;
        if let Some(goal) = bar.goal {
            let at = x(goal);
            writeln!(
                out,
                "<line class=\"goal\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                middle - 11.0,
                middle + 11.0
            )?;
        }
    }
    writeln!(
        out,
        "<text class=\"small\" x=\"20\" y=\"{:.1}\">Median of {} pairs in turn of {} s; thin line: smallest to \
         largest; <tspan class=\"good\">green: the goal</tspan>. {} cores, {}.</text>\n</svg>",
        foot + 40.0,
        all["pairs"],
        all["seconds"],
        all["cores"],
        escape(all["processor"].as_str().unwrap_or_default())
    )?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_figure_that_should_be_small_is_turned_round() {
        let row = json!({
            "work": "a < b", "sense": "at most", "theirs": {"name": "quinn"},
            "ratio": {"median": 0.5, "min": 0.4, "max": 1.0}, "goal": {"bound": 0.25},
        });
        let bar = bar(&row).unwrap();
        assert_eq!((bar.median, bar.min, bar.max, bar.goal), (2.0, 1.0, 2.5, Some(4.0)));
        let all =
            json!({"peer": "quinn", "rows": [row], "pairs": 7, "seconds": 2, "cores": 2, "processor": "x"});
        let picture = picture(&all).unwrap();
        assert!(picture.contains("2.00x") && picture.contains("a &lt; b"), "{picture}");
    }
}
