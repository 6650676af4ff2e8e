use std::collections::BTreeSet;

use super::*;

#[test]
fn what_is_counted_has_the_names_of_the_documentation() {
    let metrics = Metrics::default();
    metrics.set_connected(true);
    metrics.set_leader(true);
    let took = Duration::from_micros(400);
    metrics.request("CreateContainer", Outcome::Answered, took);
    metrics.request("RunPodSandbox", Outcome::Rejected("full"), took);
    metrics.injected(2);
    metrics.uninjected();
    metrics.allocation(Allocation::Assigned, true);
    metrics.repair(Repair::Mended);
    metrics.plugin(Deed::Rejected, 100);
    metrics.waits_for_lock();
    metrics.port_taken();
    metrics.write("pod", Write::Rejected);
    metrics.writes_waiting("pod", 4);
    metrics.writes_waiting("endpointslice", 5);
    metrics.endpoint_slices(6);
    let usage = Usage { range: "a\"b".into(), protocol: "tcp".into(), held: 3, free: 7 };
    metrics.usage(vec![usage]);
    metrics.capacity(&[("autoport.cni/ports".to_owned(), (9, 1))].into());
    let text = metrics.text().expect("a string takes everything");
    for line in [
        r#"build_info{version="0.1.0"} 1"#,
        "nri_connected 1",
        "leader 1",
        r#"nri_requests_total{method="CreateContainer",result="answered"} 1"#,
        r#"nri_requests_total{method="RunPodSandbox",result="rejected"} 1"#,
        r#"nri_request_seconds_bucket{le="0.0005",method="CreateContainer"} 1"#,
        r#"nri_request_seconds_bucket{le="0.00025",method="CreateContainer"} 0"#,
        r#"rejections_total{reason="full"} 1"#,
        "injected_containers_total 1",
        "uninjected_containers_total 1",
        "replaced_variables_total 2",
        r#"allocations_total{network="host",result="assigned"} 1"#,
        r#"allocations_total{network="host",result="kept"} 0"#,
        r#"repairs_total{kind="mended"} 1"#,
        r#"repairs_total{kind="built"} 0"#,
        r#"plugin_events_total{kind="rejected",code="100"} 1"#,
        "store_lock_waits_total 1",
        "ports_taken_total 1",
        r#"api_writes_total{object="pod",result="rejected"} 1"#,
        r#"api_writes_waiting{object="pod"} 4"#,
        r#"api_writes_waiting{object="endpointslice"} 5"#,
        "endpoint_slices 6",
        r#"ports{range="a\"b",protocol="tcp",state="held"} 3"#,
        r#"ports{range="a\"b",protocol="tcp",state="free"} 7"#,
    ] {
        let line = format!("autoport_agent_{line}");
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert_documented(&text);
    metrics.set_leader(false);
    metrics.plugin(Deed::Rejected, 101);
    let text = metrics.text().expect("a string takes everything");
    assert!(!text.contains("protocol=\"tcp\""), "another agent counts the ranges: {text}");
    assert!(!text.contains("101"), "and what the plugin does: {text}");
}

/// What is served is what the table of docs/agent.md lists.
fn assert_documented(text: &str) {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE autoport_agent_"));
    let served: BTreeSet<String> = types
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let document = include_str!("../../../../docs/agent.md");
    let table = document.split("| metric | labels | meaning |").nth(1).expect("the table");
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<String> = rows.map(str::to_owned).collect();
    assert_eq!(served, documented);
}
