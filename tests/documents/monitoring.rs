//! The metrics: what docs/agent.md lists is what dashboard and alerts use, and docs/monitoring.md has each alert.

use std::collections::BTreeSet;

use super::*;

const PREFIX: &str = "autoport_agent_";

/// The names in the first column of the table.
fn documented() -> BTreeSet<String> {
    let document = read("docs/agent.md");
    let table = document.split("| metric | labels | meaning |").nth(1).expect("the table");
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| `")?.split('`').next());
    let names: BTreeSet<_> = rows.map(str::to_owned).collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

#[test]
fn dashboard_and_alerts_use_documented_metrics() {
    let documented = documented();
    for file in ["dashboard.json", "rules.yaml"] {
        let text = read(&format!("deploy/kubernetes/monitoring/{file}"));
        for rest in text.split(PREFIX).skip(1) {
            let end = rest.find(|one: char| !one.is_ascii_lowercase() && one != '_');
            let name = &rest[..end.expect("a name ends")];
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(documented.contains(name), "{file}: {name} is not in docs/agent.md");
        }
    }
}

#[test]
fn each_alert_is_described_and_tested() {
    let rules = read("deploy/kubernetes/monitoring/rules.yaml");
    let alerts: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(alerts.len(), 7);
    let [document, tests] = ["docs/monitoring.md", "integration/alerts.yaml"].map(read);
    for alert in alerts {
        assert!(document.contains(&format!("| `{alert}` |")), "docs/monitoring.md lacks {alert}");
        let fires = format!("        alertname: {alert}\n        exp_alerts:");
        assert!(tests.contains(&fires), "no test in which {alert} fires");
    }
}
