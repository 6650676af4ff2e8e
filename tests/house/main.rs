//! The house rules that no lint knows: which module may name which, that no files lead in a circle,
//! where unsafe code lives, how long a file and a function may be.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

mod source;
#[path = "../words/mod.rs"]
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use self::source::{Source, agent_sources, arrows, circles, doc_comments, sources};

/// Which module may name which. `lib` only lists them; `main` and `cli` are the executable and see
/// the library from outside.
const MAP: [(&str, &[&str]); 14] = [
    ("model", &[]),
    ("event", &["model"]),
    ("regular", &[]),
    ("plan", &["model"]),
    ("ruleset", &["model"]),
    ("netns", &["model"]),
    ("cni", &["model"]),
    ("publication", &["model"]),
    ("install", &["event", "regular", "cni", "store"]),
    ("store", &["model", "event", "netns", "publication"]),
    ("kernel", &["model", "ruleset"]),
    ("error", &["model", "event", "plan", "cni", "store", "kernel", "netns"]),
    (
        "app",
        &[
            "model",
            "event",
            "plan",
            "ruleset",
            "publication",
            "netns",
            "cni",
            "store",
            "kernel",
            "error",
        ],
    ),
    // Asks everybody, and nobody asks it: it judges a node and changes nothing.
    (
        "diagnosis",
        &[
            "model", "event", "regular", "ruleset", "netns", "cni", "store", "kernel", "error",
            "install", "app",
        ],
    ),
];

/// The same for the node agent, which sees the library from outside.
const AGENT_MAP: [(&str, &[&str]); 17] = [
    ("nri", &[]),
    ("config", &["metrics"]),
    ("metrics", &[]),
    ("keeper", &[]),
    ("inject", &["nri"]),
    ("hostnet", &["nri", "cgroups"]),
    ("cgroups", &[]),
    ("hook", &["cgroups"]),
    ("collect", &["hostnet"]),
    ("capacity", &[]),
    ("cluster", &[]),
    ("requests", &[]),
    ("status", &["inject", "requests"]),
    ("discovery", &["status"]),
    (
        "service",
        &[
            "nri",
            "config",
            "keeper",
            "inject",
            "hostnet",
            "collect",
            "capacity",
            "metrics",
            "cluster",
            "requests",
            "hook",
            "status",
            "discovery",
        ],
    ),
    // The executable, which sees the rooms from outside.
    ("arguments", &[]),
    ("supervisor", &[]),
];

/// The one place for what the compiler cannot check, and the name by which the C library calls us.
const UNSAFE_ROOMS: [&str; 4] =
    ["kernel/memory.rs", "kernel/nft/encode.rs", "main.rs", "store/real_time.rs"];

/// The agent's one: bpf(2).
const AGENT_UNSAFE: &str = "hook/door.rs";

const FILE_LINES_MAX: usize = 450;
const FUNCTION_LINES_MAX: usize = 60;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_arrow_is_on_the_map() {
    let mut wrong = arrows_off(&MAP, sources());
    wrong.append(&mut arrows_off(&AGENT_MAP, agent_sources()));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn arrows_off(map: &[(&str, &[&str])], sources: Vec<Source>) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let room = source.room();
        if room.is_empty() || room == "cli" {
            continue;
        }
        let Some((_, allowed)) = map.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{room} ({}) is not on the map of tests/house", source.path));
            continue;
        };
        for named in rooms_named_by(&source) {
            if !allowed.contains(&named.as_str()) {
                wrong.push(format!("{room} -> {named} ({}) is not on the map", source.path));
            }
        }
    }
    wrong
}

fn rooms_named_by(source: &Source) -> BTreeSet<String> {
    let named = source.named().into_iter().filter_map(|(_, path)| path.into_iter().next());
    named.filter(|room| room != source.room()).collect()
}

#[test]
fn the_map_has_no_module_that_is_not_there() {
    for (map, sources) in [(MAP.as_slice(), sources()), (AGENT_MAP.as_slice(), agent_sources())] {
        for (module, _) in map {
            let is_there = sources.iter().any(|source| source.room() == *module);
            assert!(is_there, "{module} is on the map and there are no sources of it");
        }
    }
}

#[test]
fn an_arrow_is_seen_however_it_is_written() {
    let source = |code: &str| Source::new("plan.rs", code.to_owned());
    for code in [
        "use crate::store::Store;",
        "use crate::{model::{Record, Owner}, store};",
        "fn f() -> crate::store::Error {}",
        "use super::store;",
        "use crate::{\n    model::Pod,\n    store::{self, *},\n};",
        "let x = \"// \\\"\"; crate::store::f();",
    ] {
        assert!(rooms_named_by(&source(code)).contains("store"), "{code}");
    }
    for code in ["// crate::store", "\"crate::store\"", "use autoport_crate::store;"] {
        assert!(rooms_named_by(&source(code)).is_empty(), "{code}");
    }
}

#[test]
fn no_files_lead_in_a_circle() {
    let mut told = Vec::new();
    for sources in [sources(), agent_sources()] {
        let arrows = arrows(&sources);
        for circle in circles(&arrows) {
            for file in &circle {
                let to: BTreeSet<_> =
                    arrows[file].iter().filter(|to| circle.contains(to)).collect();
                told.push(format!("{file} -> {to:?}"));
            }
        }
    }
    assert!(told.is_empty(), "\n{}", told.join("\n"));
}

#[test]
fn a_circle_is_seen_however_it_is_made() {
    let circle = |files: &[(&str, &str)]| {
        let sources: Vec<_> =
            files.iter().map(|(path, code)| Source::new(path, (*code).to_owned())).collect();
        let arrows = arrows(&sources);
        circles(&arrows).into_iter().map(|circle| circle.join(" ")).collect::<Vec<_>>()
    };
    let room = "mod a;\nmod b;\npub use self::b::{B, Other as Named};\npub struct Own;";
    let room = |a, b| circle(&[("x/mod.rs", room), ("x/a.rs", a), ("x/b.rs", b)]);
    assert_eq!(room("use super::b::B;", "use super::a::A;"), ["x/a.rs x/b.rs"]);
    assert_eq!(room("use super::B;", "use crate::x::a::A;"), ["x/a.rs x/b.rs"]);
    assert_eq!(room("use super::Named;", "fn f() { super::a::f() }"), ["x/a.rs x/b.rs"]);
    for (a, b) in [
        ("use super::b::B;", "use super::Own;"),
        ("use super::b::B;", "// super::a"),
        ("use super::b::B;", "#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}"),
    ] {
        assert!(room(a, b).is_empty(), "{a} {b}");
    }
    let inner = [
        ("x/mod.rs", "mod a;\nmod y;"),
        ("x/a.rs", "use super::y::Y;"),
        ("x/y/mod.rs", "pub mod z;"),
        ("x/y/z.rs", "use super::super::a::A;"),
    ];
    assert_eq!(circle(&inner), ["x/a.rs x/y/mod.rs x/y/z.rs"]);
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
    for source in agent_sources() {
        let is_permitted = source.path == AGENT_UNSAFE;
        assert_eq!(source.code.contains("unsafe "), is_permitted, "{}", source.path);
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<_> = sources()
        .into_iter()
        .chain(agent_sources())
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, path)| format!("{path} has {lines} lines, {FILE_LINES_MAX} are allowed"))
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

#[test]
fn no_function_is_too_long_to_read() {
    let mut long = Vec::new();
    let mut seen = 0;
    for source in sources().into_iter().chain(agent_sources()) {
        for (name, lines) in source.functions() {
            seen += 1;
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}: {name} has {lines} lines", source.path));
            }
        }
    }
    assert!(seen > 1000, "where are the functions? found {seen}");
    assert!(long.is_empty(), "\n{}\n{FUNCTION_LINES_MAX} are allowed", long.join("\n"));
}

#[test]
fn no_test_file_is_too_long_to_read() {
    let mut folders =
        ["integration", "tests", "agent/tests"].map(|name| root().join(name)).to_vec();
    let (mut long, mut seen) = (Vec::new(), 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of tests").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension() == Some("rs".as_ref()) {
                seen += 1;
                let lines = fs::read_to_string(&path).expect("a test file").lines().count();
                if lines > FILE_LINES_MAX {
                    long.push(format!("{} has {lines} lines", path.display()));
                }
            }
        }
    }
    assert!(seen > 80, "only {seen} test files");
    assert!(long.is_empty(), "{FILE_LINES_MAX} are allowed: {long:#?}");
}

/// The integration tests are in rooms, which docs/testing.md tells apart.
#[test]
fn integration_tests_are_in_rooms() {
    let document = fs::read_to_string(root().join("docs/testing.md")).expect("docs/testing.md");
    for entry in fs::read_dir(root().join("integration")).expect("integration").flatten() {
        let name = entry.file_name().into_string().expect("a name of ours");
        if entry.path().is_dir() {
            assert!(document.contains(&format!("`{name}/`")), "docs/testing.md lacks {name}/");
        } else {
            let is_known = name == "main.rs" || Path::new(&name).extension() != Some("rs".as_ref());
            assert!(is_known, "{name} is in no room");
        }
    }
}

/// The files whose doc comments are help texts, or are of a module where `missing_docs` is on.
fn is_read_by_others(path: &str) -> bool {
    const MODULES: [&str; 6] = ["app", "error", "event", "model", "publication", "store"];
    let module = path.split(['/', '.']).next().unwrap_or_default();
    path.ends_with("arguments.rs") || MODULES.contains(&module)
}

#[test]
fn messages_are_in_plain_words() {
    let mut found = Vec::new();
    let all = sources().into_iter().chain(agent_sources());
    for source in all.filter(|source| !source.is_test()) {
        let docs = doc_comments(&source.text);
        let docs = docs.iter().filter(|_| is_read_by_others(&source.path)).map(String::as_str);
        for text in source.strings.lines().chain(docs) {
            for phrase in words::banned_in(text) {
                found.push(format!("{}: {phrase:?} in {text:?}", source.path));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
