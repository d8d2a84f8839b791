//! Figures for people: a row on the terminal, a table for a page.

use std::path::Path;

use serde_json::Value;

use crate::Result;

pub fn read(path: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// A figure with its unit, at three digits.
fn figure(value: f64, unit: &str) -> String {
    match unit {
        "bytes" => format!("{:.1} MiB", value / f64::from(1 << 20)),
        "%" => format!("{value:.3} %"),
        _ if value >= 1e6 => format!("{:.2} M {unit}", value / 1e6),
        _ if value >= 1e4 => format!("{:.1} k {unit}", value / 1e3),
        _ if value >= 100.0 => format!("{value:.0} {unit}"),
        _ => format!("{value:.2} {unit}"),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn side(side: &Value, unit: &str) -> String {
    if side.is_null() { String::new() } else { figure(number(&side["median"]), unit) }
}

fn compared(row: &Value) -> String {
    let (from, mark) = if row["ratio"].is_null() { (&row["ours"], "") } else { (&row["ratio"], "x") };
    let show = |key| {
        let value = number(&from[key]);
        if mark.is_empty() { figure(value, text(&row["unit"])) } else { format!("{value:.2}{mark}") }
    };
    format!("{} ({} to {})", show("median"), show("min"), show("max"))
}

fn bound(row: &Value, name: &str) -> String {
    let held = &row[name];
    if held.is_null() {
        return String::new();
    }
    let sign = if row["sense"] == "at least" { "≥" } else { "≤" };
    let value = number(&held["bound"]);
    let value =
        if row["ratio"].is_null() { figure(value, text(&row["unit"])) } else { format!("{value:.1}x") };
    format!("{sign} {value}: {}", text(&held["verdict"]))
}

/// One row on the terminal.
pub fn print(row: &Value) {
    let unit = text(&row["unit"]);
    println!("{}: {}", text(&row["id"]), text(&row["work"]));
    for side in [&row["ours"], &row["theirs"]] {
        if side.is_null() {
            continue;
        }
        let [median, min, max] = ["median", "min", "max"].map(|key| figure(number(&side[key]), unit));
        println!("  {:14} {median} ({min} to {max})  {}", text(&side["name"]), side["conditions"]);
    }
    if !row["ratio"].is_null() {
        println!("  {:14} {}", "ratio", compared(row));
    }
    for name in ["bar", "goal"] {
        if !row[name].is_null() {
            println!("  {name:14} {}", bound(row, name));
        }
    }
}

/// The command `table`.
pub fn table(path: &Path) -> Result<()> {
    let all = read(path)?;
    println!("| Work | Net | {} | Ratio (spread) | Bar | Goal |", text(&all["peer"]));
    println!("|---|---|---|---|---|---|");
    for row in all["rows"].as_array().into_iter().flatten() {
        let unit = text(&row["unit"]);
        let theirs = match text(&row["theirs"]["name"]) {
            "" => String::new(),
            name if name == all["peer"] => side(&row["theirs"], unit),
            name => format!("{name}: {}", side(&row["theirs"], unit)),
        };
        println!(
            "| {} | {} | {theirs} | {} | {} | {} |",
            text(&row["work"]),
            side(&row["ours"], unit),
            if row["ratio"].is_null() { String::new() } else { compared(row) },
            bound(row, "bar"),
            bound(row, "goal")
        );
    }
    println!();
    println!(
        "{} pairs in turn, {} s each, counted at the receiver, {} cores of {}. The ratio is ours divided by \
         theirs, the median over the pairs, with the smallest and the largest.",
        all["pairs"],
        all["seconds"],
        all["cores"],
        text(&all["processor"])
    );
    Ok(())
}
