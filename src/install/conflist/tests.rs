//! Configurations as main plugins and runtimes ship them.

use super::*;

/// Flannel's, from its manifest: white space as there, `hairpinMode` inside `delegate`.
const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#;

/// Calico's, after its installer has filled it in.
const CALICO: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "datastore_type": "kubernetes",
      "nodename": "node-1",
      "mtu": 0,
      "ipam": {
          "type": "calico-ipam"
      },
      "policy": {
          "type": "k8s"
      },
      "kubernetes": {
          "kubeconfig": "/etc/cni/net.d/calico-kubeconfig"
      }
    },
    {
      "type": "portmap",
      "snat": true,
      "capabilities": {"portMappings": true}
    },
    {
      "type": "bandwidth",
      "capabilities": {"bandwidth": true}
    }
  ]
}"#;

/// kindnet's.
const KINDNET: &str = r#"
{
	"cniVersion": "0.3.1",
	"name": "kindnet",
	"plugins": [
	{
		"type": "ptp",
		"ipMasq": false,
		"ipam": {
			"type": "host-local",
			"dataDir": "/run/cni-ipam-state",
			"routes": [
				{ "dst": "0.0.0.0/0" }
			],
			"ranges": [
				[ { "subnet": "10.244.0.0/24" } ]
			]
		},
		"mtu": 1500
	},
	{
		"type": "portmap",
		"capabilities": {
			"portMappings": true
		}
	}
	]
}
"#;

/// CRI-O's, which has no port mapper: CRI-O maps ports itself.
const CRIO: &str = r#"{
    "cniVersion": "1.0.0",
    "name": "crio",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "routes": [
                    { "dst": "0.0.0.0/0" }
                ],
                "ranges": [
                    [{ "subnet": "10.85.0.0/16" }]
                ]
            }
        }
    ]
}
"#;

/// podman's, with one plugin a line.
const PODMAN: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "podman",
  "plugins": [
    { "type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": { "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }], "ranges": [ [ { "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" } ] ] } },
    { "type": "portmap", "capabilities": { "portMappings": true } },
    { "type": "firewall" },
    { "type": "tuning" }
  ]
}
"#;

/// As a program writes it.
const COMPACT: &str = concat!(
    r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"ptp","ipam":{"type":"host-local"}},"#,
    r#"{"type":"portmap","capabilities":{"portMappings":true}}]}"#,
);

const ALL: [(&str, &str); 6] = [
    ("flannel", FLANNEL),
    ("calico", CALICO),
    ("kindnet", KINDNET),
    ("crio", CRIO),
    ("podman", PODMAN),
    ("compact", COMPACT),
];

fn installed(text: &str) -> Edited {
    with_autoport(text).unwrap_or_else(|problem| panic!("{problem}\n{text}"))
}

fn refused(text: &str) -> String {
    with_autoport(text).expect_err(text).to_string()
}

/// The lines that differ.
fn difference(old: &str, new: &str) -> Vec<String> {
    let patch = diffy::create_patch(old, new).to_string();
    let changed = patch.lines().skip(2).filter(|line| line.starts_with(['-', '+']));
    changed.map(str::to_owned).collect()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn portmap_makes_way_and_nothing_else_changes() {
    let edited = installed(FLANNEL);
    assert_eq!((edited.how, &*edited.remarks), (Some("autoport replaces portmap"), &[][..]));
    assert_eq!(
        difference(FLANNEL, &edited.text),
        [
            r#"-      "type": "portmap","#,
            r#"+      "type": "autoport","#,
            r#"-        "portMappings": true"#,
            r#"+        "portMappings": true,"#,
            r#"+        "io.kubernetes.cri.pod-annotations": true"#,
        ]
    );
    assert_eq!(
        difference(CALICO, &installed(CALICO).text),
        [
            r#"-      "type": "portmap","#,
            r#"+      "type": "autoport","#,
            r#"-      "capabilities": {"portMappings": true}"#,
            r#"+      "capabilities": {"portMappings": true, "io.kubernetes.cri.pod-annotations": true}"#,
        ]
    );
    assert_eq!(
        difference(PODMAN, &installed(PODMAN).text),
        [
            r#"-    { "type": "portmap", "capabilities": { "portMappings": true } },"#,
            concat!(
                r#"+    { "type": "autoport", "capabilities": { "portMappings": true, "#,
                r#""io.kubernetes.cri.pod-annotations": true } },"#
            ),
        ]
    );
    assert_eq!(
        difference(COMPACT, &installed(COMPACT).text)[1],
        concat!(
            r#"+{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"ptp","ipam":{"type":"host-local"}},"#,
            r#"{"type":"autoport","capabilities":{"portMappings":true,"#,
            r#""io.kubernetes.cri.pod-annotations":true}}]}"#,
        )
    );
}

#[test]
fn without_portmap_autoport_is_the_last() {
    let edited = installed(CRIO);
    assert_eq!(
        (edited.how, &*edited.remarks),
        (Some("autoport added after the other plugins"), &[][..])
    );
    assert_eq!(
        difference(CRIO, &edited.text),
        [
            "+        },",
            "+        {",
            r#"+            "type": "autoport","#,
            concat!(
                r#"+            "capabilities": { "portMappings": true, "#,
                r#""io.kubernetes.cri.pod-annotations": true }"#
            ),
        ]
    );
}

#[test]
fn done_twice_is_done_once_and_undone_is_as_before() {
    for (name, text) in ALL {
        let once = installed(text);
        let twice = installed(&once.text);
        assert_eq!((twice.how, &twice.text), (None, &once.text), "{name}");
        let back = without_autoport(&once.text, Some(text)).expect("it is understood");
        assert_eq!(
            (back.how, &*back.text),
            (Some("restored to its content before the installation"), text),
            "{name}"
        );
        let again = without_autoport(text, None).expect("it is understood");
        assert_eq!((again.how, &*again.text), (None, text), "{name}");
        // Every plugin but one is what it was.
        let (old, new) = (json(text), json(&once.text));
        let others = |value: &serde_json::Value| -> Vec<serde_json::Value> {
            let plugins = value["plugins"].as_array().expect("plugins").clone();
            let is_ours =
                |one: &serde_json::Value| one["type"] == "portmap" || one["type"] == "autoport";
            plugins.into_iter().filter(|one| !is_ours(one)).collect()
        };
        assert_eq!(others(&old), others(&new), "{name}");
    }
}

/// White space in any place where JSON has it, the plugins in any order behind the main one.
#[test]
fn no_layout_breaks_a_list() {
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..1000 {
        let ours = [
            r#"{"type":"portmap","backend":"iptables","snat":true,"conditionsV4":["-s","192.0.2.1"]}"#,
            r#"{"backend":"iptables","capabilities":{"x":1},"type":"portmap"}"#,
            r#"{"type":"tuning"}"#,
        ][rng.usize(..3)];
        let mut plugins = vec![ours, r#"{"type":"bandwidth","capabilities":{}}"#];
        plugins.truncate(rng.usize(1..=2));
        rng.shuffle(&mut plugins);
        plugins.insert(0, r#"{"type":"ptp","a":[],"b":{},"c":[{}]}"#);
        let list = plugins.join(",");
        let list = format!(r#"{{"cniVersion":"1.0.0","name":"a","plugins":[{list}]}}"#);
        let mut text = String::new();
        for c in list.chars() {
            let spaces = ["", "", " ", "\n", "\t", "\r\n  "];
            let mut space = || if "[]{},:".contains(c) { spaces[rng.usize(..6)] } else { "" };
            text = format!("{text}{}{c}{}", space(), space());
        }
        let installed = installed(&text).text;
        let changed = installed.replace("\"a\"", "\"z\"");
        for before in [None, Some(&*text)] {
            let back = without_autoport(&changed, before).expect("it is understood").text;
            let mut left = types(&text);
            left.retain(|one| before.is_some() || one != "portmap");
            assert_eq!(types(&back), left, "{text}");
            assert!(back.contains("\"z\"") && !back.contains(NAME), "{back}");
        }
    }
}

#[test]
fn what_would_break_a_list_is_not_written() {
    let types = types(COMPACT);
    assert!(verified(COMPACT.to_owned(), &types).is_ok());
    for broken in [
        COMPACT.replace("]}", "}"),
        COMPACT.replace("},{", "}{"),
        COMPACT.replace("},{", "},,{"),
        COMPACT.replace("portmap", "portmapper"),
        format!("{COMPACT},"),
        String::new(),
    ] {
        let problem = verified(broken, &types).expect_err("it is broken");
        assert!(matches!(problem, Problem::Broken), "{problem}");
    }
}

#[test]
fn what_others_changed_meanwhile_stays() {
    let now = installed(CALICO).text.replace("\"mtu\": 0", "\"mtu\": 1400");
    let back = without_autoport(&now, Some(CALICO)).expect("it is understood");
    assert_eq!(back.how, Some("portmap replaces autoport"));
    assert_eq!(back.text, CALICO.replace("\"mtu\": 0", "\"mtu\": 1400"));
    // Where portmap did not stand, and where nobody knows.
    let now = installed(CRIO).text.replace("cni0", "cni1");
    for (before, remarks) in [(Some(CRIO), 0), (None, 1)] {
        let back = without_autoport(&now, before).expect("it is understood");
        assert_eq!((back.how, back.remarks.len()), (Some("autoport removed"), remarks));
        assert_eq!(back.text, CRIO.replace("cni0", "cni1"));
    }
    // Not beside a portmap that somebody has put back already.
    let both = installed(PODMAN).text.replace("\"firewall\"", "\"portmap\"");
    let back = without_autoport(&both, Some(PODMAN)).expect("it is understood");
    assert_eq!((back.how, back.text.matches("portmap").count()), (Some("autoport removed"), 1));
}

fn with_options(options: &str) -> String {
    COMPACT.replace(r#""type":"portmap","#, &format!(r#""type":"portmap",{options},"#))
}

fn options(text: &str) -> serde_json::Value {
    let mut plugin = json(text)["plugins"][1].clone();
    let object = plugin.as_object_mut().expect("an object");
    object.remove("type");
    object.remove("capabilities");
    plugin
}

#[test]
fn options_of_portmap_are_taken_over() {
    for (given, taken, remarks) in [
        (
            r#""snat":false,"masqAll":true,"markMasqBit":5"#,
            r#"{"snat":false,"masqAll":true,"markMasqBit":5}"#,
            0,
        ),
        (r#""backend":"nftables""#, r#"{"backend":"nftables"}"#, 0),
        (r#""backend":"iptables","snat":true"#, r#"{"snat":true}"#, 1),
        (r#""externalSetMarkChain":"KUBE-MARK-MASQ""#, "{}", 1),
        (r#""externalSetMarkChain":"","conditionsV4":[],"conditionsV6":null"#, "{}", 0),
        (
            r#""conditionsV4":["-s","192.0.2.0/24"]"#,
            r#"{"sourceRanges":["192.0.2.0/24","::/0"]}"#,
            2,
        ),
        (
            r#""conditionsV4":["-d","192.0.2.1,192.0.2.2"],"conditionsV6":["--destination","2001:db8::1"]"#,
            r#"{"hostAddresses":["192.0.2.1/32","192.0.2.2/32","2001:db8::1/128"]}"#,
            2,
        ),
        (
            r#""backend":"nftables","conditionsV6":["ip6","saddr","{2001:db8::/32}","ip6","daddr","2001:db8::1"]"#,
            r#"{"backend":"nftables","sourceRanges":["0.0.0.0/0","2001:db8::/32"],"hostAddresses":["0.0.0.0/0","2001:db8::1/128"]}"#,
            4,
        ),
    ] {
        let text = with_options(given);
        let edited = installed(&text);
        assert_eq!(options(&edited.text), json(taken), "{given}: {}", edited.text);
        assert_eq!(edited.remarks.len(), remarks, "{given}: {:?}", edited.remarks);
        let back = without_autoport(&edited.text, Some(&text)).expect("it is understood");
        assert_eq!(back.text, text);
    }
}

/// Letting in whom portmap kept out would be worse than not installing.
#[test]
fn a_restriction_is_never_dropped() {
    for condition in [
        r#"["!","-d","192.0.2.0/24"]"#,
        r#"["-i","eth0"]"#,
        r#"["-s","192.0.2.0/24","-s","198.51.100.0/24"]"#,
        r#"["-s"]"#,
        r#"["-m","set","--match-set","x","src"]"#,
        r#"["ip","saddr","!=","192.0.2.1"]"#,
        r#"["-s","client.example"]"#,
        r#""-s 192.0.2.0/24""#,
    ] {
        let text = refused(&with_options(&format!(r#""conditionsV4":{condition}"#)));
        assert!(text.contains("sourceRanges") && text.contains("conditionsV4"), "{text}");
    }
}

#[test]
fn capabilities_are_completed() {
    for (given, remarks) in [
        (r#""capabilities":{"portMappings":true}"#, 0),
        (r#""capabilities":{"portMappings":false,"x":true}"#, 0),
        (r#""capabilities":{}"#, 0),
        (r#""capabilities":null"#, 0),
        (r#""snat":true"#, 0),
        (r#""io.kubernetes":1"#, 1),
    ] {
        let text = COMPACT.replace(r#""capabilities":{"portMappings":true}"#, given);
        let edited = installed(&text);
        let capabilities = &json(&edited.text)["plugins"][1]["capabilities"];
        assert_eq!(capabilities["portMappings"], true, "{}", edited.text);
        assert_eq!(capabilities["io.kubernetes.cri.pod-annotations"], true, "{}", edited.text);
        assert_eq!(edited.remarks.len(), remarks, "{:?}", edited.remarks);
    }
    // Whoever put it there may have meant it.
    let without = installed(COMPACT).text.replace(r#""portMappings":true,"#, "");
    let edited = installed(&without);
    assert_eq!((edited.how, edited.remarks.len()), (None, 1));
}

#[test]
fn what_is_not_understood_is_left_alone() {
    let plugins = |list: &str| format!(r#"{{"cniVersion":"1.0.0","name":"a","plugins":[{list}]}}"#);
    let (main, portmap) = (r#"{"type":"bridge"}"#, r#"{"type":"portmap"}"#);
    let autoport = r#"{"type":"autoport"}"#;
    for (text, says) in [
        ("{".to_owned(), "not valid JSON"),
        ("\u{feff}{}".to_owned(), "not valid JSON"),
        ("[]".to_owned(), "not an object"),
        (
            r#"{"cniVersion":"1.0.0","name":"a","type":"bridge"}"#.to_owned(),
            "\"plugins\" is not there",
        ),
        (plugins(""), "a list with a plugin"),
        (plugins("1"), "an object with a \"type\""),
        (plugins(&format!("{main},{portmap},{portmap}")), "2 plugins of type portmap"),
        (plugins(&format!("{main},{autoport},{autoport}")), "2 plugins of type autoport"),
        (plugins(&format!("{main},{autoport},{portmap}")), "portmap or autoport"),
        (plugins(portmap), "makes no interface"),
        (plugins(&format!("{portmap},{main}")), "makes no interface"),
        (plugins(r#"{"type":"loopback"}"#), "makes no interface"),
        (plugins(r#"{"type":"multus-shim"}"#), "delegates"),
        (plugins(main).replace("1.0.0", "2.0.0"), "\"2.0.0\""),
        (plugins(main).replace(r#""name":"a","#, ""), "\"name\" is not a name"),
        (
            plugins(&format!(r#"{main},{{"type":"portmap","markMasqBit":32}}"#)),
            "are not valid for autoport",
        ),
        (plugins(&format!(r#"{main},{{"type":"portmap","capabilities":[]}}"#)), "capabilities"),
    ] {
        let message = refused(&text);
        assert!(message.contains(says), "{text}: {message}");
    }
}
