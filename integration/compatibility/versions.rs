//! Two versions on one node, as during an upgrade: this version serves what the previous one
//! recorded, and the previous one changes nothing in the store of this one. `integration/setup.sh
//! test` builds the previous version from this repository's history.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::stage::bare::{self, annotated, attachment, chosen, run, tcp, udp};
use crate::stage::chain::{Attachment, Main, Network, PortMapping};
use crate::stage::node::{FIRST, Node, POD_PORT, Pod};
use crate::stage::operator::{self, told};
use crate::stage::plugin::{Outcome, Plugin};
use crate::stage::probe::{Answer, Probe, Transport};
use crate::stage::talk::{self, Talk};
use crate::stage::view::{self, STATE, snapshot};

const ASKED: [(&str, &str); 2] = [
    ("autoport.cni/ports", "http=80, dns=53/tcp+udp, rtp=5000-5003/udp"),
    ("pod.kubewharf.kubernetes.io/autoport", "true"),
];

fn network(plugin: Plugin) -> Network {
    let mut network = Network::new("blue", Main::Bridge, 1, plugin).speaking("1.1.0");
    network = network.with("portRange", "20000-20019");
    network
}

/// The same container, served by another version.
fn by(plugin: Plugin, attachment: &Attachment) -> Attachment {
    let mut other = attachment.clone();
    other.network.plugin = plugin;
    other
}

/// A node on which one version attached pods of every kind.
pub(crate) struct Scene {
    pub(crate) node: Node,
    _pods: [Pod; 3],
    /// Has ports that it named.
    pub(crate) web: Attachment,
    /// Has ports that the node chose.
    pub(crate) game: Attachment,
    /// Was there, and has given back the number it had.
    gone: Attachment,
    pub(crate) talk: Talk,
}

/// What `list` prints, in the words of the version that printed a line for each host port.
fn allocations_of(list: &Value) -> BTreeSet<String> {
    let of = |list: &Value, key: &str| list[key].as_array().expect("a list").clone();
    let place = |host: &Value| ["protocol", "address", "port"].map(|key| host[key].to_string());
    let mut lines = BTreeSet::new();
    for one in of(list, "attachments") {
        let pod = ["namespace", "name", "uid"].map(|key| one["pod"][key].to_string());
        let attachment = ["network", "containerId", "ifname"].map(|key| one[key].to_string());
        let grants = one["grants"].as_array().cloned().unwrap_or_default();
        for mapping in of(&one, "mappings") {
            let number = |value: &Value| value.as_u64().expect("a number");
            let port = number(&mapping["port"]);
            let is_chosen = |grant: &Value| {
                let first = number(&grant["port"]);
                (first..first + number(&grant["count"])).contains(&port)
            };
            let choice = if grants.iter().any(is_chosen) { "chosen" } else { "static" };
            let target = mapping["target"].as_str().map(|target| {
                let (address, _) = target.rsplit_once(':').expect("it has a port");
                address.trim_matches(['[', ']'])
            });
            let target = [json!(target).to_string(), mapping["containerPort"].to_string()];
            let words = [json!(choice).to_string(), one["state"].to_string()];
            let parts = [&place(&mapping)[..], &target, &words, &pod, &attachment].concat();
            lines.insert(format!("{} null", parts.join(" ")));
        }
    }
    for one in of(list, "reservations") {
        for host in of(&one, "hosts") {
            let nothing = ["null"; 6].join(" ");
            let place = place(&host).join(" ");
            let name = &one["name"];
            lines.insert(format!("{place} null null \"reserved\" \"reserved\" {nothing} {name}"));
        }
    }
    lines
}

impl Scene {
    pub(crate) fn new(plugin: Plugin) -> Self {
        let node = Node::new();
        let network = network(plugin);
        let uid = |one: Attachment| {
            let id = one.container_id.clone();
            one.of_pod("shop", &id, &format!("uid-{id}"))
        };
        let web = node.pod("web");
        let mappings = PortMapping::both(8080, POD_PORT, "")
            .into_iter()
            .chain([PortMapping::new(Transport::Tcp, 8081, talk::POD_PORT)])
            .chain([tcp(8082).on(FIRST[0])]);
        let mut of_web = uid(web.in_network(&network)).mapping(mappings);
        node.add(&mut of_web);
        let talk = Talk::begin(&node, &web, 8081);

        let gone = node.pod("gone");
        let mut of_gone = uid(gone.in_network(&network)).mapping([tcp(0)]);
        node.add(&mut of_gone);

        let game = node.pod("game");
        let mut of_game = uid(game.in_network(&network));
        of_game.attach_main();
        annotated(&of_game, "ADD", &ASKED).run().success();

        of_gone.del().success();
        let scene = Self {
            node,
            _pods: [web, gone, game],
            web: of_web,
            game: of_game,
            gone: of_gone,
            talk,
        };
        scene.operator(plugin, &["reserve", "dns", "5353/udp"]);
        scene
    }

    /// Insists that an operator's command works.
    fn operator(&self, plugin: Plugin, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = operator::of(plugin, &[], arguments);
        self.node.note(format!("{plugin:?} {arguments:?}: {status} {stdout}{stderr}"));
        assert!(status.success(), "{plugin:?} {arguments:?}: {stdout}{stderr}");
        stdout
    }

    /// The host ports and their holders, as one version lists them.
    fn allocations(&self, plugin: Plugin) -> BTreeSet<String> {
        let text = self.operator(plugin, &["list", "--output", "json"]);
        let list: Value = serde_json::from_str(&text).expect("list prints JSON");
        if plugin == Plugin::Autoport {
            return allocations_of(&list);
        }
        let all = list["allocations"].as_array().expect("a list").clone();
        let names = [
            "protocol",
            "hostAddress",
            "hostPort",
            "podAddress",
            "podPort",
            "choice",
            "state",
            "namespace",
            "pod",
            "uid",
            "network",
            "containerId",
            "ifname",
            "reservation",
        ];
        all.iter().map(|one| names.map(|name| one[name].to_string()).join(" ")).collect()
    }

    /// Insists that clients reach every pod as before.
    pub(crate) fn assert_traffic(&mut self, what: &str) {
        let numbers = chosen(&self.game);
        let [http, dns, ..] = numbers[..] else { panic!("{numbers:?}") };
        let probes = [
            (Probe::tcp(FIRST[0], 8080), "web"),
            (Probe::udp(FIRST[1], 8080), "web"),
            (Probe::tcp(FIRST[0], 8082), "web"),
            (Probe::tcp(FIRST[0], http), "game"),
        ];
        for (probe, by) in probes {
            assert_eq!(self.node.client_asks(&probe).by(), Some(by), "{what}: {probe:?}");
        }
        // Nobody listens on the pod's port 53, which the pod says, not the node.
        let refused = self.node.client_asks(&Probe::tcp(FIRST[0], dns));
        assert_eq!(refused, Answer::Refused, "{what}");
        self.talk.goes_on(what);
    }

    /// A container of this version that wants these ports.
    pub(crate) fn claim(&self, id: &str, mapping: PortMapping) -> Attachment {
        let one = attachment(&self.node, &network(Plugin::Autoport), id, 900);
        one.of_pod("shop", id, &format!("uid-{id}")).mapping([mapping])
    }
}

fn refused(claim: &Attachment, code: u64, holder: &str) {
    let outcome = run(claim, "ADD");
    outcome.failure(code);
    assert!(outcome.message().contains(holder), "{holder}: {outcome}");
}

/// The numbers that a file tells, in any order. Which addresses are told is another question.
fn variables(text: &str) -> BTreeSet<String> {
    let numbers = |line: &&str| !line.contains("HOST_IP") && !line.contains("_ADDR");
    let set = text.lines().filter(|line| line.contains('=') && !line.starts_with('#'));
    let set = set.filter(numbers);
    set.map(str::to_owned).collect()
}

fn published(uid: &str) -> BTreeSet<String> {
    let path = Path::new(STATE).join("pods").join(uid).join("ports.env");
    variables(
        &fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    )
}

/// A command by name, and how it is run.
type First = (&'static str, fn(&Scene));

/// The first command of the new version may be any.
#[test]
fn whichever_command_comes_first_nothing_is_lost() {
    let firsts: [First; 8] = [
        ("list", |_| {
            told(&["list"]);
        }),
        ("repair", |_| {
            told(&["repair"]);
        }),
        ("gc", |_| {
            told(&["gc"]);
        }),
        ("CHECK", |scene| {
            by(Plugin::Autoport, &scene.web).check().success();
        }),
        ("STATUS", |scene| {
            run(&by(Plugin::Autoport, &scene.web), "STATUS").success();
        }),
        ("GC", |scene| {
            let mut config = by(Plugin::Autoport, &scene.web).config();
            let valid = [&scene.web, &scene.game]
                .map(|one| json!({"containerID": one.container_id, "ifname": one.ifname}));
            config["cni.dev/valid-attachments"] = json!(valid);
            let call = by(Plugin::Autoport, &scene.web).plugin_call("GC");
            call.stdin(config.to_string()).run().success();
        }),
        ("ADD", |scene| {
            let newcomer = scene.claim("newcomer", tcp(9090));
            bare::add(&scene.node, &newcomer);
            run(&newcomer, "DEL").success();
        }),
        ("DEL of another", |scene| {
            run(&scene.claim("unknown", tcp(9090)), "DEL").success();
        }),
    ];
    for (what, first) in firsts {
        let mut scene = Scene::new(Plugin::Previous);
        let known = scene.allocations(Plugin::Previous);
        let told_before = published("uid-game");
        first(&scene);
        assert_eq!(scene.allocations(Plugin::Autoport), known, "{what}");
        scene.assert_traffic(what);
        let env = operator::told(&["env", "shop/game"]);
        let told_now = variables(&env);
        for line in &told_before {
            let plain = line.replace('\'', "");
            assert!(
                told_now.iter().any(|it| it.replace('\'', "") == plain),
                "{what}: {line} in\n{env}"
            );
        }
        for one in [&scene.web, &scene.game] {
            by(Plugin::Autoport, one).check().success();
        }
        assert_eq!(known, scene.allocations(Plugin::Autoport), "{what}");
    }
}

/// Nothing is given twice, the same numbers are given again, and all of it can be given back.
#[test]
fn pods_of_the_previous_version_are_served() {
    let mut scene = Scene::new(Plugin::Previous);
    let known = scene.allocations(Plugin::Previous);
    let numbers = chosen(&scene.game);
    // Each port of theirs, to others.
    refused(&scene.claim("greedy", tcp(8080)), 100, "shop/web");
    refused(&scene.claim("greedy", udp(8080).on(FIRST[0])), 100, "shop/web");
    refused(&scene.claim("greedy", tcp(8082)), 100, "shop/web");
    refused(&scene.claim("greedy", tcp(numbers[0])), 100, "shop/game");
    refused(&scene.claim("greedy", udp(5353)), 100, "dns");
    assert_eq!(scene.allocations(Plugin::Autoport), known);
    // Who asks again has the same.
    let web = by(Plugin::Autoport, &scene.web);
    let game = by(Plugin::Autoport, &scene.game);
    run(&web, "ADD").success();
    annotated(&game, "ADD", &ASKED).run().success();
    assert_eq!(chosen(&game), numbers);
    assert_eq!(scene.allocations(Plugin::Autoport), known);
    // What was given back before the upgrade is free again: that memory does not outlive it.
    let mut again = by(Plugin::Autoport, &scene.gone);
    again.container_id = "again".to_owned();
    again.result = Some(bare::result("1.1.0", &["10.1.0.200/24".to_owned()]));
    let newcomer = scene.claim("newcomer", tcp(0));
    bare::add(&scene.node, &newcomer);
    bare::add(&scene.node, &again);
    let all: Vec<u16> = [&numbers[..], &chosen(&newcomer), &chosen(&again)]
        .iter()
        .flat_map(|it| it.iter())
        .copied()
        .collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "given twice: {all:?}");
    scene.assert_traffic("with newcomers");
    // The table can be made again from what the previous version recorded.
    crate::stage::netns::nft("delete table inet autoport");
    told(&["repair"]);
    scene.assert_traffic("after a repair");
    told(&["gc"]);
    scene.assert_traffic("after a collection");
    for one in [&newcomer, &again, &game] {
        run(one, "DEL").success();
    }
    assert!(!Path::new(STATE).join("pods/uid-game").exists(), "files of a pod that is gone");
    scene.talk.goes_on("after the DELs of others");
    run(&web, "DEL").success();
    assert_eq!(scene.node.client_asks(&Probe::tcp(FIRST[0], 8080)), Answer::Refused);
    view::assert_nothing_held_by_attachments();
    told(&["release", "dns"]);
    view::assert_nothing_held();
}

/// A DEL of the previous version's containers as the first command.
#[test]
fn a_container_of_the_previous_version_is_deleted_first() {
    let scene = Scene::new(Plugin::Previous);
    for one in [&scene.game, &scene.web] {
        run(&by(Plugin::Autoport, one), "DEL").success();
    }
    view::assert_nothing_held_by_attachments();
    assert!(!Path::new(STATE).join("pods/uid-game").exists());
    assert_eq!(scene.node.client_asks(&Probe::tcp(FIRST[0], 8080)), Answer::Refused);
}

/// The previous version does not know what this one keeps beside its records, so it must not write.
#[test]
fn the_previous_version_refuses_a_store_of_this_one() {
    let mut scene = Scene::new(Plugin::Autoport);
    let known = scene.allocations(Plugin::Autoport);
    let before = snapshot();
    let unchanged = |what: &str, outcome: &dyn std::fmt::Display| {
        assert_eq!(snapshot(), before, "{what}: {outcome}");
    };
    let newer = |outcome: &Outcome| {
        assert!(!outcome.status.success(), "{outcome}");
        let text = outcome.message();
        assert!(text.contains("version 2") && text.contains(STATE), "{outcome}");
    };
    let mut claim = scene.claim("newcomer", tcp(9090));
    claim.network.plugin = Plugin::Previous;
    let [web, game] = [&scene.web, &scene.game].map(|one| by(Plugin::Previous, one));
    for (what, call) in [
        ("ADD", claim.plugin_call("ADD")),
        ("the same ADD again", web.plugin_call("ADD")),
        ("ADD of what was asked for by annotation", annotated(&game, "ADD", &ASKED)),
        ("CHECK", web.plugin_call("CHECK")),
    ] {
        let outcome = call.run();
        newer(&outcome);
        unchanged(what, &outcome);
    }
    let mut collected = web.config();
    collected["cni.dev/valid-attachments"] = json!([]);
    for (what, call) in [
        ("DEL", web.plugin_call("DEL")),
        ("DEL of what was asked for by annotation", game.plugin_call("DEL")),
        ("GC", web.plugin_call("GC").stdin(collected.to_string())),
    ] {
        let outcome = call.run();
        let told = format!("{}{}", outcome.message(), outcome.stderr);
        assert!(told.contains("version 2"), "{what}: {outcome}");
        unchanged(what, &outcome);
    }
    for arguments in [
        &["repair"][..],
        &["repair", "--adopt"],
        &["gc"],
        &["reserve", "more", "9091/tcp"],
        &["release", "dns"],
    ] {
        let (status, stdout, stderr) = operator::of(Plugin::Previous, &[], arguments);
        assert!(!status.success(), "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains("version 2"), "{arguments:?}: {stdout}{stderr}");
        unchanged(&format!("{arguments:?}"), &stderr);
    }
    assert_eq!(scene.allocations(Plugin::Autoport), known);
    scene.assert_traffic("after commands of the previous version");
    for one in [&scene.web, &scene.game] {
        one.check().success();
        run(one, "DEL").success();
    }
    view::assert_nothing_held_by_attachments();
}
