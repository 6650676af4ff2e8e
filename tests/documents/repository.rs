//! Where the project is found is in Cargo.toml, and in documents as a copy of that.

use super::*;

/// The placeholder, or the address that took its place.
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What shows the address to users.
const FILES: [&str; 17] = [
    "README.md",
    "CHANGELOG.md",
    "docs/agent.md",
    "docs/cluster.md",
    "docs/install.md",
    "docs/monitoring.md",
    "docs/platforms.md",
    "docs/security.md",
    "deploy/helm/autoport/Chart.yaml",
    "deploy/kubernetes/kustomization.yaml",
    "deploy/kubernetes/admission/kustomization.yaml",
    "deploy/kubernetes/admission/requests/kustomization.yaml",
    "deploy/kubernetes/agent-policy/kustomization.yaml",
    "deploy/kubernetes/bind-hook/kustomization.yaml",
    "deploy/kubernetes/discovery/kustomization.yaml",
    "deploy/kubernetes/monitoring/kustomization.yaml",
    "deploy/kubernetes/startup-taint/kustomization.yaml",
];

/// The text with today's address and version in every address of the project, which ends in `/NAME`.
fn current(text: &str) -> String {
    let (_, name) = REPOSITORY.rsplit_once('/').expect("the address ends in the project's name");
    let mut parts = text.split("https://");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |before, part| {
        let end = part.find(|one: char| one.is_whitespace() || "\"'`)>".contains(one));
        let (address, behind) = part.split_at(end.unwrap_or(part.len()));
        let address = match address.split_once(&format!("/{name}")) {
            Some((_, path)) if path.is_empty() || path.starts_with('/') => {
                format!("{REPOSITORY}{}", versioned(path))
            }
            _ => format!("https://{address}"),
        };
        before + &address + behind
    })
}

/// A path of the project with today's version, if it is of a tag or of a release.
fn versioned(path: &str) -> String {
    let Some((path, mark, version)) = ["?ref=v", "/download/v"]
        .iter()
        .find_map(|mark| path.split_once(mark).map(|(path, version)| (path, mark, version)))
    else {
        return path.to_owned();
    };
    let file = version.find('/').map_or("", |at| &version[at..]);
    format!("{path}{mark}{VERSION}{file}")
}

#[test]
fn the_address_of_the_project_is_that_of_the_manifest() {
    for name in FILES {
        let text = read(name);
        let wanted = current(&text);
        if std::env::var_os("BLESS").is_some() {
            fs::write(root().join(name), &wanted).expect("the document is the project's own");
        } else {
            assert_eq!(text, wanted, "{name}: BLESS=1 writes it from Cargo.toml");
        }
        assert!(!text.contains("github.com/…"), "{name} has an address with a gap");
    }
    assert!(read("docs/install.md").contains(REPOSITORY));
}

#[test]
fn the_changelog_has_a_section_of_this_version() {
    assert!(read("CHANGELOG.md").contains(&format!("\n## [{VERSION}]")));
}
