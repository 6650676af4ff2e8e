//! What the documents say of the code is so: the table, the keys, the links.

#![expect(clippy::disallowed_methods, reason = "a test reads the project's own files")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The fenced blocks of a document, without their fences, in any language.
fn blocks(document: &str) -> Vec<&str> {
    let parts = document.split("\n```");
    // Every second part begins behind an opening fence, with the language.
    parts
        .skip(1)
        .step_by(2)
        .filter_map(|part| part.split_once('\n'))
        .map(|(_, text)| text)
        .collect()
}

mod table {
    use super::*;

    /// As nft lists a base chain, and as our scripts write it.
    const PRIORITIES: [(&str, &str); 3] = [
        ("priority raw;", "priority -300;"),
        ("priority dstnat + 1;", "priority -99;"),
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
            let name = name.rsplit_once('_').filter(|(_, digest)| digest.len() == 16).map_or_else(
                || name.strip_prefix("counted_").unwrap_or(name).to_owned(),
                |(kind, _)| format!("{kind}_…"),
            );
            assert!(document.contains(&format!("`{name}`")), "docs/ruleset.md lacks {name}");
        }
    }
}

mod keys {

    use autoport::cni::{Config, Error};
    use serde_json::{Map, Value, json};

    use super::*;

    /// A value of each type that JSON has, besides null, which is none.
    fn of_each_type() -> [(&'static str, Value); 5] {
        [
            ("boolean", json!(true)),
            ("number", json!(1)),
            ("string", json!("a")),
            ("list", json!([])),
            ("object", json!({})),
        ]
    }

    /// A row of docs/configuration.md.
    struct Row {
        key: String,
        types: Vec<String>,
        default: Value,
    }

    fn rows() -> Vec<Row> {
        let document = read("docs/configuration.md");
        let mut rows = Vec::new();
        for line in document.lines() {
            let cells: Vec<&str> =
                line.split(" | ").map(|cell| cell.trim_matches('|').trim()).collect();
            let [key, types, default, _, _] = cells[..] else { continue };
            let (Some(key), Some(default)) = (code(key), code(default)) else { continue };
            let types = types.replace(" or ", ", ").split(", ").map(str::to_owned).collect();
            let default = serde_json::from_str(default)
                .unwrap_or_else(|error| panic!("the default of {key}, {default}: {error}"));
            rows.push(Row { key: key.to_owned(), types, default });
        }
        rows
    }

    /// The first span of code in a cell.
    fn code(cell: &str) -> Option<&str> {
        cell.split('`').nth(1)
    }

    /// The keys that the code knows as its own, and those of portmap that it refuses.
    fn in_code(name: &str) -> BTreeSet<String> {
        let text = read("src/cni/config.rs");
        let list = text.split(&format!("const {name}: [")).nth(1).expect("the list is there");
        let list =
            list.split_once("= [").expect("its value").1.split("\n];").next().expect("its end");
        let words = list.split('"').skip(1).step_by(2);
        words.filter(|word| !word.contains(' ')).map(str::to_owned).collect()
    }

    /// What an ADD has of this plugin object.
    fn parse(object: &Map<String, Value>) -> Result<Config, Error> {
        let (config, warnings) =
            Config::read(Some(&serde_json::to_vec(object).expect("JSON")), None)?;
        assert_eq!(warnings, Vec::<String>::new());
        Ok(config)
    }

    fn with(key: &str, value: &Value) -> Result<Config, Error> {
        parse(&Map::from_iter([(key.to_owned(), value.clone())]))
    }

    #[test]
    fn the_document_has_the_keys_of_the_code() {
        let documented: BTreeSet<_> = rows().into_iter().map(|row| row.key).collect();
        assert_eq!(documented.len(), rows().len(), "a key has two rows");
        assert_eq!(documented, in_code("OURS"));
        let document = read("docs/configuration.md");
        for refused in in_code("REFUSED") {
            assert!(document.contains(&format!("`{refused}`")), "it lacks {refused}");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_code() {
        let none = parse(&Map::new()).expect("no key is needed");
        for row in rows() {
            let (key, default) = (&row.key, &row.default);
            let config = with(key, default).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(config, none, "{key} is not {default} by default");
        }
    }

    #[test]
    fn the_types_are_those_of_the_code() {
        for row in rows() {
            for (name, value) in of_each_type() {
                let outcome = with(&row.key, &value);
                let refused = matches!(outcome, Err(Error::WrongType { .. }));
                let documented = row.types.iter().any(|of| of == name);
                assert_eq!(refused, !documented, "{} and {name}: {outcome:?}", row.key);
            }
        }
    }

    /// The examples between the tables, which name other values.
    #[test]
    fn the_examples_are_accepted() {
        let document = read("docs/configuration.md");
        let mut seen = 0;
        for block in blocks(&document).into_iter().filter(|block| block.starts_with('{')) {
            let mut object: Map<String, Value> = serde_json::from_str(block).expect(block);
            object.remove("capabilities");
            parse(&object).unwrap_or_else(|error| panic!("{block}: {error}"));
            seen += 1;
        }
        assert!(seen >= 2, "only {seen} examples");
    }

    #[test]
    fn the_overview_agrees() {
        let overview = read("README.md");
        let mut seen = 0;
        for row in rows() {
            let Some(line) =
                overview.lines().find(|line| line.starts_with(&format!("| `{}` |", row.key)))
            else {
                continue;
            };
            let default = line.split(" | ").nth(1).and_then(code);
            let default = default.map(|text| serde_json::from_str::<Value>(text).expect(line));
            assert_eq!(default.as_ref(), Some(&row.default), "README.md: {line}");
            seen += 1;
        }
        assert!(seen >= 10, "README.md has {seen} of the keys");
    }
}

mod annotations {
    use std::ffi::OsString;

    use autoport::cni::{Call, Env};
    use serde_json::json;

    use super::*;

    /// How many ports the node would choose for a Pod with this annotation.
    fn requests(annotation: &str) -> usize {
        let env: Env = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/pod"),
            ("CNI_PATH", "/opt/cni/bin"),
        ]
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
        let stdin = json!({
            "type": "autoport", "name": "pods", "cniVersion": "1.0.0",
            "runtimeConfig": {
                "io.kubernetes.cri.pod-annotations": { "autoport.cni/ports": annotation }
            },
            "prevResult": { "cniVersion": "1.0.0", "ips": [{ "address": "10.200.0.2/24" }] },
        });
        let parsed = Call::parse(&env, stdin.to_string().as_bytes(), || Ok(None))
            .unwrap_or_else(|error| panic!("{annotation}: {error}"));
        let Call::Add(claim) = parsed.call else { panic!("ADD was asked for") };
        claim.ask.requested.len()
    }

    /// Every annotation that a document shows can be used as it is.
    #[test]
    fn what_is_shown_is_accepted() {
        let mut seen = 0;
        for path in ["README.md", "docs/annotations.md", "conflist-examples/pod.yaml"] {
            for line in read(path).lines() {
                let Some(value) = line.trim().strip_prefix("autoport.cni/ports: \"") else {
                    continue;
                };
                let value = value.strip_suffix('"').expect(line);
                assert_eq!(requests(value), value.split(',').count(), "{path}: {line}");
                seen += 1;
            }
        }
        assert!(seen >= 4, "only {seen} annotations");
        let document = read("docs/annotations.md");
        let table = document.split("| item | asks for |").nth(1).expect("the table of items");
        let items: Vec<_> = table
            .lines()
            .skip(2)
            .map_while(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert!(items.len() >= 5, "{items:?}");
        for item in items {
            assert_eq!(requests(item), 1, "{item}");
        }
    }
}

mod capture {
    use super::*;

    /// The first argument of every call of a function of the demo, up to its first variable.
    fn arguments<'a>(script: &'a str, function: &str) -> Vec<&'a str> {
        let calls = script
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix(function)?.strip_prefix(" \""));
        calls.filter_map(|text| text.split(['$', '"', '\\']).next()).collect()
    }

    /// What the demo prints is in README.md as it would be printed today, but for what varies.
    #[test]
    fn the_demo_in_the_overview_is_that_of_today() {
        let overview = read("README.md");
        let captured = overview.split("<!-- demo -->\n").nth(1).expect("the first marker");
        let captured = captured.split("\n<!-- /demo -->").next().expect("the last marker");
        let script = read("integration/demo.sh");
        let steps = arguments(&script, "step");
        assert!(steps.len() >= 5, "the steps of the demo: {steps:?}");
        let numbered: Vec<_> = captured
            .lines()
            .filter_map(|line| line.split_once(". "))
            .filter(|(number, _)| number.parse::<u8>().is_ok())
            .map(|(_, title)| title)
            .collect();
        let again = "run `make readme-capture`";
        assert_eq!(numbered.len(), steps.len(), "{numbered:?}, {steps:?}: {again}");
        for (title, step) in numbered.iter().zip(&steps) {
            assert!(title.starts_with(step), "{title:?}, {step:?}: {again}");
        }
        for command in arguments(&script, "command_line") {
            assert!(captured.contains(&format!("   $ {command}")), "{command:?}: {again}");
        }
    }
}

mod links {
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
                    || fs::read_to_string(&leads_to)
                        .is_ok_and(|text| anchors(&text).contains(anchor));
                if !(there && found) {
                    let path = path.strip_prefix(root()).expect("a file of the project");
                    wrong.push(format!("{}: {target}", path.display()));
                }
            }
        }
        assert!(wrong.is_empty(), "these lead nowhere: {wrong:#?}");
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
        let text =
            "# A `b` c: d\n\n## E\n## E\n[x](y.md#z) `[no](no.md)`\n```\n# no\n[n](n)\n```\n";
        assert_eq!(targets(text), ["y.md#z"]);
        assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), ["a-b-c-d", "e", "e-1"]);
    }
}
