//! docs/configuration.md has every key, its types and its default.

use autoport::cni::{Config, Error, NodeFiles};
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

/// The keys that the code reads: `value(layers, "key"`.
fn in_code() -> BTreeSet<String> {
    let text = read("src/cni/config.rs") + &read("src/cni/config/ports.rs");
    let calls = text.split(".value(layers, \"").skip(1);
    let keys = calls.filter_map(|call| call.split('"').next());
    let keys: BTreeSet<String> = keys.map(str::to_owned).collect();
    assert!(keys.len() > 15, "only {keys:?}");
    keys
}

/// The keys of portmap that the code rejects.
fn rejected() -> BTreeSet<String> {
    let text = read("src/cni/config.rs");
    let list = text.split("const REFUSED: [").nth(1).expect("the list is there");
    let list = list.split_once("= [").expect("its value").1.split("\n];").next().expect("its end");
    let words = list.split('"').skip(1).step_by(2);
    words.filter(|word| !word.contains(' ')).map(str::to_owned).collect()
}

/// What an ADD has of this plugin object.
fn parse(object: &Map<String, Value>) -> Result<Config, Error> {
    let (config, warnings) =
        Config::read(Some(&serde_json::to_vec(object).expect("JSON")), &NodeFiles::default())?;
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
    assert_eq!(documented, in_code());
    let document = read("docs/configuration.md");
    let rejected = rejected();
    assert!(rejected.contains("conditionsV4"), "{rejected:?}");
    for refused in rejected {
        assert!(document.contains(&format!("`{refused}`")), "it lacks {refused}");
        let outcome = with(&refused, &json!("x"));
        assert!(matches!(outcome, Err(Error::Unsupported { .. })), "{refused}: {outcome:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_code() {
    let none = parse(&Map::new()).expect("no key is needed");
    // Null is no value, so the loop would not see another default of these.
    assert_eq!((&none.ports.allowed_namespaces, none.ports.max_per_namespace), (&None, None));
    let unset = rows().into_iter().filter(|row| row.default.is_null()).map(|row| row.key);
    assert_eq!(unset.collect::<Vec<_>>(), ["allowedNamespaces", "maxPortsPerNamespace"]);
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
    assert!(seen >= 6, "README.md has {seen} of the keys");
}
