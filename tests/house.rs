//! The house rules that no lint knows: which module may name which, where unsafe code lives, how
//! long a file may be.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which module may name which. `lib` only lists them; `main` and `cli` are the executable and see
/// the library from outside.
const MAP: [(&str, &[&str]); 12] = [
    ("model", &[]),
    ("plan", &["model"]),
    ("ruleset", &["model"]),
    ("netns", &["model"]),
    ("cni", &["model"]),
    ("publication", &["model"]),
    ("install", &["cni"]),
    ("store", &["model", "netns", "publication"]),
    ("kernel", &["model", "ruleset"]),
    ("error", &["model", "plan", "cni", "store", "kernel", "netns"]),
    (
        "app",
        &["model", "plan", "ruleset", "publication", "netns", "cni", "store", "kernel", "error"],
    ),
    // Asks everybody, and nobody asks it: it judges a node and changes nothing.
    ("diagnosis", &["model", "ruleset", "netns", "cni", "store", "kernel", "error", "app"]),
];

const EXECUTABLE: [&str; 2] = ["main", "cli"];

/// The one place for what the compiler cannot check, and the name by which the C library calls us.
const UNSAFE_ROOMS: [&str; 2] = ["kernel/nft/encode.rs", "main.rs"];

const LINES_MAX: usize = 450;

/// A source file without comments, and without what is between quotes.
struct Source {
    /// Below src/.
    path: String,
    lines: usize,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be listed") {
            let path: PathBuf = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file can be read");
                let below = path.strip_prefix(&root).expect("it was found below src");
                sources.push(Source {
                    path: below.display().to_string(),
                    lines: text.lines().count(),
                    code: without_comments_and_strings(&text),
                });
            }
        }
    }
    assert!(sources.len() > 10, "where are the sources? found {}", sources.len());
    sources
}

/// Good enough for code that rustfmt has seen: no block comments, no quotes in character literals
/// but `'"'`.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::new();
    let mut inside = false;
    for line in text.lines() {
        let mut rest = line.replace("'\"'", "' '").replace("b'\"'", "' '");
        if !inside && let Some(start) = rest.find("//") {
            // An address in a string is no comment.
            if rest[..start].matches('"').count() % 2 == 0 {
                rest.truncate(start);
            }
        }
        let mut escaped = false;
        for c in rest.chars() {
            match c {
                '\\' if inside => escaped = !escaped,
                '"' if !escaped => inside = !inside,
                _ => {
                    escaped = false;
                    if !inside {
                        code.push(c);
                    }
                }
            }
            if c == '"' {
                escaped = false;
            }
        }
        code.push('\n');
    }
    code
}

impl Source {
    /// The module below the crate that it belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// The modules it names by `crate::`, or by `super::` where that is the crate.
    fn named(&self) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        let top = !self.path.contains('/');
        let roots: &[&str] = if top { &["crate::", "super::"] } else { &["crate::"] };
        for root in roots {
            for (at, _) in self.code.match_indices(root) {
                let before = self.code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                named.extend(first_names(&self.code[at + root.len()..]));
            }
        }
        // Of `super::`, what is no module of the map is an item of the file around an inner module.
        named.retain(|name| *name != self.module() && (!top || known(name)));
        named
    }
}

fn known(name: &str) -> bool {
    EXECUTABLE.contains(&name) || MAP.iter().any(|(module, _)| *module == name)
}

/// The first segment of each path in `path`, which may be a group in braces.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let Some(group) = path.trim_start().strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut start) = (0_usize, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty() && name != "self");
    names
}

#[test]
fn every_arrow_is_on_the_map() {
    let mut wrong = Vec::new();
    for source in sources() {
        let module = source.module();
        if module == "lib" || EXECUTABLE.contains(&module) {
            continue;
        }
        let Some((_, allowed)) = MAP.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{module} ({}) is not on the map of tests/house.rs", source.path));
            continue;
        };
        for named in source.named() {
            if !allowed.contains(&named.as_str()) {
                wrong.push(format!("{module} -> {named} ({}) is not on the map", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_map_has_no_module_that_is_not_there() {
    let modules: BTreeSet<_> = sources().iter().map(|source| source.module().to_owned()).collect();
    for (module, _) in MAP {
        assert!(modules.contains(module), "{module} is on the map and not in src");
    }
}

#[test]
fn an_arrow_is_seen_however_it_is_written() {
    let source = |code: &str| Source {
        path: "plan.rs".into(),
        lines: 1,
        code: without_comments_and_strings(code),
    };
    for code in [
        "use crate::store::Store;",
        "use crate::{model::{Record, Owner}, store};",
        "fn f() -> crate::store::Error {}",
        "use super::store;",
        "let x = \"// \\\"\"; crate::store::f();",
    ] {
        assert!(source(code).named().contains("store"), "{code}");
    }
    for code in ["// crate::store", "\"crate::store\"", "use autoport_crate::store;"] {
        assert!(source(code).named().is_empty(), "{code}");
    }
}

#[test]
fn unsafe_code_is_in_one_room() {
    let mut rooms = BTreeSet::new();
    for source in sources() {
        let words = source.code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if words.into_iter().any(|word| word == "unsafe") {
            rooms.insert(source.path);
        }
    }
    assert_eq!(rooms, UNSAFE_ROOMS.map(str::to_owned).into());
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.lines > LINES_MAX)
        .map(|source| {
            format!("{} has {} lines, {LINES_MAX} are allowed", source.path, source.lines)
        })
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}
