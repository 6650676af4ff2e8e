//! The DEL of a pod that portmap attached comes to autoport: what portmap had of it goes, as if portmap had
//! been called, and nothing of other containers.

use super::*;
use crate::stage::plugin::Running;
use crate::stage::strace;

const PODS: u16 = 50;

/// What each pod asks for: all shapes that a runtime sends.
fn mappings(index: u16) -> Vec<PortMapping> {
    let tcp = PortMapping::new(Transport::Tcp, 9000 + index, POD_PORT);
    match index % 5 {
        0 => vec![tcp],
        1 => vec![tcp, PortMapping::new(Transport::Udp, 9000 + index, POD_PORT)],
        2 => vec![tcp.on(FIRST[0])],
        3 => vec![tcp.clone().on(FIRST[0]), tcp.on(FIRST[1])],
        _ => (0..20)
            .map(|more| PortMapping::new(Transport::Tcp, 10_000 + 100 * index + more, POD_PORT))
            .chain([tcp])
            .collect(),
    }
}

/// The nftables of the node with 50 pods of portmap, after the DEL of each second one, and of all.
fn after_del(portmap: Plugin, comes_to_autoport: bool) -> [String; 2] {
    let scene = Scene::new(portmap);
    let pods: Vec<(u16, Pod)> =
        (0..PODS).map(|index| (index, scene.node.pod(&format!("p{index}")))).collect();
    for (index, pod) in &pods {
        scene.cnitool_mapping("add", pod, &mappings(*index));
    }
    if comes_to_autoport {
        install(&[]);
    }
    let del = |(index, pod): &(u16, Pod)| {
        let said = scene.cnitool_mapping("del", pod, &mappings(*index));
        let is_told = said.contains("deleted the rules that portmap had for blue/cnitool-");
        assert_eq!(is_told, comes_to_autoport, "{said}");
    };
    let (going, staying): (Vec<_>, Vec<_>) = pods.iter().partition(|(index, _)| index % 2 == 0);
    going.into_iter().for_each(del);
    let half = ruleset();
    for (index, pod) in &staying {
        assert_eq!(scene.reaches(9000 + index).by(), Some(pod.name.as_str()));
    }
    if comes_to_autoport {
        // The port of a pod that is gone is the next one's, and DEL is repeated.
        let next = scene.pod("next", &[9000]);
        assert_eq!(scene.reaches(9000).by(), Some("next"));
        let before = ruleset();
        let said = scene.cnitool_mapping("del", &pods[2].1, &mappings(2));
        assert!(!said.contains("portmap"), "there is nothing any more: {said}");
        assert_eq!(ruleset(), before);
        scene.cnitool("del", &next, &[9000]);
        nft("delete table inet autoport");
    }
    staying.into_iter().for_each(del);
    [half, ruleset()]
}

#[test]
fn of_50_pods_of_portmap_with_iptables_nothing_is_left() {
    let [half, none] = after_del(Plugin::PortmapIptables, true);
    assert_eq!(half.matches("chain CNI-DN-").count(), 2 * 25, "{half}");
    assert_eq!([half, none], after_del(Plugin::PortmapIptables, false));
}

#[test]
fn of_50_pods_of_portmap_with_nftables_nothing_is_left() {
    let [half, none] = after_del(Plugin::PortmapNftables, true);
    assert!(half.contains("comment \"cnitool-") && !none.contains("comment \"cnitool-"), "{half}");
    assert_eq!([half, none], after_del(Plugin::PortmapNftables, false));
}

/// A chain to which a rule of another program leads cannot be deleted: it is emptied.
#[test]
fn a_chain_that_is_referred_to_is_emptied() {
    let scene = Scene::new(Plugin::PortmapIptables);
    let old = scene.pod("old", &[8080]);
    let chain = |text: &str| {
        let name = text.split_whitespace().find(|word| word.starts_with("CNI-DN-"));
        name.expect("portmap's chain").to_owned()
    };
    let chain = chain(&ruleset());
    nft(&format!("add rule ip nat OUTPUT tcp dport 7 jump {chain}"));
    install(&[]);
    let said = scene.cnitool("del", &old, &[8080]);
    assert!(said.contains("deleted the rules that portmap had"), "{said}");
    let (_, listed) = run(Command::new("nft").args(["list", "chain", "ip", "nat", &chain]), "");
    assert!(listed.contains(&chain) && !listed.contains("DNAT"), "{listed}");
    let next = scene.pod("next", &[8080]);
    assert_eq!(scene.reaches(8080).by(), Some("next"));
    scene.cnitool("del", &next, &[8080]);
}

/// Two DELs of one pod at a time: what one of them has deleted is no error of the other.
#[test]
fn dels_of_one_pod_at_a_time_succeed() {
    for portmap in [Plugin::PortmapIptables, Plugin::PortmapNftables] {
        let scene = Scene::new(portmap);
        let many: Vec<u16> = (9000..9040).collect();
        let old = scene.pod("old", &many);
        install(&[]);
        let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
        let results = fs::read_dir("/var/lib/cni/results").expect("libcni writes what it attached");
        let mut names = results.map(|entry| entry.expect("a file").file_name());
        let name = names.next().expect("one").into_string().expect("text");
        let container = name.strip_prefix("blue-").and_then(|name| name.strip_suffix("-eth0"));
        let mut attachment = old
            .in_network(&network)
            .mapping(many.iter().map(|port| PortMapping::new(Transport::Tcp, *port, POD_PORT)));
        container
            .expect("the network, the ID, the interface")
            .clone_into(&mut attachment.container_id);
        let calls: Vec<_> = (0..8).map(|_| attachment.plugin_call("DEL").start()).collect();
        let told: Vec<_> = calls.into_iter().map(Running::finish).collect();
        assert!(told.iter().all(|told| told.status.success()), "{told:?}");
        assert!(told.iter().all(|told| !told.stderr.contains("could not")), "{told:?}");
        assert!(
            told.iter().any(|told| told.stderr.contains("deleted the rules that portmap")),
            "{told:?}"
        );
        assert!(!ruleset().contains(&attachment.container_id), "{}", ruleset());
    }
}

/// Rules of iptables-legacy are not seen, so the command is told that deletes them.
#[test]
fn what_only_iptables_legacy_can_reach_is_told() {
    let scene = Scene::new(Plugin::PortmapNftables);
    install(&[]);
    let pod = scene.pod("web", &[8080]);
    let said = scene.cnitool("del", &pod, &[8080]);
    let again = scene.cnitool("del", &pod, &[8080]);
    assert!(!said.contains("legacy") && !again.contains("legacy"), "{said}{again}");

    let (ok, text) = run(Command::new("iptables-legacy").args(["-t", "nat", "-N", "OTHER"]), "");
    assert!(ok, "{text}");
    let said = scene.cnitool("del", &pod, &[8080]);
    let command = said.split('`').nth(1).unwrap_or_else(|| panic!("no command: {said}"));
    let chain = command.split("grep -v ").nth(1).and_then(|rest| rest.split(' ').next());
    let chain = chain.expect("the command names the chain");
    for words in [format!("-N {chain}"), format!("-A OTHER -p tcp --dport 8080 -j {chain}")] {
        let arguments: Vec<&str> = ["-t", "nat"].into_iter().chain(words.split(' ')).collect();
        let (ok, text) = run(Command::new("iptables-legacy").args(arguments), "");
        assert!(ok, "{text}");
    }
    let (ok, text) = run(Command::new("sh").args(["-ec", command]), "");
    assert!(ok, "{command}: {text}");
    let (_, left) = run(&mut Command::new("iptables-legacy-save"), "");
    assert!(left.contains(":OTHER") && !left.contains("CNI-DN"), "{left}");
}

/// How many system calls the DEL of a pod makes.
fn calls(attachment: &Attachment) -> Vec<String> {
    let lines = strace::trace(attachment, "DEL").into_iter();
    lines.filter(|line| line.contains('(') && !line.contains("execve(")).collect()
}

/// The DEL of a pod without ports does not look for portmap; that of one with ports and without a record
/// asks the kernel once.
#[test]
fn where_portmap_never_was_a_del_asks_once_or_not_at_all() {
    let node = Node::new();
    let network = Network::new("blue", Main::Bridge, 1, Plugin::Autoport);
    let (_web, web) =
        node.attached("web", &network, [PortMapping::new(Transport::Tcp, 8080, POD_PORT)]);
    let bare = node.pod("bare").in_network(&network);
    let bare = calls(&bare);
    assert!(!bare.iter().any(|line| line.contains("socket(")), "{}", bare.join("\n"));
    web.del().success();
    let again = calls(&web);
    let of = |name: &str| again.iter().filter(|line| line.contains(name)).count();
    assert_eq!([of("socket("), of("sendto(")], [1, 1], "{}", again.join("\n"));
    assert!(
        again.len() <= bare.len() + 24,
        "{} and {}: {}",
        bare.len(),
        again.len(),
        again.join("\n")
    );
}
