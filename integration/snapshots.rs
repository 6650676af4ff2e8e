//! What the commands print, against the files in `snapshots/`. `BLESS=1` writes them again; the
//! difference is the review.

use std::env;
use std::fs;
use std::path::Path;

/// Insists that `text` is what the snapshot of this name shows, but for what no two nodes share.
pub(crate) fn assert_snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/snapshots").join(name);
    let text = normalised(text);
    if env::var_os("BLESS").is_some() {
        fs::write(&path, &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; BLESS=1 writes it:\n{text}", path.display());
    });
    assert_eq!(text, expected, "{name} is different; BLESS=1 writes it again:\n{text}");
}

/// Each word that is an instance ID, a time or a namespace gives way to a name for it.
fn normalised(text: &str) -> String {
    let parts = text.split_inclusive(|c: char| c.is_whitespace() || "\"(),".contains(c));
    parts.map(normalised_part).collect()
}

fn normalised_part(part: &str) -> String {
    let end = part.len()
        - part.chars().next_back().map_or(0, |last| {
            if last.is_whitespace() || "\"(),".contains(last) { last.len_utf8() } else { 0 }
        });
    let (word, rest) = part.split_at(end);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_instance =
        word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) && !digits(word);
    let is_time = word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let is_namespace = word
        .split_once(':')
        .is_some_and(|(device, inode)| digits(device) && digits(inode) && inode.len() > 5);
    let name = match (is_instance, is_time, is_namespace) {
        (true, ..) => "INSTANCE",
        (_, true, _) => "TIME",
        (.., true) => "DEVICE:INODE",
        _ => word,
    };
    format!("{name}{rest}")
}
