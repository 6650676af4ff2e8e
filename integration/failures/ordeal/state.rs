//! What must be as it was when the pod and its successor are gone.

use std::collections::BTreeSet;

/// Everything that must be as it was when the pod and its successor are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) elements: String,
    pub(crate) store: String,
}

impl State {
    /// Insists that it is like `expected`, and names the lines that are not.
    pub(crate) fn must_be(&self, expected: &Self, what: &str) {
        if self == expected {
            return;
        }
        let lines = |state: &Self| -> Vec<String> {
            state.elements.lines().chain(state.store.lines()).map(str::to_owned).collect()
        };
        let (found, wanted) = (lines(self), lines(expected));
        let only = |these: &[String], those: &[String]| {
            let only = these.iter().filter(|line| !those.contains(line)).cloned();
            only.collect::<Vec<_>>().join("\n")
        };
        let (more, missing) = (only(&found, &wanted), only(&wanted, &found));
        panic!("{what}: left over:\n{more}\nmissing:\n{missing}");
    }
}

/// The elements of every map and set in a listing, each once: while the hash table of a set grows, the
/// kernel may list one twice (`rhashtable_walk_next`).
pub(super) fn elements(listing: &str) -> String {
    let mut found = BTreeSet::new();
    let mut name = "";
    let mut inside = false;
    for line in listing.lines().map(str::trim) {
        if line.starts_with("map ") || line.starts_with("set ") {
            name = line.trim_end_matches(" {");
        }
        inside |= line.starts_with("elements = {");
        if inside {
            let element =
                line.trim_start_matches("elements = { ").trim_end_matches([',', '}', ' ']);
            found.insert(format!("{name}: {element}\n"));
            inside = !line.ends_with('}');
        }
    }
    found.into_iter().collect()
}
