//! What the options of `portmap` mean here.

use super::problem::Problem;
use super::text::{Edit, Member, Value, appended, removed};

/// Without these in the plugin's object a runtime keeps to itself what pods ask for.
pub(super) const CAPABILITIES: [&str; 2] = ["portMappings", "io.kubernetes.cri.pod-annotations"];

/// An option that is not needed, and why nothing is lost with it.
const DROPPED: [(&str, &str); 2] = [
    ("backend", "autoport writes nftables itself and needs no program for it"),
    (
        "externalSetMarkChain",
        "autoport marks and masquerades in its own table; markMasqBit chooses the bit",
    ),
];

/// Turns portmap's object into autoport's.
///
/// # Errors
/// [`Problem::Condition`] where an option restricts who is served, in a way that is not understood.
pub(super) fn translated(
    portmap: Value<'_>,
    remarks: &mut Vec<String>,
) -> Result<Vec<Edit>, Problem> {
    let members = portmap.members().unwrap_or_default();
    let is_dropped = |member: &Member<'_>| {
        let (key, value) = (member.key.as_str(), member.value);
        let known = DROPPED.iter().any(|(dropped, _)| key == *dropped);
        let served = key == "backend" && value.string().as_deref() == Some("nftables");
        known && !served || is_condition(key)
    };
    let mut edits = Vec::new();
    for member in &members {
        let (key, value) = (member.key.as_str(), member.value);
        if key == "type" {
            edits.push(Edit { at: value.span(), with: "\"autoport\"".to_owned() });
        } else if let Some((_, why)) = DROPPED.iter().find(|(dropped, _)| key == *dropped)
            && is_dropped(member)
            && !value.is_empty()
        {
            remarks.push(format!("{key} {} is left out: {why}", value.shown()));
        }
    }
    let mut added = restrictions(portmap, remarks)?;
    match portmap.get("capabilities") {
        Some(capabilities) if capabilities.raw() != "null" => {
            edits.extend(capable(capabilities)?);
        }
        Some(null) => edits.push(Edit { at: null.span(), with: all_capabilities(portmap) }),
        None => added.push(member(portmap, "capabilities", &all_capabilities(portmap))),
    }
    let spans: Vec<_> = members.iter().map(|member| member.span.clone()).collect();
    edits.extend(removed(&spans, |index| is_dropped(&members[index])));
    if !added.is_empty() {
        // Every member of its own in the layout of the last one.
        let one = |new: &String| appended(portmap, &spans, new);
        let mut all = added.iter().map(one);
        let mut first = all.next().expect("there is one");
        first.with.extend(all.map(|edit| edit.with));
        edits.push(first);
    }
    Ok(edits)
}

fn is_condition(key: &str) -> bool {
    matches!(key, "conditionsV4" | "conditionsV6")
}

fn member(like: Value<'_>, key: &str, value: &str) -> String {
    let space = if like.is_spaced() { " " } else { "" };
    format!("\"{key}\":{space}{value}")
}

pub(super) fn all_capabilities(like: Value<'_>) -> String {
    let [one, other] = CAPABILITIES.map(|key| member(like, key, "true"));
    if like.is_spaced() { format!("{{ {one}, {other} }}") } else { format!("{{{one},{other}}}") }
}

/// Makes an object of capabilities have both.
fn capable(capabilities: Value<'_>) -> Result<Vec<Edit>, Problem> {
    let Some(members) = capabilities.members() else {
        return Err(Problem::Shape { what: "capabilities of portmap", expected: "an object" });
    };
    let spans: Vec<_> = members.iter().map(|member| member.span.clone()).collect();
    let mut edits = Vec::new();
    let mut added = Vec::new();
    for key in CAPABILITIES {
        match members.iter().rfind(|member| member.key == key) {
            Some(found) if found.value.raw() == "true" => {}
            Some(found) => edits.push(Edit { at: found.value.span(), with: "true".to_owned() }),
            None => added.push(appended(capabilities, &spans, &member(capabilities, key, "true"))),
        }
    }
    if spans.is_empty() {
        let at = capabilities.span();
        return Ok(vec![Edit { at, with: all_capabilities(capabilities) }]);
    }
    // At most one place in all: they are added one behind the other.
    if let Some(first) = added.first_mut().map(|first| first.at.clone()) {
        let with = added.into_iter().map(|edit| edit.with).collect();
        edits.push(Edit { at: first, with });
    }
    Ok(edits)
}

/// The members that serve as the conditions did.
fn restrictions(portmap: Value<'_>, remarks: &mut Vec<String>) -> Result<Vec<String>, Problem> {
    let (mut sources, mut hosts) = (Networks::default(), Networks::default());
    for (family, key) in ["conditionsV4", "conditionsV6"].into_iter().enumerate() {
        let Some(value) = portmap.get(key).filter(|value| !value.is_empty()) else { continue };
        let misunderstood = || Problem::Condition { key, value: value.shown() };
        let items = value.items().ok_or_else(misunderstood)?;
        let tokens: Option<Vec<String>> = items.into_iter().map(Value::string).collect();
        let tokens = tokens.ok_or_else(misunderstood)?;
        let mut rest: &[String] = &tokens;
        while !rest.is_empty() {
            let (side, networks, behind) = condition(rest).ok_or_else(misunderstood)?;
            rest = behind;
            let into = if side == Side::Source { &mut sources } else { &mut hosts };
            // Two conditions on one side would both have to hold, which no list says.
            if !into.of[family].is_empty() {
                return Err(misunderstood());
            }
            into.of[family] = networks;
        }
    }
    let mut added = Vec::new();
    for (key, networks) in [("sourceRanges", sources), ("hostAddresses", hosts)] {
        if let Some(list) = networks.list() {
            remarks.push(format!("the conditions are taken over as {key}: {list}"));
            added.push(member(portmap, key, &list));
        }
    }
    if added.iter().any(|one| one.contains("sourceRanges")) {
        remarks.push("sourceRanges never keeps off 127.0.0.0/8, as the conditions did".to_owned());
    }
    if added.iter().any(|one| one.contains("hostAddresses")) {
        remarks.push(
            "hostAddresses restricts mappings without hostIP only; the conditions restricted all"
                .to_owned(),
        );
    }
    Ok(added)
}

/// What one side of a connection may be, by family; a family without any is not restricted.
#[derive(Default)]
struct Networks {
    of: [Vec<String>; 2],
}

impl Networks {
    /// As a JSON list. A list of ours that names one family only closes the other.
    fn list(mut self) -> Option<String> {
        if self.of.iter().all(Vec::is_empty) {
            return None;
        }
        for (networks, all) in self.of.iter_mut().zip(["0.0.0.0/0", "::/0"]) {
            if networks.is_empty() {
                networks.push(all.to_owned());
            }
        }
        let quoted: Vec<_> = self.of.iter().flatten().map(|one| format!("\"{one}\"")).collect();
        Some(format!("[{}]", quoted.join(", ")))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// The first condition of `tokens`, as iptables(8) or nft(8) write it, and what is behind it.
fn condition(tokens: &[String]) -> Option<(Side, Vec<String>, &[String])> {
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let (side, list, used) = match words.as_slice() {
        ["-s" | "--source" | "--src", list, ..] => (Side::Source, *list, 2),
        ["-d" | "--destination" | "--dst", list, ..] => (Side::Destination, *list, 2),
        ["ip" | "ip6", "saddr", list, ..] => (Side::Source, *list, 3),
        ["ip" | "ip6", "daddr", list, ..] => (Side::Destination, *list, 3),
        _ => return None,
    };
    let list = list.strip_prefix('{').and_then(|list| list.strip_suffix('}')).unwrap_or(list);
    let network = |text: &str| {
        let network: ipnetwork::IpNetwork = text.trim().parse().ok()?;
        Some(network.to_string())
    };
    let networks: Option<Vec<String>> = list.split(',').map(network).collect();
    Some((side, networks?, &tokens[used..]))
}
