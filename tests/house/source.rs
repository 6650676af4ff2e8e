//! The files of a crate as the house rules see them: code without comments, strings and tests, the
//! paths that it names, and its functions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file.
pub(crate) struct Source {
    /// Below the crate's folder of sources.
    pub(crate) path: String,
    /// Where it is in the tree of modules; empty for `lib.rs` and `main.rs`.
    pub(crate) module: Vec<String>,
    pub(crate) text: String,
    /// Without comments, without what is between quotes, and without the inline tests at its end.
    pub(crate) code: String,
    /// What is between quotes there, one literal a line.
    pub(crate) strings: String,
}

/// The files of the library and of the plugin.
pub(crate) fn sources() -> Vec<Source> {
    below("src")
}

/// The files of the node agent.
pub(crate) fn agent_sources() -> Vec<Source> {
    below("agent/src")
}

fn below(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("sources can be listed") {
            let path: PathBuf = entry.expect("sources can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file can be read");
                let below = path.strip_prefix(&root).expect("it was found there");
                sources.push(Source::new(&below.display().to_string(), text));
            }
        }
    }
    assert!(sources.len() > 5, "where are the sources? found {}", sources.len());
    sources
}

impl Source {
    pub(crate) fn new(path: &str, text: String) -> Self {
        let mut module: Vec<String> =
            path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        let (code, strings) =
            code_and_strings(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(""));
        Self { path: path.to_owned(), module, text, code, strings }
    }

    /// The first segment of its module.
    pub(crate) fn room(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }

    pub(crate) fn is_test(&self) -> bool {
        self.module.iter().any(|segment| segment == "tests")
    }

    /// The paths that it names from `crate`, by the name that each has here.
    pub(crate) fn named(&self) -> Vec<(String, Vec<String>)> {
        let mut named = Vec::new();
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let mut rest = self.code.as_str();
        while let Some(at) =
            ["crate::", "super::", "self::"].iter().filter_map(|root| rest.find(root)).min()
        {
            let (before, mut path) = rest.split_at(at);
            let mut base = self.module.clone();
            let whole = !before.ends_with(is_name) && !before.ends_with(':');
            if let Some(below) = path.strip_prefix("crate::") {
                base.clear();
                path = below;
            } else if let Some(below) = path.strip_prefix("self::") {
                path = below;
            } else {
                while let Some(below) = path.strip_prefix("super::") {
                    base.pop();
                    path = below;
                }
            }
            if whole {
                paths(path, &base, &mut named);
            }
            rest = path;
        }
        named
    }

    /// The modules below it that are in files of their own, but for its tests.
    pub(crate) fn children(&self) -> impl Iterator<Item = &str> {
        let declared = self.code.lines().filter_map(|line| line.trim().strip_suffix(';'));
        let names = declared.filter_map(|line| {
            line.rsplit_once("mod ")
                .filter(|(before, _)| before.is_empty() || before.starts_with("pub"))
        });
        names.map(|(_, name)| name).filter(|name| *name != "tests")
    }

    /// Its functions with their numbers of lines, as rustfmt lays them out.
    pub(crate) fn functions(&self) -> Vec<(String, usize)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut functions = Vec::new();
        for (start, line) in lines.iter().enumerate() {
            let indent = &line[..line.len() - line.trim_start().len()];
            let Some((before, after)) = line.split_once("fn ") else { continue };
            let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern"];
            let is_head = before
                .split_whitespace()
                .all(|word| words.contains(&word) || word.starts_with('"'));
            if !is_head || line.ends_with([';', '}']) {
                continue;
            }
            let end = format!("{indent}}}");
            let length = lines[start..].iter().position(|line| *line == end).map_or(0, |at| at + 1);
            functions.push((after.split(['(', '<']).next().unwrap_or_default().to_owned(), length));
        }
        functions
    }
}

/// Adds the paths at the beginning of `text`, which may be a group in braces, with `base` before each.
/// Gives what is behind them.
fn paths<'a>(text: &'a str, base: &[String], found: &mut Vec<(String, Vec<String>)>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches([',', ' ', '\n']);
            if let Some(behind) = rest.strip_prefix('}') {
                return behind;
            }
            let behind = paths(rest, base, found);
            if behind.len() == rest.len() {
                return behind;
            }
            rest = behind;
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut path = base.to_vec();
    if !matches!(name, "" | "self") {
        path.push(name.to_owned());
    }
    if let Some(below) = rest.strip_prefix("::").filter(|below| !below.starts_with('<')) {
        return paths(below, &path, found);
    }
    if let Some(renamed) = rest.strip_prefix(" as ") {
        let end =
            renamed.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(renamed.len());
        found.push((renamed[..end].to_owned(), path));
        return &renamed[end..];
    }
    let own = path.last().cloned().unwrap_or_default();
    found.push((own, path));
    rest.strip_prefix('*').unwrap_or(rest)
}

/// The blocks of doc comments in a source file, in one line each: help texts, and what a reader of the library meets.
pub(crate) fn doc_comments(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block = String::new();
    for line in text.lines().map(str::trim).chain([""]) {
        match line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) {
            Some(comment) => block += comment,
            None if block.is_empty() => {}
            None => blocks.push(std::mem::take(&mut block)),
        }
    }
    blocks
}

/// Code without comments, and its string literals. Good enough for code that rustfmt has seen: no
/// block comments, no quotes in character literals but `'"'`.
fn code_and_strings(text: &str) -> (String, String) {
    let (mut code, mut strings) = (String::new(), String::new());
    let (mut inside, mut continued) = (false, false);
    for line in text.lines() {
        let mut rest = line.replace("'\"'", "' '").replace("b'\"'", "' '");
        if !inside && let Some(start) = rest.find("//") {
            // An address in a string is no comment.
            if rest[..start].matches('"').count() % 2 == 0 {
                rest.truncate(start);
            }
        }
        let rest = if continued { rest.trim_start() } else { &rest };
        let mut escaped = false;
        for c in rest.chars() {
            match c {
                '\\' if inside => escaped = !escaped,
                '"' if !escaped => {
                    inside = !inside;
                    strings.push('\n');
                }
                _ => {
                    escaped = false;
                    if inside { strings.push(c) } else { code.push(c) }
                }
            }
            if c == '"' {
                escaped = false;
            }
        }
        continued = inside && escaped;
        code.push('\n');
    }
    (code, strings)
}

/// Which file names which, but for names of what an ancestor holds itself: that is how a module is
/// divided. An ancestor that names a module below it counts, and so does what it passes on from there.
pub(crate) fn arrows(sources: &[Source]) -> BTreeMap<&str, Vec<&str>> {
    let files: BTreeMap<&[String], &Source> = sources
        .iter()
        .filter(|source| !source.is_test() && source.path != "main.rs")
        .map(|source| (source.module.as_slice(), source))
        .collect();
    let holds: BTreeMap<&[String], BTreeMap<String, Vec<String>>> = files
        .iter()
        .map(|(module, source)| (*module, source.named().into_iter().collect()))
        .collect();
    let mut arrows = BTreeMap::new();
    for (module, source) in &files {
        let mut to = Vec::new();
        for child in source.children() {
            to.extend(files.get([*module, &[child.to_owned()]].concat().as_slice()));
        }
        for (_, path) in source.named() {
            to.extend(home(&path, module, &files, &holds, 0));
        }
        let is_divided = |other: &Source| module.starts_with(&other.module);
        let names =
            to.into_iter().filter(|other| !is_divided(other)).map(|other| other.path.as_str());
        arrows.insert(source.path.as_str(), names.collect());
    }
    arrows
}

/// The file that has what `path` names for `asker`.
fn home<'a>(
    path: &[String],
    asker: &[String],
    files: &BTreeMap<&[String], &'a Source>,
    holds: &BTreeMap<&[String], BTreeMap<String, Vec<String>>>,
    depth: usize,
) -> Option<&'a Source> {
    let known = (0..=path.len()).rev().find(|length| files.contains_key(&path[..*length]))?;
    let (module, below) = path.split_at(known);
    let passed_on = below.first().and_then(|name| holds[module].get(name));
    match passed_on {
        Some(path) if asker.starts_with(module) && depth < 8 => {
            home(path, asker, files, holds, depth + 1)
        }
        _ => files.get(module).copied(),
    }
}

/// The sets of files each of which leads to all others of its set.
pub(crate) fn circles<'a>(arrows: &BTreeMap<&'a str, Vec<&'a str>>) -> Vec<Vec<&'a str>> {
    let mut circles: Vec<Vec<&str>> = Vec::new();
    let reached: BTreeMap<&str, Vec<&str>> =
        arrows.keys().map(|file| (*file, reachable(file, arrows))).collect();
    for (file, there) in &reached {
        if circles.iter().any(|circle| circle.contains(file)) {
            continue;
        }
        let back = there.iter().filter(|other| reached[**other].contains(file));
        let circle: Vec<&str> = back.copied().collect();
        if circle.len() > 1 {
            circles.push(circle);
        }
    }
    circles
}

fn reachable<'a>(from: &'a str, arrows: &BTreeMap<&'a str, Vec<&'a str>>) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        for next in &arrows[file] {
            if !found.contains(next) {
                found.push(*next);
                open.push(*next);
            }
        }
    }
    found.sort_unstable();
    found
}
