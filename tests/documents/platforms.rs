//! docs/platforms.md, the components of deploy/kubernetes/platforms and the messages of `install` name the same directories.

use super::*;

/// What each section says, in this order.
const HEADINGS: [&str; 7] = [
    "Network configuration",
    "Setup",
    "Ports and firewall",
    "Kernel",
    "Pod Security",
    "Limits",
    "Sources",
];

/// A row of the table: platform, plugins, network configurations, component.
fn rows(document: &str) -> Vec<[String; 4]> {
    let (_, table) = document.split_once("\n## Directories\n").expect("the table has a heading");
    let (table, _) = table.split_once("\n## ").expect("the table ends");
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| ")?.split(" | ").collect();
        let [platform, plugins, networks, component, _] = cells[..] else { return None };
        let text = |cell: &str| {
            cell.trim_matches('[')
                .split(']')
                .next()
                .unwrap_or_default()
                .trim_matches('`')
                .to_owned()
        };
        Some([platform, plugins, networks, component].map(text))
    });
    rows.filter(|[_, plugins, ..]| plugins.starts_with('/')).collect()
}

#[test]
fn a_component_has_the_directories_of_its_platform() {
    let rows = rows(&read("docs/platforms.md"));
    assert!(rows.len() > 12, "{rows:?}");
    let folder = root().join("deploy/kubernetes/platforms");
    let mut components: BTreeSet<_> = fs::read_dir(folder)
        .expect("it is in the repository")
        .map(|entry| entry.expect("it can be read").file_name().into_string().expect("UTF-8"))
        .collect();
    for [platform, plugins, networks, component] in rows {
        if ["/opt/cni/bin", "/etc/cni/net.d"] == [&plugins, &networks] {
            assert_eq!(component, "–", "{platform} has the directories of deploy/kubernetes");
        }
        if !components.remove(&component) {
            continue;
        }
        let text = read(&format!("deploy/kubernetes/platforms/{component}/kustomization.yaml"));
        for line in [
            format!(
                "- name: plugins\n                hostPath:\n                  path: {plugins}\n"
            ),
            format!(
                "- name: networks\n                hostPath:\n                  path: {networks}\n"
            ),
            format!("\"--bin-dir={plugins}\", \"--conf-dir={networks}\""),
        ] {
            assert!(text.contains(&line), "{component} lacks {line}: {text}");
        }
    }
    // It changes no directory.
    assert_eq!(
        components,
        BTreeSet::from(["selinux".to_owned()]),
        "no platform of docs/platforms.md"
    );
}

#[test]
fn install_names_the_directories_of_the_page() {
    let source = read("src/install/platform.rs");
    let (_, table) = source.split_once("= [\n").expect("the platforms are a table");
    let (table, _) = table.split_once("\n];").expect("the table ends");
    let named: Vec<_> = table.split('"').skip(1).step_by(2).collect();
    let known: BTreeSet<_> =
        named.chunks(3).map(|row| [row[1], row[2]].map(str::to_owned)).collect();
    let rows = rows(&read("docs/platforms.md"));
    let usual = ["/opt/cni/bin", "/etc/cni/net.d"].map(str::to_owned);
    // Nomad's is used by Nomad alone, and both programs may be on a node.
    let written: BTreeSet<_> = rows
        .into_iter()
        .filter(|[platform, ..]| platform != "Nomad")
        .map(|[_, plugins, networks, _]| [plugins, networks])
        .filter(|row| *row != usual)
        .collect();
    assert_eq!(known, written, "left: src/install/platform.rs, right: docs/platforms.md");
}

#[test]
fn a_platform_has_every_heading_and_a_source() {
    let document = read("docs/platforms.md");
    let sections: Vec<_> = document.split("\n## ").skip(1).collect();
    let mut platforms = 0;
    for section in sections {
        let (title, text) = section.split_once('\n').unwrap_or_default();
        if ["Directories", "All platforms", "References"].contains(&title) {
            continue;
        }
        platforms += 1;
        let starts = text.split("\n- **").skip(1);
        let found: Vec<_> = starts.filter_map(|part| Some(part.split_once(":**")?.0)).collect();
        assert_eq!(found, HEADINGS, "{title}");
    }
    assert_eq!(platforms, 18);
}
