//! The listings of docs/ruleset.md are those of a golden table.

use super::*;

/// As nft lists a base chain, and as our scripts write it.
const PRIORITIES: [(&str, &str); 4] = [
    ("priority raw;", "priority -300;"),
    ("priority dstnat + 1;", "priority -99;"),
    ("priority dstnat - 1;", "priority -101;"),
    ("priority srcnat - 1;", "priority 99;"),
];

/// The lines of a listing below their chain, map or set: `chain guard: iif …`.
fn lines(listing: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = "";
    for line in listing.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_suffix(" {") {
            inside = name;
        } else if let Some(element) = line.strip_prefix("add element inet autoport ") {
            let (set, element) = element.split_once(' ').expect("a set and its element");
            let kind = if element.contains(" : ") { "map" } else { "set" };
            found.insert(format!("{kind} {set}: elements = {element}"));
        } else if line != "}" {
            let mut line = line.to_owned();
            for (listed, written) in PRIORITIES {
                line = line.replace(listed, written);
            }
            found.insert(format!("{inside}: {line}"));
        }
    }
    found
}

#[test]
fn the_listings_are_those_of_a_golden_table() {
    let document = read("docs/ruleset.md");
    let listings: Vec<_> = blocks(&document)
        .into_iter()
        .filter(|block| ["chain ", "map ", "set "].iter().any(|kind| block.starts_with(kind)))
        .collect();
    let listed = lines(&listings.join("\n"));
    let golden = lines(&read("tests/golden/document/ruleset.nft"));
    let invented: Vec<_> = listed.difference(&golden).collect();
    assert!(invented.is_empty(), "in docs/ruleset.md only: {invented:#?}");
    let chains = golden.difference(&listed).filter(|line| line.starts_with("chain "));
    let left_out: Vec<_> = chains.collect();
    assert!(left_out.is_empty(), "not in docs/ruleset.md: {left_out:#?}");
    // The maps and sets are alike, so they are a table there.
    for line in &golden {
        let Some((name, _)) = line.split_once(": ") else { continue };
        let Some(("map" | "set", name)) = name.split_once(' ') else { continue };
        let name = name
            .rsplit_once('_')
            .filter(|(_, digest)| digest.len() == 16)
            .map_or_else(|| name.to_owned(), |(kind, _)| format!("{kind}_…"));
        assert!(document.contains(&format!("`{name}`")), "docs/ruleset.md lacks {name}");
    }
}
