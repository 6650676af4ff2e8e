//! What the plugin leaves on a node: records, index, table.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::stage::netns::{ruleset, run, settle};
use crate::stage::node::address;

/// Where the plugin keeps its records.
pub(crate) const STATE: &str = "/run/autoport";

/// The whole table as nft describes it, one object per part; empty where there is no table.
pub(crate) fn table() -> Vec<Value> {
    settle();
    let list = ["-j", "list", "table", "inet", "autoport"];
    let (ok, text) = run(Command::new("nft").args(list), "");
    if !ok {
        assert!(text.contains("No such file"), "nft cannot list the table: {text}");
        return Vec::new();
    }
    let listing: Value = serde_json::from_str(&text).expect("nft -j prints JSON");
    listing["nftables"].as_array().expect("nft -j prints a list").clone()
}

/// The connections that are tracked, as the kernel lists them, but without their timeouts.
///
/// It keeps its place in the list as a number among those of all namespaces: where one of another comes
/// or goes meanwhile, one of ours is listed twice, or not at all (seen on 6.1 and 6.12). So what
/// counts is what two listings in a row agree on.
pub(crate) fn flows() -> BTreeSet<String> {
    let listed = || -> BTreeSet<String> {
        let text = fs::read_to_string("/proc/thread-self/net/nf_conntrack").expect("the flows");
        let untimed = |line: &str| {
            let words = line.split_whitespace().enumerate();
            words.filter(|(at, _)| *at != 4).flat_map(|(_, word)| [word, " "]).collect()
        };
        text.lines().map(untimed).collect()
    };
    let mut last = listed();
    for _ in 0..100 {
        let next = listed();
        if next == last {
            return next;
        }
        last = next;
    }
    panic!("no two listings of the flows agree: {last:#?}");
}

/// The names of the interfaces that are guarded.
pub(crate) fn guarded() -> Vec<String> {
    let table = table();
    let sets = table.iter().filter(|part| part["set"]["name"] == "guarded");
    let elements = sets.flat_map(|part| part["set"]["elem"].as_array().into_iter().flatten());
    let mut names: Vec<_> =
        elements.map(|name| name.as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

/// Every element of every map and set that serves a host port, each with the name of where it is.
pub(crate) fn elements() -> Vec<String> {
    let mut found = Vec::new();
    for part in table() {
        for set in [&part["map"], &part["set"]].into_iter().filter(|set| set["name"] != "guarded") {
            for element in set["elem"].as_array().into_iter().flatten() {
                let mut element = element.clone();
                // An element of a map is a pair. Its count is no part of its identity.
                if let Some(key) = element.pointer_mut("/0/elem").and_then(Value::as_object_mut) {
                    key.remove("counter");
                }
                found.push(format!("{}: {element}", set["name"].as_str().unwrap_or_default()));
            }
        }
    }
    found.sort();
    // While the hash table of a set grows, the kernel may list one twice (rhashtable_walk_next).
    found.dedup();
    found
}

/// The file names of the records.
pub(crate) fn records() -> Vec<String> {
    let entries = fs::read_dir(Path::new(STATE).join("attachments"));
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Makes every record an hour old: a GC leaves alone what is young.
pub(crate) fn an_hour_passes() {
    an_hour_passes_for(&records().iter().map(|name| record(name)).collect::<Vec<_>>());
}

fn record(name: &str) -> PathBuf {
    Path::new(STATE).join("attachments").join(name)
}

/// The same for some records, wherever they are.
pub(crate) fn an_hour_passes_for(paths: &[PathBuf]) {
    for path in paths {
        let read = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).ok();
        let Some(mut record) = fs::read(path).ok().and_then(read) else { continue };
        let created = record["created"].as_u64().unwrap_or_default();
        record["created"] = created.saturating_sub(3600).into();
        // At once, and not in the directory, for the sake of commands that look there meanwhile.
        let name = path.file_name().expect("a record");
        let new = path.ancestors().nth(2).expect("a state directory").join(name);
        fs::write(&new, record.to_string()).expect("the state directory is ours");
        fs::rename(&new, path).expect("the record is ours");
    }
}

/// The entries of the index.
pub(crate) fn index() -> Vec<String> {
    let all = lines(&tree(&Path::new(STATE).join("ports")));
    all.into_iter().filter(|line| line.contains(" -> ")).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Insists that no host port is held, on disk or in the kernel.
pub(crate) fn assert_nothing_held() {
    assert_eq!(records(), [""; 0], "records are left");
    assert_eq!(index(), [""; 0], "index entries are left");
    assert_eq!(elements(), [""; 0], "elements are left in the table");
}

/// The same, but a reservation may be there.
pub(crate) fn assert_nothing_held_by_attachments() {
    assert_eq!(records(), [""; 0], "records are left");
    assert!(index().iter().all(|entry| entry.contains("/reservations/")), "{:?}", index());
    assert_eq!(elements(), [""; 0], "elements are left in the table");
}

/// Everything on disk and in the kernel that a command could have changed, in one text. The lock
/// file is left out: who took it last is not state.
pub(crate) fn snapshot() -> String {
    let lock = format!("{STATE}/lock");
    let store = lines(&tree(Path::new(STATE)));
    let store: Vec<_> = store.into_iter().filter(|line| !line.starts_with(&lock)).collect();
    format!("{}\n{}", store.join("\n"), ruleset())
}

/// A folder's files with their contents and links, in one text that can be compared. The journal is left out:
/// it is for people, and no state.
pub(crate) fn tree(folder: &Path) -> String {
    let Ok(entries) = fs::read_dir(folder) else { return String::new() };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| !path.ends_with("journal") && !path.ends_with("journal.old"));
    paths.sort();
    paths.iter().fold(String::new(), |text, path| {
        let name = path.display();
        if let Ok(target) = fs::read_link(path) {
            format!("{text}{name} -> {}\n", target.display())
        } else if path.is_dir() {
            format!("{text}{name}/\n{}", tree(path))
        } else {
            let content = fs::read(path).unwrap_or_default();
            format!("{text}{name}: {}\n", String::from_utf8_lossy(&content))
        }
    })
}

/// All files of a directory, with the attributes that show whether they were written.
pub(crate) fn states(folder: &str) -> Vec<(String, u64, i64, Vec<u8>)> {
    let mut states: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let entry = entry.expect("a folder");
            let found = entry.metadata().expect("a file");
            let content = if found.is_file() && found.len() < 1 << 20 {
                fs::read(entry.path()).expect("a file")
            } else {
                Vec::new()
            };
            let name = entry.file_name().into_string().expect("a name");
            (name, found.ino(), found.mtime_nsec(), content)
        })
        .collect();
    states.sort();
    states
}

/// The tracked UDP flows to `to`:`port`.
pub(crate) fn udp_flows(to: &str, port: u16) -> Vec<String> {
    let own = |line: &String| {
        let mut words = line.split_whitespace();
        let first = |prefix: &str, words: &mut std::str::SplitWhitespace<'_>| {
            words.find_map(|word| word.strip_prefix(prefix).map(str::to_owned))
        };
        let destination = first("dst=", &mut words).map(|text| address(&text));
        line.contains(" udp ")
            && destination == Some(address(to))
            && first("dport=", &mut words) == Some(port.to_string())
    };
    flows().into_iter().filter(own).collect()
}
