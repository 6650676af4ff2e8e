use super::*;

#[test]
fn a_text_in_quotes_is_one_word() {
    for (rule, expected) in [
        (r#"--comment "a \"b\" c" -p tcp"#, "--comment _ -p tcp"),
        (r#"--comment "ends in \\" -p tcp"#, "--comment _ -p tcp"),
        (r#"--comment a -m x --y "" -p tcp"#, "--comment a -m x --y _ -p tcp"),
    ] {
        assert_eq!(unquoted(rule), expected);
    }
}

#[test]
fn what_portmap_left_is_understood() {
    let text = "\
*nat
:PREROUTING ACCEPT [0:0]
:CNI-DN-0123 - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-DN-0123 -s 10.1.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-0123 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.5:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"net\\\" id: \\\"abc\\\"\" -m multiport --dports 8080,9000:9010 -j CNI-DN-0123
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
-A FORWARD -i eth0 -j ACCEPT
COMMIT
";
    let mut others = Others::default();
    read(Family::V4, text, &mut others);
    let found = super::super::passage::translations(&others, Hooked::PREROUTING, -99);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].to, "10.1.0.5:80");
    assert_eq!(found[0].conditions.ports, Some(vec![8080..=8080]));
    assert!(!found[0].conditions.unknown, "{found:?}");
    let forward = others.chains.keys().find(|name| name.chain == "FORWARD").expect("a chain");
    let rules = &others.chains[forward].rules;
    assert!(rules[0].conditions.translated && !rules[0].conditions.unknown);
    assert!(rules[1].conditions.unknown, "an interface is not known here");
    assert!(others.chains[forward].hooked.as_ref().is_some_and(|hooked| hooked.drops));
}
