use super::super::super::tests::test_code;
use super::super::Config;
use super::*;

fn config(judge: &mut Judge, text: &str) -> Result<Config, Error> {
    let object = Object::decode("a test", "", text.as_bytes()).expect("an object");
    Config::from_layers(&[&object], judge)
}

fn policy(text: &str) -> Result<PortPolicy, Error> {
    config(&mut Judge::strict(), text).map(|config| config.ports)
}

fn shown(ranges: &[PortRange]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
}

#[test]
fn without_keys_there_is_a_range_and_nothing_is_forbidden() {
    let nulls = r#"{"portRange":null,"namedRanges":null,"excludePorts":null,"minPort":null,
        "allocation":null,"hostListeners":null,"allowedNamespaces":null,"aliases":null}"#;
    for text in ["{}", nulls, r#"{"namedRanges":{"game":null},"excludePorts":[]}"#] {
        let config = config(&mut Judge::strict(), text).expect(text);
        assert_eq!(shown(&config.ports.ranges), ["20000-29999"]);
        assert_eq!((config.ports.min_port.get(), config.ports.excluded.len()), (1, 0));
        assert_eq!(config.ports.allocation, Allocation::Sequential);
        assert_eq!(config.ports.host_listeners, HostListeners::Reject);
        assert_eq!(
            (config.ports.allowed_namespaces, config.aliases),
            (None, [Dialect::KubeWharf, Dialect::Bcs].into())
        );
        assert!(config.ports.named_ranges.is_empty());
        assert_eq!(config.ports.max_per_pod.get(), 128);
        assert_eq!(config.ports.max_per_namespace, None);
    }
}

#[test]
fn every_key_is_read() {
    let text = r#"{"portRange":["9200-9500","8080",7000],
        "namedRanges":{"game":"1-2","rtp.v4":["40000-40999","39000-39999"],"game":"7000-7999"},
        "maxPortsPerPod":200,"maxPortsPerNamespace":1000,
        "excludePorts":["6000-6100",80,"6050-6200",6100,"443-443"],"minPort":1024,
        "allocation":"random","hostListeners":"ignore","allowedNamespaces":["games","a-1"],
        "aliases":["bcs"]}"#;
    let mut judge = Judge::strict();
    let config = config(&mut judge, text).expect("all are good");
    assert_eq!(judge.warnings, [""; 0]);
    assert_eq!(shown(&config.ports.ranges), ["9200-9500", "8080", "7000"]);
    assert_eq!(shown(&config.ports.named_ranges["game"].ports), ["7000-7999"]);
    assert_eq!(config.ports.named_ranges["game"].namespaces, None);
    assert_eq!(shown(&config.ports.named_ranges["rtp.v4"].ports), ["40000-40999", "39000-39999"]);
    assert_eq!(config.ports.max_per_pod.get(), 200);
    assert_eq!(config.ports.max_per_namespace.map(NonZeroU16::get), Some(1000));
    assert_eq!(shown(&config.ports.excluded), ["80", "443", "6000-6200"]);
    assert_eq!(config.ports.min_port.get(), 1024);
    assert_eq!(config.ports.allocation, Allocation::Random);
    assert_eq!(config.ports.host_listeners, HostListeners::Ignore);
    let namespaces = config.ports.allowed_namespaces.expect("two");
    assert_eq!(namespaces.into_iter().collect::<Vec<_>>(), ["a-1", "games"]);
    assert_eq!(config.aliases, [Dialect::Bcs].into());
    let nobody = policy(r#"{"allowedNamespaces":[],"portRange":"65535"}"#).expect("a policy");
    assert_eq!(nobody.allowed_namespaces, Some(BTreeSet::new()));
    assert_eq!(nobody.ranges[0].size(), 1);
}

#[test]
fn a_named_range_can_be_kept_for_namespaces() {
    let text = r#"{"namedRanges":{"game":{"ports":["7000-7999","8500"],"namespaces":["games"]},
        "open":{"ports":80,"namespaces":null},"shut":{"ports":"81","namespaces":[]}}}"#;
    let named = policy(text).expect("all are good").named_ranges;
    assert_eq!(shown(&named["game"].ports), ["7000-7999", "8500"]);
    assert_eq!(named["game"].namespaces, Some(BTreeSet::from(["games".to_owned()])));
    assert_eq!(
        (shown(&named["open"].ports), &named["open"].namespaces),
        (vec!["80".into()], &None)
    );
    assert_eq!(named["shut"].namespaces, Some(BTreeSet::new()));
}

#[test]
fn bad_values_name_key_value_and_remedy() {
    let cases = [
        (r#"{"portRange":"30000-20000"}"#, 7, "portRange is \"30000-20000\", it must be a port"),
        (r#"{"portRange":"0-80"}"#, 7, "portRange"),
        (r#"{"portRange":0}"#, 7, "portRange is 0"),
        (r#"{"portRange":"20000:29999"}"#, 7, "such as \"20000-29999\""),
        (r#"{"portRange":"20000-65536"}"#, 7, "65535"),
        (r#"{"portRange":""}"#, 7, "portRange is \"\""),
        (r#"{"portRange":[]}"#, 7, "at least one range"),
        (r#"{"portRange":{}}"#, 6, "expected a port or a range"),
        (r#"{"portRange":["1-5",true]}"#, 6, "portRange[1]: found true"),
        (r#"{"portRange":["10-20","1-9","20-30"]}"#, 7, "portRange[2] is \"20-30\", but 10-20"),
        (r#"{"namedRanges":"game"}"#, 6, "namedRanges"),
        (r#"{"namedRanges":{"a b":"1-5"}}"#, 7, "namedRanges.a b is \"a b\", it must start"),
        (r#"{"namedRanges":{"":"1-5"}}"#, 7, "it must start with a letter"),
        (r#"{"namedRanges":{"default":"1-5"}}"#, 7, "what portRange is called"),
        (r#"{"namedRanges":{"game":"x"}}"#, 7, "namedRanges.game is \"x\""),
        (r#"{"namedRanges":{"game":["1-5","5"]}}"#, 7, "namedRanges.game[1] is \"5\", but 1-5"),
        (
            r#"{"namedRanges":{"game":{}}}"#,
            7,
            "namedRanges.game is {}, it must have its numbers in",
        ),
        (r#"{"namedRanges":{"game":{"ports":null}}}"#, 7, "namedRanges.game is"),
        (r#"{"namedRanges":{"game":{"ports":"x"}}}"#, 7, "namedRanges.game.ports is \"x\""),
        (
            r#"{"namedRanges":{"game":{"ports":"7","namespace":["a"]}}}"#,
            2,
            "namedRanges.game.namespace is [\"a\"], which is not supported: a range has ports and",
        ),
        (
            r#"{"namedRanges":{"game":{"ports":"7","namespaces":["A"]}}}"#,
            7,
            "namedRanges.game.namespaces[0] is \"A\"",
        ),
        (r#"{"maxPortsPerPod":0}"#, 7, "maxPortsPerPod is 0, it must be an integer from 1"),
        (r#"{"maxPortsPerNamespace":"9"}"#, 6, "maxPortsPerNamespace"),
        (r#"{"maxPortPerPod":9}"#, 2, "did you mean maxPortsPerPod?"),
        (r#"{"excludePorts":["ssh"]}"#, 7, "excludePorts[0] is \"ssh\""),
        (r#"{"excludePorts":[-1]}"#, 7, "excludePorts[0] is -1"),
        (r#"{"excludePorts":[1.5]}"#, 7, "1.5"),
        (r#"{"excludePorts":[[80]]}"#, 6, "excludePorts[0]"),
    ];
    check(&cases);
}

#[test]
fn bad_values_of_what_is_permitted_too() {
    let cases = [
        (r#"{"minPort":0}"#, 7, "minPort is 0, it must be an integer from 1"),
        (r#"{"minPort":"1024"}"#, 6, "minPort: found \"1024\", expected a number"),
        (r#"{"minPort":1e3}"#, 7, "1e3"),
        (r#"{"allocation":"first"}"#, 7, "it must be \"sequential\", \"random\" or \"stable\""),
        (r#"{"allocation":true}"#, 6, "a string"),
        (r#"{"hostListeners":"warn"}"#, 7, "it must be \"reject\" or \"ignore\""),
        (r#"{"allowedNamespaces":"games"}"#, 6, "expected a list"),
        (r#"{"allowedNamespaces":["*"]}"#, 7, "to allow all of them, remove the key"),
        (r#"{"allowedNamespaces":["Games"]}"#, 7, "allowedNamespaces[0] is \"Games\""),
        (r#"{"aliases":["tce"]}"#, 7, "it must be \"kubewharf\" or \"bcs\""),
        (r#"{"aliases":"bcs"}"#, 6, "expected a list"),
        (r#"{"portRanges":"1-5"}"#, 2, "did you mean portRange?"),
        (r#"{"namedRange":{}}"#, 2, "did you mean namedRanges?"),
        (r#"{"excludedPorts":[]}"#, 2, "did you mean excludePorts?"),
        (r#"{"minport":5}"#, 2, "did you mean minPort?"),
        (r#"{"host_listeners":"ignore"}"#, 2, "did you mean hostListeners?"),
    ];
    check(&cases);
}

fn check(cases: &[(&str, u32, &str)]) {
    let defaults = policy("{}").expect("nothing is needed");
    for &(text, code, part) in cases {
        let error = policy(text).expect_err(text);
        assert_eq!(test_code(&error), code, "{text}: {error}");
        assert!(error.to_string().contains(part), "{text}: {error}");
        let mut judge = Judge::lenient();
        let lenient = config(&mut judge, text).expect("lenient means no error");
        assert_eq!((lenient.ports, judge.warnings.len()), (defaults.clone(), 1), "{text}");
    }
}
