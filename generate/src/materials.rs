//! What is linked into the executables: the `CycloneDX` list of it, and the licences that its authors want to be handed on.
//!
//! cargo knows the crates. The caller names the libraries that no crate contains, with the version of each.

#![expect(
    clippy::disallowed_methods,
    reason = "it asks cargo, and reads what the crates and the caller say"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// One crate as its manifest and Cargo.lock describe it.
struct Crate {
    name: String,
    version: String,
    /// An SPDX expression.
    licence: String,
    repository: Option<String>,
    /// SHA-256 of the archive in the registry; crates of this repository have none.
    checksum: Option<String>,
    /// The text of each licence file, by name.
    texts: BTreeMap<String, String>,
    /// Cargo's ID, and those of the crates that it uses.
    id: String,
    uses: Vec<String>,
}

/// The libraries that are no crates of Cargo.lock, with their licences.
const LIBRARIES: [(&str, &str); 4] = [
    ("glibc", "LGPL-2.1-or-later"),
    ("libgcc", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    ("libnftnl", "GPL-2.0-or-later"),
    ("rust-std", "MIT OR Apache-2.0"),
];

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Writes `autoport.cdx.json` and `licenses/` into `folder`, for the executables of the target with this triple.
/// `versions` are `NAME=VERSION`, one of each of [`LIBRARIES`].
pub(super) fn write(folder: &Path, target: &str, versions: &[String]) -> io::Result<()> {
    let crates = linked(target)?;
    let libraries = LIBRARIES.iter().map(|(name, licence)| {
        let version = versions.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let version = version.ok_or_else(|| io::Error::other(format!("the version of {name} is missing")))?;
        Ok(json!({
            "type": "library", "bom-ref": format!("{name}@{version}"), "name": name, "version": version,
            "licenses": [{"expression": licence}],
        }))
    });
    let libraries = libraries.collect::<io::Result<Vec<_>>>()?;
    let list = serde_json::to_string_pretty(&bill(&crates, libraries)?)?;
    fs::write(folder.join("autoport.cdx.json"), list + "\n")?;
    let licences = folder.join("licenses");
    fs::create_dir_all(&licences)?;
    fs::write(licences.join("THIRD-PARTY"), notices(&crates)?)?;
    for name in ["LICENSE", "NOTICE"] {
        fs::copy(Path::new(ROOT).join(name), licences.join(name))?;
    }
    // Of the executables as a whole, and of the C library.
    for name in ["GPL-3", "LGPL-2.1"] {
        fs::copy(Path::new("/usr/share/common-licenses").join(name), licences.join(name))?;
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(env!("CARGO")).current_dir(ROOT).args(arguments).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("cargo {}: {said}", arguments.join(" "))));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

/// The crates in either executable. Build scripts and procedural macros are not: they run on the machine that builds.
fn linked(target: &str) -> io::Result<Vec<Crate>> {
    let tree = cargo(&[
        "tree",
        "--locked",
        "--package=autoport",
        "--package=autoport-agent",
        "--edges=normal,no-proc-macro",
        "--target",
        target,
        "--prefix=none",
        "--no-dedupe",
        "--format={p}",
    ])?;
    let wanted: BTreeSet<_> = tree.lines().filter_map(name_and_version).collect();
    let metadata =
        cargo(&["metadata", "--locked", "--format-version=1", "--filter-platform", target])?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let lock = fs::read_to_string(Path::new(ROOT).join("Cargo.lock"))?;
    let all = metadata["packages"].as_array().into_iter().flatten();
    let found =
        all.filter(|package| wanted.contains(&(text(package, "name"), text(package, "version"))));
    let mut crates =
        found.map(|package| read(package, &metadata, &lock)).collect::<io::Result<Vec<_>>>()?;
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    if crates.len() == wanted.len() {
        Ok(crates)
    } else {
        Err(io::Error::other(format!(
            "cargo tree names {} crates, and cargo metadata knows {} of them",
            wanted.len(),
            crates.len()
        )))
    }
}

/// `serde v1.0.0 (…)`.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    Some((name.to_owned(), version.to_owned()))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn read(package: &Value, metadata: &Value, lock: &str) -> io::Result<Crate> {
    let [name, version, id] = ["name", "version", "id"].map(|key| text(package, key));
    let manifest = text(package, "manifest_path");
    let mut texts = BTreeMap::new();
    for entry in Path::new(&manifest).parent().into_iter().flat_map(fs::read_dir).flatten() {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let upper = file.to_uppercase();
        let is_licence = ["LICEN", "COPYING", "COPYRIGHT", "NOTICE", "UNLICEN"]
            .iter()
            .any(|start| upper.starts_with(start));
        if is_licence && entry.file_type()?.is_file() {
            texts.insert(file, fs::read_to_string(entry.path())?);
        }
    }
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let own = nodes.filter(|node| node["id"] == package["id"]);
    let uses = own
        .flat_map(|node| node["deps"].as_array().into_iter().flatten())
        .filter(|used| {
            used["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null())
        })
        .map(|used| text(used, "pkg"))
        .collect();
    Ok(Crate {
        checksum: checksum(lock, &name, &version),
        // Older manifests write `/`.
        licence: text(package, "license").replace('/', " OR "),
        repository: package["repository"].as_str().map(str::to_owned),
        name,
        version,
        texts,
        id,
        uses,
    })
}

fn checksum(lock: &str, name: &str, version: &str) -> Option<String> {
    let head = format!("name = \"{name}\"\nversion = \"{version}\"\n");
    let (_, rest) = lock.split_once(&head)?;
    let entry = rest.split("\n\n").next()?;
    let line = entry.lines().find_map(|line| line.strip_prefix("checksum = "))?;
    Some(line.trim_matches('"').to_owned())
}

/// The list in the format `CycloneDX` 1.5. It depends on the commit, the target and `libraries` alone.
fn bill(crates: &[Crate], libraries: Vec<Value>) -> io::Result<Value> {
    let made = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let made = made.ok_or_else(|| {
        io::Error::other("SOURCE_DATE_EPOCH is not the time of the commit in seconds")
    })?;
    let made = std::time::UNIX_EPOCH + std::time::Duration::from_secs(made);
    let names: BTreeMap<_, _> =
        crates.iter().map(|found| (found.id.as_str(), url(found))).collect();
    let components = crates.iter().map(component).chain(libraries);
    let dependencies = crates.iter().map(|found| {
        let uses: BTreeSet<_> = found.uses.iter().filter_map(|id| names.get(id.as_str())).collect();
        json!({"ref": url(found), "dependsOn": uses})
    });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": humantime::format_rfc3339_seconds(made).to_string(),
            "component": {
                "type": "application", "bom-ref": "release", "name": "autoport", "version": env!("CARGO_PKG_VERSION"),
                "licenses": [{"expression": "GPL-3.0-or-later"}],
                "externalReferences": [{"type": "vcs", "url": env!("CARGO_PKG_REPOSITORY")}],
            },
        },
        "components": components.collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

/// The package URL, which is unique.
fn url(found: &Crate) -> String {
    format!("pkg:cargo/{}@{}", found.name, found.version)
}

fn component(found: &Crate) -> Value {
    let mut value = json!({
        "type": "library", "bom-ref": url(found), "name": found.name, "version": found.version,
        "purl": url(found), "licenses": [{"expression": found.licence}],
    });
    if let Some(checksum) = &found.checksum {
        value["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if let Some(repository) = &found.repository {
        value["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    value
}

/// Each text once, below the crates that it covers. A crate without a file of its own has the text that it names, if that
/// is this project's, or that of a crate from the same repository.
fn notices(crates: &[Crate]) -> io::Result<String> {
    let mut covered: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for found in crates {
        if found.checksum.is_none() {
            continue; // LICENSE is beside this file
        }
        let name = format!("{} {} ({})", found.name, found.version, found.licence);
        let sibling = || {
            crates
                .iter()
                .find(|other| other.repository == found.repository && !other.texts.is_empty())
        };
        let texts = match (found.texts.is_empty(), found.licence.contains("Apache-2.0")) {
            (false, _) => Some(&found.texts),
            (true, true) => None,
            (true, false) => {
                let sibling = sibling()
                    .ok_or_else(|| io::Error::other(format!("{name} has no licence file")))?;
                Some(&sibling.texts)
            }
        };
        match texts {
            Some(texts) => {
                for text in texts.values() {
                    covered.entry(text.trim_end()).or_default().insert(name.clone());
                }
            }
            None => {
                covered
                    .entry("The Apache License, version 2.0, in LICENSE beside this file.")
                    .or_default()
                    .insert(name);
            }
        }
    }
    let mut parts: Vec<_> = covered.iter().map(|(text, names)| (names, text)).collect();
    parts.sort();
    let rule = "=".repeat(78);
    Ok(parts.into_iter().fold(
        String::from("Licences of the Rust crates in the executables. NOTICE names those of the C libraries.\n"),
        |all, (names, text)| {
            let names = names.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
            format!("{all}\n{rule}\n{names}\n{rule}\n\n{text}\n")
        },
    ))
}
