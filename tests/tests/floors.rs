//! The floors of `proto`: reads the imports and fails on any arrow that points up or sideways.

use std::collections::{BTreeMap, BTreeSet};

use net_tests::source::{crate_paths, crate_sources, is_ident, is_path_sep, is_punct, rust_files, visit};
use proc_macro2::TokenTree;

/// From the ground up. A module imports only modules of lower floors, or a neighbour by an edge of
/// [`NEIGHBOURS`]. A module that stands on no floor fails the test.
const FLOORS: &[(&str, &[&str])] = &[
    ("ground", &["time", "entropy", "bounded", "codec", "identity", "storage", "timers", "planted"]),
    // Corners of two modules that all of the transport may see: plain values that know only the ground.
    ("handles", &["session::aead", "session::Peer", "path::Path", "path::Remote", "path::Ecn"]),
    ("transport", &["congestion", "handshake", "path", "recovery", "stream", "session"]),
    ("lane", &["lane"]),
    ("planes", &["bus"]),
    ("top", &["node", "registry"]),
];

/// Edges inside a floor. Each exists, and together they have no cycle.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("identity", "codec"),
    ("timers", "time"),
    ("recovery", "congestion"),
    ("session", "congestion"),
    ("session", "handshake"),
    ("session", "path"),
    ("session", "recovery"),
    ("session", "stream"),
    ("registry", "node"),
];

/// Longest source file, in lines.
const MAX_LINES: usize = 1_000;

/// Folders with sources of ours.
const FOLDERS: &[&str] = &["proto", "drivers", "sim", "tests", "fuzz"];

/// Files that may re-export everything of a module.
const GLOBS: &[&str] = &[];

/// Which node of the graph a path below the crate's root names.
fn place(path: &[String]) -> Option<&str> {
    let two = path.get(..2).map(|p| p.join("::"));
    let named = |name: &str| FLOORS.iter().flat_map(|(_, modules)| *modules).find(|m| **m == name);
    two.and_then(|two| named(&two)).or_else(|| named(path.first()?)).copied()
}

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|(_, modules)| modules.contains(&module)).expect("a module on a floor")
}

/// Every edge of `proto` with a place where it stands.
fn edges() -> BTreeMap<(&'static str, &'static str), String> {
    let root = net_tests::root();
    let mut edges = BTreeMap::new();
    for source in crate_sources(&root, &root.join("proto/src")) {
        if source.module.is_empty() {
            continue;
        }
        let known = |path: &[String], line: usize| {
            let name = place(path).unwrap_or_else(|| {
                panic!("{}:{line}: `{}` stands on no floor; add it to FLOORS", source.path, path.join("::"))
            });
            FLOORS.iter().flat_map(|(_, m)| *m).find(|m| **m == name).copied().expect("a named module")
        };
        let from = known(&source.module, 1);
        for (path, line) in crate_paths(&source.module, &source.tokens) {
            if path.is_empty() || path[0].starts_with(char::is_uppercase) {
                continue;
            }
            let to = known(&path, line);
            if from != to {
                edges.entry((from, to)).or_insert_with(|| format!("{}:{line}", source.path));
            }
        }
    }
    edges
}

#[test]
fn imports_point_down() {
    let edges = edges();
    assert!(edges.len() > 5, "the reader found almost nothing: {edges:?}");
    let mut wrong = Vec::new();
    for ((from, to), place) in &edges {
        // A module owns its handles.
        let own = to.split_once("::").is_some_and(|(owner, _)| owner == *from);
        let fine =
            floor(to) < floor(from) || floor(to) == floor(from) && NEIGHBOURS.contains(&(*from, *to)) || own;
        if !fine {
            wrong.push(format!("{place}: {from} -> {to}"));
        }
    }
    assert!(wrong.is_empty(), "arrows that are not allowed:\n{}", wrong.join("\n"));
    for edge in NEIGHBOURS {
        assert!(edges.contains_key(edge), "{} -> {} exists no more: strike it out", edge.0, edge.1);
    }
}

#[test]
fn neighbours_have_no_cycle() {
    let mut left: BTreeSet<_> = NEIGHBOURS.iter().collect();
    loop {
        // An edge whose target has no listed edge of its own cannot be part of a cycle.
        let done: Vec<_> = left.iter().copied().filter(|e| !left.iter().any(|f| f.0 == e.1)).collect();
        if done.is_empty() {
            break;
        }
        left.retain(|e| !done.contains(e));
    }
    assert!(left.is_empty(), "a cycle: {left:?}");
}

#[test]
fn no_file_grows_past_its_subject() {
    let root = net_tests::root();
    let mut long = Vec::new();
    for file in FOLDERS.iter().flat_map(|folder| rust_files(&root.join(folder))) {
        let lines = std::fs::read_to_string(&file).expect("a readable source").lines().count();
        if lines > MAX_LINES {
            long.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn public_names_are_listed_one_by_one() {
    let root = net_tests::root();
    let mut wrong = Vec::new();
    for folder in ["proto", "drivers", "sim"] {
        for file in rust_files(&root.join(folder)) {
            let path = file.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
            if GLOBS.contains(&path.as_str()) {
                continue;
            }
            let text = std::fs::read_to_string(&file).expect("a readable source");
            let tokens: Vec<TokenTree> =
                text.parse::<proc_macro2::TokenStream>().expect("Rust").into_iter().collect();
            visit(&tokens, &mut |run| {
                let [public, item, rest @ ..] = run else { return };
                if !is_ident(public, "pub") || !is_ident(item, "use") {
                    return;
                }
                let end = rest.iter().position(|t| is_punct(t, ';')).unwrap_or(rest.len());
                let glob = (0..end).any(|i| {
                    is_path_sep(&rest[i..end]) && matches!(rest.get(i + 2), Some(t) if is_punct(t, '*'))
                });
                if glob {
                    wrong.push(format!("{path}:{}", public.span().start().line));
                }
            });
        }
    }
    assert!(wrong.is_empty(), "`pub use …::*` hides what is public:\n{}", wrong.join("\n"));
}
