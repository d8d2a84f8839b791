//! Finding what would pick a branch by chance.

use std::fs;
use std::io;
use std::path::Path;

/// Every `select!` below a directory, in files of Rust, that does not begin with `biased;`, as
/// `file:line`. Without it tokio polls the branches in an order drawn from the system's randomness, and
/// one seed is no longer one run. What stands in comments and strings does not count.
///
/// # Errors
/// If a file or directory cannot be read.
pub fn unbiased_selects(dir: impl AsRef<Path>) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    look(dir.as_ref(), &mut found)?;
    Ok(found)
}

fn look(dir: &Path, found: &mut Vec<String>) -> io::Result<()> {
    let mut paths = fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.ends_with("target") {
            look(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let lines = unbiased(&fs::read_to_string(&path)?);
            found.extend(lines.into_iter().map(|line| format!("{}:{line}", path.display())));
        }
    }
    Ok(())
}

/// The lines of a source in which an unbiased `select!` begins.
fn unbiased(source: &str) -> Vec<usize> {
    let code = code_only(source);
    let mut lines = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find("select!").map(|at| from + at) {
        from = at + "select!".len();
        let whole_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let inside = code[from..].trim_start().strip_prefix(['{', '(', '[']);
        let first: String =
            inside.unwrap_or_default().chars().filter(|c| !c.is_whitespace()).take(7).collect();
        if whole_word && inside.is_some() && first != "biased;" {
            lines.push(code[..at].matches('\n').count() + 1);
        }
    }
    lines
}

/// The source with comments, strings and characters blanked out; lines stay where they are.
fn code_only(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let len = skipped(rest, out.chars().next_back());
        if len == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        out.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[len..];
    }
    out
}

/// Bytes of a comment or literal that begins here; zero if none does.
fn skipped(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        let (mut depth, mut at) = (0, 0);
        while at < rest.len() {
            let here = &rest[at..];
            if here.starts_with("/*") {
                (depth, at) = (depth + 1, at + 2);
            } else if here.starts_with("*/") {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            } else {
                at += here.chars().next().map_or(1, char::len_utf8);
            }
        }
        return rest.len();
    }
    if !in_word && let Some(raw) = rest.strip_prefix('r').or_else(|| rest.strip_prefix("br")) {
        let hashes = raw.chars().take_while(|c| *c == '#').count();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = rest.len() - raw.len() + hashes + 1;
            return rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len());
        }
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    // A character, and not a lifetime.
    if let Some(inside) = rest.strip_prefix('\'') {
        let mut inside = inside.chars();
        if inside.next() == Some('\\') || inside.next() == Some('\'') {
            return quoted(rest, '\'');
        }
    }
    0
}

fn quoted(rest: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == end {
            return at + c.len_utf8();
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unbiased_selects_are_found() {
        let source = r##"
            fn a<'a>(x: &'a str) { tokio::select! { biased; _ = f() => {} } }
            // select! { _ = f() => {} }
            /* select! { /* nested */ _ = f() => {} } */
            const TEXT: &str = "select! { no }"; const RAW: &str = r#"select! { "no" }"#;
            fn b() { let c = '"'; tokio::select! {
                // a remark
                biased;
                _ = f() => {} } }
            fn c() { tokio::select! { _ = f() => {} } }
            fn d() { my_select! { anything } }
            fn e() { futures::select!(x = f() => {}) }
        "##;
        assert_eq!(unbiased(source), [10, 12]);
    }
}
