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
mod tests;
