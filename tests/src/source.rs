//! Reads Rust sources as tokens, so that comments and strings cannot fool a rule.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One source file without its test code.
#[derive(Debug)]
pub struct Source {
    /// Path below the repository's root, with `/`.
    pub path: String,
    /// Module path below the crate's root: `["session", "aead"]`.
    pub module: Vec<String>,
    /// Its tokens; items under `#[cfg(test)]` are taken out.
    pub tokens: Vec<TokenTree>,
}

/// Every `.rs` file below `dir`, sorted; build output left out.
pub fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    open.push(path);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The sources of the crate whose `src` folder is `src`, without test code. `root` is cut off the paths.
pub fn crate_sources(root: &Path, src: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut test_modules: Vec<Vec<String>> = Vec::new();
    for file in rust_files(src) {
        let text = fs::read_to_string(&file).expect("a readable source");
        let path = file.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
        let module = module_of(file.strip_prefix(src).expect("below src"));
        let stream: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path} does not parse: {e}"));
        let (tokens, cut) = without_tests(stream);
        test_modules.extend(cut.into_iter().map(|name| [module.as_slice(), &[name]].concat()));
        sources.push(Source { path, module, tokens });
    }
    // A module declared under cfg(test) lives in a file of its own, perhaps with children.
    sources.retain(|s| !test_modules.iter().any(|test| s.module.starts_with(test)));
    sources
}

fn module_of(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Takes out every item under `#[cfg(test)]`; names the modules among them that live elsewhere.
fn without_tests(stream: TokenStream) -> (Vec<TokenTree>, Vec<String>) {
    let tokens: Vec<_> = stream.into_iter().collect();
    let (mut kept, mut cut) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        if !is_cfg_test(&tokens[at..]) {
            if let TokenTree::Group(group) = &tokens[at] {
                let (inner, names) = without_tests(group.stream());
                cut.extend(names);
                let mut group = proc_macro2::Group::new(group.delimiter(), inner.into_iter().collect());
                group.set_span(tokens[at].span());
                kept.push(TokenTree::Group(group));
            } else {
                kept.push(tokens[at].clone());
            }
            at += 1;
            continue;
        }
        // The item ends at its first `;` or `{ … }`.
        at += 2;
        while at < tokens.len() {
            if is_ident(&tokens[at], "mod") && matches!(tokens.get(at + 2), Some(t) if is_punct(t, ';')) {
                cut.push(tokens[at + 1].to_string());
            }
            let brace = matches!(&tokens[at], TokenTree::Group(g) if g.delimiter() == Delimiter::Brace);
            at += 1;
            if brace || is_punct(&tokens[at - 1], ';') {
                break;
            }
        }
    }
    (kept, cut)
}

fn is_cfg_test(tokens: &[TokenTree]) -> bool {
    let [hash, TokenTree::Group(group), ..] = tokens else { return false };
    let inner = group.stream().to_string().replace(' ', "");
    is_punct(hash, '#') && (inner == "cfg(test)" || inner.starts_with("cfg(all(test"))
}

/// Whether `token` is the word `word`.
pub fn is_ident(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if *ident == word)
}

/// Whether `token` is the sign `sign`.
pub fn is_punct(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// Whether `tokens` begin with `::`.
pub fn is_path_sep(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [a, b, ..] if is_punct(a, ':') && is_punct(b, ':'))
}

/// Calls `f` with every run of tokens that begins somewhere in `tokens`, inside groups too.
pub fn visit(tokens: &[TokenTree], f: &mut dyn FnMut(&[TokenTree])) {
    for at in 0..tokens.len() {
        f(&tokens[at..]);
        if let TokenTree::Group(group) = &tokens[at] {
            visit(&group.stream().into_iter().collect::<Vec<_>>(), f);
        }
    }
}

/// Every path in `tokens` that begins with `crate` or `super`, resolved to module and item names
/// below the crate's root: `use crate::{a::b, c}` in any module gives `["a", "b"]` and `["c"]`.
pub fn crate_paths(module: &[String], tokens: &[TokenTree]) -> Vec<(Vec<String>, usize)> {
    let mut found = Vec::new();
    walk(module, tokens, &mut found);
    found
}

fn walk(module: &[String], tokens: &[TokenTree], found: &mut Vec<(Vec<String>, usize)>) {
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if *word == "mod" => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    let inner = [module, &[name.to_string()]].concat();
                    walk(&inner, &body.stream().into_iter().collect::<Vec<_>>(), found);
                    at += 2;
                }
            }
            TokenTree::Ident(word) if *word == "crate" || *word == "super" => {
                let line = word.span().start().line;
                let mut base: Vec<String> = if *word == "crate" {
                    Vec::new()
                } else {
                    module[..module.len().saturating_sub(1)].to_vec()
                };
                at += 1;
                while is_path_sep(&tokens[at..])
                    && matches!(tokens.get(at + 2), Some(t) if is_ident(t, "super"))
                {
                    base.pop();
                    at += 3;
                }
                at += tree(base, &tokens[at..], line, found);
                continue;
            }
            TokenTree::Group(group) => {
                walk(module, &group.stream().into_iter().collect::<Vec<_>>(), found);
            }
            _ => {}
        }
        at += 1;
    }
}

/// Follows a path or use tree after its head; returns how many tokens it took.
fn tree(
    mut path: Vec<String>,
    tokens: &[TokenTree],
    line: usize,
    found: &mut Vec<(Vec<String>, usize)>,
) -> usize {
    let mut at = 0;
    while is_path_sep(&tokens[at..]) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(name)) => path.push(name.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                for branch in inner.split(|t| is_punct(t, ',')) {
                    if let Some(head) = branch.first() {
                        let mut path = path.clone();
                        if !is_ident(head, "self") {
                            path.push(head.to_string());
                        }
                        tree(path, &branch[1..], line, found);
                    }
                }
                return at + 3;
            }
            _ => break,
        }
        at += 3;
    }
    found.push((path, line));
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(module: &[&str], text: &str) -> Vec<String> {
        let module: Vec<_> = module.iter().map(ToString::to_string).collect();
        let (tokens, _) = without_tests(text.parse().unwrap());
        crate_paths(&module, &tokens).into_iter().map(|(path, _)| path.join("::")).collect()
    }

    #[test]
    fn use_trees_are_followed() {
        assert_eq!(
            paths(&["a"], "use crate::{b::{C, d::E}, f}; fn g() { crate::h::i(crate::j::K) }"),
            ["b::C", "b::d::E", "f", "h::i", "j::K"]
        );
        assert_eq!(paths(&["a"], "// crate::no\nconst S: &str = \"crate::no\";"), [""; 0]);
    }

    #[test]
    fn super_is_resolved_in_nested_modules() {
        assert_eq!(
            paths(&["a", "b"], "use super::C; mod d { use super::super::e::F; }"),
            ["a::C", "a::e::F"]
        );
    }

    #[test]
    fn test_code_is_taken_out() {
        assert_eq!(paths(&["a"], "#[cfg(test)] mod tests { use crate::b; } use crate::c;"), ["c"]);
        let (_, cut) = without_tests("#[cfg(test)] mod tests; mod live;".parse().unwrap());
        assert_eq!(cut, ["tests"]);
    }
}
