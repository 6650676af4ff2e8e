//! Compares the output of commands with the files in `snapshots/`. `BLESS=1` writes them again;
//! review the difference.

use std::env;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::stage::operator::autoport;

/// Insists that `text` is what the snapshot of this name shows, but for what no two nodes share.
pub(crate) fn assert_snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/cli/snapshots").join(name);
    let text = normalised(text);
    if env::var_os("BLESS").is_some() {
        fs::write(&path, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; BLESS=1 writes it:\n{text}", path.display());
    });
    assert_eq!(text, expected, "{name} is different; BLESS=1 writes it again:\n{text}");
}

/// Insists that a command ends with this status, and prints for people what the snapshot of this name
/// shows, and for programs what the one beside it does.
pub(crate) fn assert_snapshots(name: &str, status: i32, arguments: &[&str]) {
    for (format, ending) in [("table", "txt"), ("json", "json")] {
        let all: Vec<&str> = arguments.iter().copied().chain(["--output", format]).collect();
        let (ended, stdout, stderr) = autoport(&all);
        assert_eq!(ended.code(), Some(status), "{all:?}: {stdout}{stderr}");
        if format == "json" {
            let parsed = serde_json::from_str::<Value>(&stdout);
            parsed.unwrap_or_else(|error| panic!("{all:?}: {error}: {stdout}{stderr}"));
        }
        assert_snapshot(&format!("{name}.{ending}"), &stdout);
    }
}

/// What ends a word, beside white space.
const ENDS: &str = "\"(),;";

/// Each word that is an instance ID, a time, a namespace, a socket, a kernel or our version gives way to
/// a name for it.
fn normalised(text: &str) -> String {
    // What doctor says of kernels before 6.12.
    let text = text.replace("elements are deleted (before 6.12)", "elements expire");
    let parts = text.split_inclusive(|c: char| c.is_whitespace() || ENDS.contains(c));
    parts.map(normalised_part).collect()
}

fn normalised_part(part: &str) -> String {
    let end = part.len()
        - part.chars().next_back().map_or(0, |last| {
            if last.is_whitespace() || ENDS.contains(last) { last.len_utf8() } else { 0 }
        });
    let (word, rest) = part.split_at(end);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_instance =
        word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) && !digits(word);
    let is_boot = word.len() == 36 && word.bytes().filter(|byte| *byte == b'-').count() == 4;
    let is_time = word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let is_namespace = word
        .split_once(':')
        .is_some_and(|(device, inode)| digits(device) && digits(inode) && inode.len() > 5);
    let is_socket =
        word.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).is_some_and(digits);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let name = match word {
        _ if is_instance => "INSTANCE",
        _ if is_boot => "BOOT",
        _ if is_time => "TIME",
        _ if is_namespace => "DEVICE:INODE",
        _ if is_socket => "socket:[INODE]",
        env!("CARGO_PKG_VERSION") => "VERSION",
        _ if !word.is_empty() && word == kernel.trim() => "KERNEL",
        _ => word,
    };
    format!("{name}{rest}")
}
