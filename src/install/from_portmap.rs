//! What the options of `portmap` mean here.

use std::collections::BTreeMap;

use super::problem::Problem;
use super::text::{Member, Part, Value};

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

/// Options that restrict who is served.
const CONDITIONS: [&str; 2] = ["conditionsV4", "conditionsV6"];

/// Turns portmap's object into autoport's.
///
/// # Errors
/// [`Problem::Condition`] where an option restricts who is served, in a way that is not understood.
pub(super) fn translated(portmap: Value<'_>, remarks: &mut Vec<String>) -> Result<String, Problem> {
    let mut members = portmap.members().unwrap_or_default();
    members.retain(|Part { key, value, .. }| {
        let dropped = DROPPED.iter().find(|(dropped, _)| key == dropped);
        let is_served = key == "backend" && value.string().as_deref() == Some("nftables");
        let dropped = dropped.filter(|_| !is_served);
        if let Some((_, why)) = dropped.filter(|_| !value.is_empty()) {
            remarks.push(format!("{key} {} is left out: {why}", value.shown()));
        }
        dropped.is_none() && !CONDITIONS.contains(&key.as_str())
    });
    let mut set = restrictions(portmap, remarks)?;
    let capabilities = match portmap.get("capabilities") {
        Some(capabilities) => capable(capabilities)?,
        None => all_capabilities(portmap),
    };
    set.extend([("type", "\"autoport\"".to_owned()), ("capabilities", capabilities)]);
    Ok(portmap.with_members(members, &set))
}

pub(super) fn all_capabilities(like: Value<'_>) -> String {
    let [one, other] = CAPABILITIES.map(|key| like.member(key, "true"));
    if like.is_spaced() { format!("{{ {one}, {other} }}") } else { format!("{{{one},{other}}}") }
}

/// Makes an object of capabilities have both.
fn capable(capabilities: Value<'_>) -> Result<String, Problem> {
    if matches!(capabilities.raw(), "null" | "{}") {
        return Ok(all_capabilities(capabilities));
    }
    let shape = Problem::Shape { what: "capabilities of portmap", expected: "an object" };
    let members = capabilities.members().ok_or(shape)?;
    Ok(capabilities.with_members(members, &CAPABILITIES.map(|key| (key, "true".to_owned()))))
}

/// The options that restrict who is served, and what each of them does otherwise than the conditions did.
const RESTRICTIONS: [(&str, &str); 2] = [
    ("sourceRanges", "sourceRanges never keeps off 127.0.0.0/8, as the conditions did"),
    (
        "hostAddresses",
        "hostAddresses restricts mappings without hostIP only; the conditions restricted all",
    ),
];

/// The members that serve as the conditions did.
fn restrictions(
    portmap: Value<'_>,
    remarks: &mut Vec<String>,
) -> Result<Vec<Member<'static>>, Problem> {
    // By option and family.
    let mut found = BTreeMap::<&str, [Vec<String>; 2]>::new();
    for (family, key) in CONDITIONS.into_iter().enumerate() {
        let Some(value) = portmap.get(key).filter(|value| !value.is_empty()) else { continue };
        let misunderstood = || Problem::Condition { key, value: value.shown() };
        let items = value.items().ok_or_else(misunderstood)?;
        let tokens: Option<Vec<String>> = items.iter().map(|item| item.value.string()).collect();
        let tokens = tokens.ok_or_else(misunderstood)?;
        let mut rest: &[String] = &tokens;
        while !rest.is_empty() {
            let (option, networks, behind) = condition(rest).ok_or_else(misunderstood)?;
            rest = behind;
            // Two conditions on one side would both have to hold, which no list says.
            let before = std::mem::replace(&mut found.entry(option).or_default()[family], networks);
            if !before.is_empty() {
                return Err(misunderstood());
            }
        }
    }
    let mut added = Vec::new();
    for (key, otherwise) in RESTRICTIONS {
        let Some(families) = found.remove(key) else { continue };
        let mut networks = Vec::new();
        for (of_family, all) in families.into_iter().zip(["0.0.0.0/0", "::/0"]) {
            // A list of ours that names one family only closes the other.
            let open = of_family.is_empty().then(|| all.to_owned());
            networks.extend(of_family.into_iter().chain(open).map(|one| format!("\"{one}\"")));
        }
        let list = format!("[{}]", networks.join(", "));
        remarks.push(format!("the conditions are taken over as {key}: {list}"));
        remarks.push(otherwise.to_owned());
        added.push((key, list));
    }
    Ok(added)
}

/// The first condition of `tokens`, as iptables(8) or nft(8) write it: the option of ours that it becomes,
/// the networks, and what is behind it.
fn condition(tokens: &[String]) -> Option<(&'static str, Vec<String>, &[String])> {
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let (option, list, used) = match words.as_slice() {
        ["-s" | "--source" | "--src", list, ..] => ("sourceRanges", *list, 2),
        ["-d" | "--destination" | "--dst", list, ..] => ("hostAddresses", *list, 2),
        ["ip" | "ip6", "saddr", list, ..] => ("sourceRanges", *list, 3),
        ["ip" | "ip6", "daddr", list, ..] => ("hostAddresses", *list, 3),
        _ => return None,
    };
    let list = list.strip_prefix('{').and_then(|list| list.strip_suffix('}')).unwrap_or(list);
    let network = |text: &str| {
        let network: ipnetwork::IpNetwork = text.trim().parse().ok()?;
        Some(network.to_string())
    };
    let networks: Option<Vec<String>> = list.split(',').map(network).collect();
    Some((option, networks?, &tokens[used..]))
}
