use std::os::unix::ffi::OsStringExt as _;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn pod(args: &str) -> (Option<Pod>, usize) {
    let mut warnings = Vec::new();
    (env(&[("CNI_ARGS", args)]).pod(&mut warnings), warnings.len())
}

#[test]
fn every_missing_variable_is_named_at_once() {
    let cases = [
        (Command::Add, "CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_PATH"),
        (Command::Check, "CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_PATH"),
        (Command::Del, "CNI_CONTAINERID CNI_IFNAME CNI_PATH"),
        (Command::Gc, "CNI_PATH"),
    ];
    let empty = env(&[("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_ARGS", "")]);
    for (command, missing) in cases {
        let message = empty.parameters(command).expect_err("nothing is set").to_string();
        for variable in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
            assert_eq!(message.contains(variable), missing.contains(variable), "{message}");
        }
    }
    for command in [Command::Status, Command::Version] {
        assert_eq!(empty.parameters(command).expect("nothing is needed"), Parameters::default());
    }
}

#[test]
fn commands_are_exact() {
    for command in Command::ALL {
        let found = env(&[("CNI_COMMAND", &command.to_string())]).command().expect("a command");
        assert_eq!(found, command);
    }
    for bad in ["add", "ADD ", "UPDATE", "ADD\n"] {
        let env = env(&[("CNI_COMMAND", bad)]);
        let message = env.command().expect_err(bad).to_string();
        assert!(message.contains(&format!("{bad:?}")), "{message}");
        assert!(env.is_plugin_call());
    }
    assert!(!env(&[("CNI_COMMAND", ""), ("PATH", "/bin")]).is_plugin_call());
}

#[test]
fn malformed_values_are_named_together() {
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let env: Env = [
        ("CNI_CONTAINERID".into(), "../../etc".into()),
        ("CNI_NETNS".into(), bytes(b"/run/\xff")),
        ("CNI_IFNAME".into(), "eth0/1".into()),
        ("CNI_PATH".into(), bytes(b"/opt/\xff")),
    ]
    .into_iter()
    .collect();
    let message = env.parameters(Command::Add).expect_err("all but CNI_PATH are bad").to_string();
    for part in ["\"../../etc\"", "CNI_NETNS is \"/run/\\xFF\"", "\"eth0/1\""] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("CNI_PATH"), "{message}");
}

#[test]
fn long_container_ids_are_fine() {
    let id = "f".repeat(4000);
    let pairs = [("CNI_CONTAINERID", &*id), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/x")];
    assert_eq!(env(&pairs).parameters(Command::Del).expect("a legal ID").container_id, id);
}

#[test]
fn pods_are_found_in_any_order() {
    let containerd = "K8S_POD_UID=0-1;K8S_POD_INFRA_CONTAINER_ID=abc;IgnoreUnknown=1;\
                      K8S_POD_NAME=web;K8S_POD_NAMESPACE=default";
    let found = pod(containerd).0.expect("a pod");
    assert_eq!((found.to_string(), &*found.uid), ("default/web".to_owned(), "0-1"));
    let podman = pod("IgnoreUnknown=1;K8S_POD_NAME=web").0.expect("a name is enough");
    assert_eq!((&*podman.namespace, &*podman.name, &*podman.uid), ("", "web", ""));
    for nothing in ["", "K8S_POD_NAME", "K8S_POD_NAME=", "a=b=c;;=;", "K8S_POD_UID=1"] {
        assert_eq!(pod(nothing), (None, 0), "{nothing}");
    }
}

#[test]
fn pod_names_that_could_escape_are_dropped() {
    assert_eq!(pod("K8S_POD_NAME=a\nb"), (None, 1));
    let (found, warnings) = pod("K8S_POD_NAME=a;K8S_POD_UID=../../etc;K8S_POD_NAMESPACE=\"");
    assert_eq!(warnings, 2);
    assert_eq!(found.map(|pod| pod.namespace + &pod.uid), Some(String::new()));
}
