//! The rules of iptables-legacy, which netlink does not show, from the text of iptables-legacy-save.

use std::ops::RangeInclusive;

use crate::kernel::{ChainName, Does, Hooked, OtherChain, OtherRule, Others, Space};
use crate::model::{Family, Protocol};

/// Where the built-in chains of the tables that matter are.
const HOOKS: [(&str, &str, u32, i32); 3] = [
    ("nat", "PREROUTING", Hooked::PREROUTING, -100),
    ("nat", "OUTPUT", Hooked::OUTPUT, -100),
    ("filter", "FORWARD", Hooked::FORWARD, 0),
];

/// Reads what iptables-legacy-save, or ip6tables-legacy-save, printed into `others`.
pub(super) fn read(family: Family, text: &str, others: &mut Others) {
    let space = match family {
        Family::V4 => Space::Ip,
        Family::V6 => Space::Ip6,
    };
    let mut table = "";
    let name = |table: &str, chain: &str| ChainName {
        space,
        table: format!("{table} (iptables-legacy)"),
        chain: chain.to_owned(),
    };
    for line in text.lines() {
        if let Some(begins) = line.strip_prefix('*') {
            table = begins.trim();
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let (chain, policy) = (words.next().unwrap_or_default(), words.next());
            let hooked = HOOKS.iter().find(|(of, named, ..)| *of == table && *named == chain);
            let hooked = hooked.map(|(kind, _, hook, priority)| Hooked {
                kind: (*kind).to_owned(),
                hook: *hook,
                priority: *priority,
                drops: policy == Some("DROP"),
            });
            others.chains.insert(name(table, chain), OtherChain { hooked, rules: Vec::new() });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
            if let Some(chain) = others.chains.get_mut(&name(table, chain)) {
                chain.rules.push(read_rule(rest));
            }
        }
    }
}

fn read_rule(text: &str) -> OtherRule {
    let mut rule = OtherRule::default();
    let text = unquoted(text);
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let mut next = || words.next().unwrap_or_default();
        let conditions = &mut rule.conditions;
        match word {
            "-p" => {
                let protocol = next().parse::<Protocol>();
                conditions.unknown |= protocol.is_err();
                conditions.protocol = protocol.ok().map(Protocol::number);
            }
            "-d" => conditions.destination = next().parse().ok(),
            "--dport" | "--dports" | "--destination-ports" => {
                conditions.ports = Some(next().split(',').filter_map(run).collect());
            }
            "--ctstate" => match next() {
                "DNAT" => conditions.translated = true,
                _ => conditions.unknown = true,
            },
            "-m" => {
                let known = ["tcp", "udp", "sctp", "multiport", "comment", "addrtype", "conntrack"];
                conditions.unknown |= !known.contains(&next());
            }
            "--dst-type" => conditions.unknown |= next() != "LOCAL",
            "-j" | "-g" => {
                rule.does = match (word, next()) {
                    (_, "ACCEPT") => Does::Accept,
                    (_, "DROP" | "REJECT") => Does::Drop,
                    (_, "RETURN") => Does::Return,
                    (_, "DNAT") => Does::Translate("another address".to_owned()),
                    (_, "REDIRECT") => Does::Translate("a port of this node".to_owned()),
                    (_, "MASQUERADE" | "SNAT" | "MARK" | "LOG" | "CONNMARK") => Does::Nothing,
                    ("-g", chain) => Does::Goto(chain.to_owned()),
                    (_, chain) => Does::Jump(chain.to_owned()),
                };
            }
            "--to-destination" => rule.does = Does::Translate(next().to_owned()),
            "--comment" | "--set-xmark" | "--reject-with" | "--to-ports" | "--to-source" => {
                next();
            }
            _ => conditions.unknown = true,
        }
    }
    rule
}

/// The rule with `_` for each text in quotes, in which backslashes and quotes are behind a backslash.
fn unquoted(rule: &str) -> String {
    let rule = rule.replace(r"\\", "").replace(r#"\""#, "");
    rule.split('"').step_by(2).collect::<Vec<_>>().join("_")
}

fn run(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
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
}
