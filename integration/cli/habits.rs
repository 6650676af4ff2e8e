//! What operators are used to from kubectl, ip and podman: blocks in one row, examples of an annotation, a
//! pod in the place of a port, a version with a commit.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::{Value, json};

use super::commands::{assert_fails, json_of};
use crate::stage::bare::{add, annotated, attachment, network, tcp};
use crate::stage::chain::Attachment;
use crate::stage::netns::{nft, run};
use crate::stage::node::Node;
use crate::stage::operator::{autoport, told};
use crate::stage::plugin::Plugin;

/// A pod of the namespace `shop` with these requests, and with port 8080 if it is `fixed`.
fn pod(node: &Node, name: &str, number: u16, requests: &str, fixed: bool) -> Attachment {
    let pod = attachment(node, &network("blue"), name, number).of_pod("shop", name, name);
    let pod = pod.mapping(fixed.then(|| tcp(8080)));
    annotated(&pod, "ADD", &[("autoport.cni/ports", requests)]).run().success();
    pod
}

#[test]
fn a_block_is_one_row_with_its_name() {
    let node = Node::new();
    pod(&node, "phone", 5, "rtp=10000-10099/udp, http=8080", false);
    let listed = told(&["list", "--no-headers"]);
    let rows: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().take(4).collect()).collect();
    let named = |name: &str| rows.iter().filter(|row| row[2] == name).count();
    assert_eq!((named("rtp"), named("http")), (2, 2), "{listed}");
    let block = rows.iter().find(|row| row[2] == "rtp" && row[0].starts_with("0.0.0.0"));
    let block = block.expect("a block of IPv4");
    assert!(block[0].ends_with("/udp") && block[0].contains('-'), "{listed}");
    assert!(block[1].ends_with(":10000-10099"), "{listed}");
    let first = block[0].split([':', '-']).nth(1).expect("a number");
    assert_eq!(told(&["list", "-o", "wide", "--no-headers"]).lines().count(), 2 * 101);
    let one = told(&["show", &format!("{first}/udp")]);
    assert!(one.contains(&format!("0.0.0.0:{first}/udp")) && !one.contains("http"), "{one}");
    let all = told(&["show", "shop/phone"]);
    assert!(all.contains(block[0]) && all.contains("http"), "{all}");
}

#[test]
fn an_annotation_is_explained_without_a_request() {
    let _node = Node::new();
    let (code, answer) = json_of(&["explain", "--annotation", "http=8080, rtp=100-109/udp"]);
    assert_eq!((code, &answer["outcome"]), (Some(0), &json!("granted")), "{answer}");
    let variables = &answer["granted"]["published"]["variables"];
    assert_eq!(variables["AUTOPORT_PORT_HTTP"], "8080", "{answer}");
    assert_eq!(answer["granted"]["record"]["pod"]["name"], "explain");
    assert!(
        answer["granted"]["record"]["created"].as_str().is_some_and(|time| time.ends_with('Z'))
    );
    let text = told(&["explain", "--annotation", "http=8080"]);
    assert!(text.contains("would be granted") && text.contains("http"), "{text}");
    let (status, stdout, _) = autoport(&["explain", "--annotation", "http=80800"]);
    assert!(status.code() == Some(3) && stdout.contains("80800"), "{stdout}");
}

#[test]
fn a_pod_can_be_traced() {
    let node = Node::new();
    let lone = attachment(&node, &network("blue"), "lone", 6).of_pod("shop", "lone", "lone");
    add(&node, &lone.mapping([tcp(8081)]));
    pod(&node, "many", 7, "http=8000", true);
    let (_, by_pod) = json_of(&["trace", "shop/lone"]);
    let (_, by_port) = json_of(&["trace", "8081"]);
    assert_eq!(by_pod["verdict"], by_port["verdict"]);
    let several = "shop/many has several host ports, name one of them: 8080/tcp, 20000/tcp";
    assert_fails(&["trace", "shop/many"], 1, several);
    assert_fails(&["trace", "nobody"], 1, "no pod, container or reservation nobody");
    assert_fails(&["trace", "8081", "--from", "::1", "--to", "127.0.0.1"], 2, "set --to");
    assert_fails(&["trace", "8081@192.0.2.1"], 2, "give the destination address with --to");
}

#[test]
fn status_is_about_the_ports_that_are_there_too() {
    let node = Node::new();
    pod(&node, "web", 5, "http=8000", true);
    let (code, answer) = json_of(&["status"]);
    assert_eq!((code, &answer["differences"]), (Some(0), &json!([])), "{answer}");
    assert!(told(&["status"]).contains("rules       as recorded\n"));
    nft("flush chain inet autoport prerouting");
    let (code, answer) = json_of(&["status"]);
    assert_eq!((code, &answer["usable"]), (Some(3), &json!(true)), "{answer}");
    assert!(answer["differences"].as_array().is_some_and(|all| !all.is_empty()), "{answer}");
    let (status, text, _) = autoport(&["status"]);
    assert_eq!(status.code(), Some(3));
    assert!(text.contains("rules       ") && text.contains("`autoport repair`"), "{text}");
    told(&["repair"]);
    assert_eq!(json_of(&["status"]).0, Some(0));
}

#[test]
fn the_version_names_layouts_and_kernel() {
    let _node = Node::new();
    let (code, answer) = json_of(&["version"]);
    assert_eq!((code, &answer["version"]), (Some(0), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(answer["kernel"]["nfTables"], true, "{answer}");
    assert_eq!(answer["kernel"]["error"], Value::Null);
    let text = told(&["version"]);
    assert!(text.contains("table layout  ") && text.contains("nf_tables accepts"), "{text}");
}

#[test]
fn every_error_begins_with_the_programs_name() {
    for wrong in [&["nonsense"][..], &["list", "--port", "x"], &["show"], &["list", "-x"]] {
        let (status, stdout, stderr) = autoport(wrong);
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(stdout.is_empty() && stderr.starts_with("autoport: "), "{wrong:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{wrong:?}: {stderr}");
    }
    let (status, stdout, stderr) = autoport(&["list", "--help"]);
    assert!(status.success() && stderr.is_empty(), "{stderr}");
    assert!(stdout.contains("Examples:\n  autoport list"), "{stdout}");
}

#[test]
fn pods_and_ports_are_completed() {
    let node = Node::new();
    pod(&node, "web", 5, "http=8000", true);
    told(&["reserve", "dns", "53/udp"]);
    let words = |line: &[&str]| -> Vec<String> {
        told(&[&["complete", "--"], line].concat()).lines().map(str::to_owned).collect()
    };
    assert_eq!(words(&["show", "sh"]), ["shop/web"]);
    assert_eq!(words(&["list", "--pod", ""]), ["shop/web"]);
    assert_eq!(words(&["list", "-n", ""]), ["shop"]);
    assert_eq!(words(&["list", "--port", "2"]), ["20000"]);
    assert_eq!(words(&["trace", ""]), ["20000/tcp", "8080/tcp", "shop/web"]);
    assert_eq!(words(&["release", ""]), ["dns"]);
    let script = told(&["completion", "bash"]);
    let autoport = Plugin::Autoport.path();
    let ask = format!(
        "autoport() {{ {} \"$@\"; }}\n{script}\nCOMP_WORDS=(autoport show sh) COMP_CWORD=2\n_autoport\n\
         echo \"${{COMPREPLY[@]}}\"",
        autoport.display()
    );
    let (ok, text) = run(Command::new("bash").args(["-ec", &ask]).env_remove("CNI_COMMAND"), "");
    assert_eq!((ok, text.trim()), (true, "shop/web"));
}

#[test]
fn a_report_is_one_archive_that_is_not_overwritten() {
    let node = Node::new();
    pod(&node, "web", 5, "http=8000", true);
    let file = "/run/report.tar.gz";
    let (code, answer) = json_of(&["report", file]);
    assert_eq!((code, &answer["file"]), (Some(0), &json!(file)), "{answer}");
    let mode = fs::metadata(file).expect("the archive").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (ok, names) = run(Command::new("tar").args(["-tzf", file]), "");
    let expected: Vec<String> = answer["contents"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|name| format!("autoport-report/{}", name.as_str().expect("a name")))
        .collect();
    assert!(ok && names.lines().eq(expected.iter().map(String::as_str)), "{names}");
    for (name, part) in [
        ("list.json", "\"web\""),
        ("status.json", "\"usable\": true"),
        ("doctor.json", "\"findings\""),
        ("config.json", "\"settings\""),
        ("version.json", "\"nfTables\": true"),
        ("table.nft", "table inet autoport"),
    ] {
        let name = format!("autoport-report/{name}");
        let (ok, text) = run(Command::new("tar").args(["-xzOf", file, &name]), "");
        assert!(ok && text.contains(part), "{name}: {text}");
    }
    assert_fails(&["report", file], 1, "cannot write /run/report.tar.gz: File exists");
}
