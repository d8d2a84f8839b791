//! Reference pages name everything that the sources have.

use std::fs;

use net_tests::source::crate_sources;
use proc_macro2::{Delimiter, TokenTree};

/// The variants of an enum, or the public fields of a struct, found by its name in the sources of `krate`.
fn members(krate: &str, file: &str, kind: &str, name: &str) -> Vec<String> {
    let root = net_tests::root();
    let sources = crate_sources(&root, &root.join(krate).join("src"));
    let source = sources
        .iter()
        .find(|s| s.path == format!("{krate}/src/{file}"))
        .unwrap_or_else(|| panic!("{krate}/src/{file} is gone"));
    let is = |tree: &TokenTree, text: &str| matches!(tree, TokenTree::Ident(i) if i == text);
    let at = source
        .tokens
        .windows(2)
        .position(|w| is(&w[0], kind) && is(&w[1], name))
        .unwrap_or_else(|| panic!("{file} has no {kind} {name}"));
    let body = source.tokens[at..]
        .iter()
        .find_map(|t| match t {
            TokenTree::Group(g) if g.delimiter() == Delimiter::Brace => Some(g.stream()),
            _ => None,
        })
        .expect("a body in braces");
    let mut found = Vec::new();
    let mut fresh = true;
    for tree in body {
        match &tree {
            TokenTree::Punct(p) if p.as_char() == ',' => fresh = true,
            TokenTree::Ident(i) if fresh && i != "pub" => {
                found.push(i.to_string());
                fresh = false;
            }
            _ => {}
        }
    }
    assert!(!found.is_empty(), "{name} has no members");
    found
}

/// The part of `page` under the heading that ends with `` `name` ``.
fn section<'a>(page: &'a str, name: &str) -> &'a str {
    let heading = format!("{name}`\n");
    let at = page.find(&heading).unwrap_or_else(|| panic!("no heading for {name}"));
    let rest = &page[at + heading.len()..];
    rest.split("\n## ").next().unwrap_or(rest)
}

fn named(page: &str, prefix: &str, member: &str) -> bool {
    page.contains(&format!("`{prefix}{member}`")) || page.contains(&format!("`{prefix}{member}."))
}

#[test]
fn every_error_has_a_remedy() {
    let page = fs::read_to_string(net_tests::root().join("docs/ERRORS.md")).expect("the page");
    let enums = [
        ("drivers/sdk", "error.rs", "Error"),
        ("drivers/sdk", "net/error.rs", "SdkError"),
        ("drivers/shell", "bus/adapter.rs", "AdapterError"),
        ("proto", "node/api.rs", "DialError"),
        ("proto", "session/mod.rs", "DownReason"),
        ("proto", "node/api.rs", "StreamError"),
        ("proto", "identity.rs", "IdentityError"),
        ("proto", "node/config.rs", "ConfigError"),
    ];
    let mut missing = Vec::new();
    for (krate, file, name) in enums {
        let table = section(&page, name);
        let variants = members(krate, file, "enum", name);
        missing.extend(
            variants
                .iter()
                .filter(|v| !table.contains(&format!("| `{v}` |")))
                .map(|v| format!("{name}::{v}")),
        );
        let rows = table.lines().filter(|l| l.starts_with("| `")).count();
        assert_eq!(rows, variants.len(), "{name}: the page has a row that the source has not");
    }
    assert!(missing.is_empty(), "not in docs/ERRORS.md: {missing:?}");
}

#[test]
fn every_setting_is_documented() {
    let page = fs::read_to_string(net_tests::root().join("docs/CONFIGURATION.md")).expect("the page");
    let structs = [
        ("proto", "node/config.rs", "Config", "node::Config", ""),
        ("proto", "session/mod.rs", "Config", "session::Config", ""),
        ("proto", "session/epoch.rs", "KeyLimits", "session::Config", "keys."),
        ("proto", "path/paths.rs", "Config", "session::Config", "paths."),
        ("proto", "stream/limits.rs", "Config", "stream::Config", ""),
        ("proto", "stream/limits.rs", "Limits", "stream::Config", "local."),
        ("drivers/shell", "runtime.rs", "UdpOptions", "UdpOptions", ""),
    ];
    let mut missing = Vec::new();
    for (krate, file, name, heading, prefix) in structs {
        let table = section(&page, heading);
        for field in members(krate, file, "struct", name) {
            if !named(table, prefix, &field) {
                missing.push(format!("{heading}: {prefix}{field}"));
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/CONFIGURATION.md: {missing:#?}");
}

/// The methods of a builder that an application calls before the last one.
fn builder_methods(file: &str, name: &str, last: &str) -> Vec<String> {
    let source =
        fs::read_to_string(net_tests::root().join("drivers/sdk/src").join(file)).expect("the source");
    let (_, rest) = source.split_once(&format!("impl {name} {{")).expect("the builder");
    let (body, _) = rest.split_once(&format!("pub async fn {last}")).expect("its end");
    let lines: Vec<_> = body.lines().map(str::trim).collect();
    let shown = |n: usize| n.checked_sub(1).is_none_or(|before| lines[before] != "#[doc(hidden)]");
    let names =
        lines.iter().enumerate().filter(|(n, _)| shown(*n)).filter_map(|(_, line)| {
            line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub const fn "))
        });
    names.map(|line| line.split('(').next().unwrap_or(line).to_owned()).collect()
}

#[test]
fn every_method_of_the_builders_is_documented() {
    for (file, name, last, page) in [
        ("builder.rs", "MeshBuilder", "start", "docs/CONFIGURATION.md"),
        ("net/builder.rs", "NetBuilder", "build", "docs/BUS.md"),
    ] {
        let text = fs::read_to_string(net_tests::root().join(page)).expect("the page");
        let methods = builder_methods(file, name, last);
        assert!(methods.len() > 10, "{methods:?}");
        let missing: Vec<_> = methods.iter().filter(|method| !named(&text, "", method)).collect();
        assert!(missing.is_empty(), "not in {page}: {missing:?}");
    }
}

#[test]
fn every_command_is_documented() {
    let page = fs::read_to_string(net_tests::root().join("docs/CLI.md")).expect("the page");
    let mut missing = Vec::new();
    let enums = [
        ("args.rs", "Command", "net "),
        ("args.rs", "Bench", "net bench "),
        ("args/bus.rs", "Bus", "net bus "),
    ];
    for (file, name, before) in enums {
        for command in members("drivers/cli", file, "enum", name) {
            // The far ends of benchmarks are hidden.
            if !command.starts_with("Bench") || command == "Bench" {
                let words = format!("{before}{}", command.to_lowercase());
                if !page.contains(&words) {
                    missing.push(words);
                }
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/CLI.md: {missing:?}");
}

#[test]
fn every_program_of_a_page_is_compiled() {
    let root = net_tests::root();
    let mut libraries = String::new();
    for krate in ["proto", "drivers/shell", "drivers/sdk", "drivers/cli", "sim"] {
        for file in ["lib.rs", "main.rs"] {
            libraries += &fs::read_to_string(root.join(krate).join("src").join(file)).unwrap_or_default();
        }
    }
    let mut pages = vec![root.join("README.md")];
    for folder in ["docs", "docs/protocol"] {
        let entries = fs::read_dir(root.join(folder)).expect("the pages");
        pages.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    pages.retain(|page| page.extension().is_some_and(|end| end == "md"));
    let mut missing = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page");
        let has = text.lines().any(|line| line.starts_with("```rust") && !line.contains("ignore"));
        let name = page.strip_prefix(&root).expect("below the root").to_str().expect("UTF-8");
        if has && !libraries.contains(&format!("{name}\")")) {
            missing.push(name.to_owned());
        }
    }
    assert!(missing.is_empty(), "programs that no doctest includes: {missing:?}");
}
