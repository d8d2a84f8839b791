//! Relative links in our pages lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

/// What pages may already point at although it does not exist yet.
const COMING: &[&str] = &[];

fn pages(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            pages(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The targets of `[text](target)`, fenced code left out.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for part in line.split("](").skip(1) {
            found.extend(part.split(')').next());
        }
    }
    found
}

#[test]
fn relative_links_resolve() {
    let root = net_tests::root();
    let mut found = Vec::new();
    pages(&root, &mut found);
    assert!(found.len() > 5, "found almost no pages");
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for page in found {
        let text = fs::read_to_string(&page).expect("a readable page");
        let dir = page.parent().expect("a page lies in a folder");
        for link in links(&text).into_iter().filter(|l| !l.contains("://") && !l.starts_with(['#', '<'])) {
            let target = dir.join(link.split('#').next().unwrap_or(link));
            checked += 1;
            let coming = COMING.iter().any(|c| root.join(c) == target);
            if !target.exists() && !coming {
                wrong.push(format!("{}: {link}", page.strip_prefix(&root).unwrap_or(&page).display()));
            }
        }
    }
    assert!(checked > 20, "found almost no links");
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn links_are_found() {
    assert_eq!(links("a [b](c.md) and ![d](e.svg#f)\n```\n[no](no)\n```"), ["c.md", "e.svg#f"]);
}
