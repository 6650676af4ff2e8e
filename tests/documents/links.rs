//! Links, anchors and paths of files lead to what is there.

use super::*;

fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the project").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("it can be looked at");
        let built = ["target", "dist", "vendor"].iter().any(|other| name == *other);
        if kind.is_dir() && !built && !name.to_string_lossy().starts_with('.') {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// A document without its code, in which a link is no link.
fn prose(document: &str) -> String {
    let mut code = false;
    let mut lines = Vec::new();
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code {
            // Spans of code may have brackets and parentheses.
            lines.push(line.split('`').step_by(2).collect::<Vec<_>>().join("code"));
        }
    }
    lines.join("\n")
}

/// The targets of `[text](target)`.
fn targets(document: &str) -> Vec<String> {
    let prose = prose(document);
    let parts = prose.split("](").skip(1);
    parts.filter_map(|part| Some(part.split_once(')')?.0.to_owned())).collect()
}

/// The anchors that a forge makes of the headings.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut code = false;
    let mut found = BTreeSet::new();
    for line in document.lines() {
        code ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if code || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = |one: &char| one.is_alphanumeric() || ['-', '_', ' '].contains(one);
        let anchor: String = title.trim().to_lowercase().chars().filter(kept).collect();
        let anchor = anchor.replace(' ', "-");
        let mut number = 0;
        let mut unique = anchor.clone();
        while !found.insert(unique) {
            number += 1;
            unique = format!("{anchor}-{number}");
        }
    }
    found
}

#[test]
fn every_link_inside_the_project_leads_somewhere() {
    let mut all = Vec::new();
    documents(root(), &mut all);
    assert!(all.len() > 15, "only {} documents", all.len());
    let mut wrong = Vec::new();
    for path in all {
        let text = fs::read_to_string(&path).expect("a document");
        for target in targets(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let leads_to = match file {
                "" => path.clone(),
                file => path.parent().expect("a folder").join(file),
            };
            let there = leads_to.exists();
            let found = anchor.is_empty()
                || fs::read_to_string(&leads_to).is_ok_and(|text| anchors(&text).contains(anchor));
            if !(there && found) {
                let path = path.strip_prefix(root()).expect("a file of the project");
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these lead nowhere: {wrong:#?}");
}

/// Files that are named without a link: `tests/lost.rs`, `integration/cli/`.
#[test]
fn every_file_that_is_named_exists() {
    const FOLDERS: [&str; 11] = [
        "src",
        "tests",
        "integration",
        "scripts",
        "deploy",
        "bench",
        "fuzz",
        "generate",
        "mnl-sys",
        "conflist-examples",
        ".ci",
    ];
    let mut all = Vec::new();
    documents(root(), &mut all);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in all {
        let text = fs::read_to_string(&path).expect("a document");
        // The changelog names files as they were.
        let spans = text.split('`').skip(1).step_by(2).filter(|_| !path.ends_with("CHANGELOG.md"));
        for span in spans.filter(|span| !span.contains(['*', '<', '…', ' ', '\n', '{'])) {
            let Some((folder, _)) = span.split_once('/') else { continue };
            if FOLDERS.contains(&folder) {
                seen += 1;
                if !root().join(span).exists() {
                    wrong.push(format!("{}: {span}", path.display()));
                }
            }
        }
    }
    assert!(seen > 60, "only {seen} files");
    assert!(wrong.is_empty(), "these do not exist: {wrong:#?}");
}

#[test]
fn the_index_has_every_document() {
    let index = targets(&read("docs/README.md"));
    for entry in fs::read_dir(root().join("docs")).expect("docs").flatten() {
        let name = entry.file_name().into_string().expect("a name of ours");
        if name != "README.md" && entry.path().extension().is_some_and(|end| end == "md") {
            assert!(index.contains(&name), "docs/README.md lacks {name}");
        }
    }
}

#[test]
fn links_and_anchors_are_seen() {
    let text = "# A `b` c: d\n\n## E\n## E\n[x](y.md#z) `[no](no.md)`\n```\n# no\n[n](n)\n```\n";
    assert_eq!(targets(text), ["y.md#z"]);
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), ["a-b-c-d", "e", "e-1"]);
}
