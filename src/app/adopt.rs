//! Records made again from the table, after the state directory was lost or where a table of another
//! store is taken over: as far as the elements go, and no further.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use crate::cni;
use crate::error::Error;
use crate::event::{Event, Log};
use crate::kernel::Survey;
use crate::model::{Attachment, Family, HostPort, Mapping, Masquerade, Owner, Pod, Policy, Record};
use crate::ruleset::{COMMENT_MAX, Data, Element, NetworkPolicy, comment, held_at, read_holder};
use crate::store::{Inlet, Key, Locked};

/// What is never in the table.
const NEVER_KNOWN: &str = "the UID of its pod, its network namespace, which numbers the node chose";

/// Records what `survey` says of attachments that have no record, and returns of how many. Ports that
/// a record or reservation holds stay there.
pub(super) fn adopt(locked: &Locked, survey: &Survey, log: &mut dyn Log) -> Result<usize, Error> {
    for interface in &survey.guarded {
        let interface = interface.to_owned();
        locked.note_loopback(&Inlet { interface, switched_on: true, guarded: true })?;
    }
    let leads = |element: &&Element| matches!(element.data, Data::Target(_));
    let targets = || survey.elements.values().filter(leads);
    let mut shares: BTreeMap<Attachment, Vec<&Element>> = BTreeMap::new();
    let mut nameless: BTreeMap<&str, Vec<&Element>> = BTreeMap::new();
    for element in targets() {
        match read_holder(&element.holder) {
            Some(attachment) => shares.entry(attachment).or_default().push(element),
            None => nameless.entry(&element.comment).or_default().push(element),
        }
    }
    for (comment, elements) in nameless {
        let first = format!("{} of {}", elements[0].key, elements[0].set);
        let count = elements.len();
        log.note(Event::Nameless { comment: comment.to_owned(), count, first });
    }
    // On any address, which is what a claim on every address overlaps.
    let place = |host: &HostPort| (host.protocol, host.port, Family::of(&host.address));
    let taken: BTreeSet<_> = targets().filter_map(|one| one.host.as_ref().map(place)).collect();
    let is_taken = |wildcard: &HostPort| taken.contains(&place(wildcard));
    let mut adopted = 0;
    for (attachment, elements) in &shares {
        // What cannot be read may still say more than the table does.
        if !matches!(locked.record(&Key::of_attachment(attachment)), Ok(None)) {
            continue;
        }
        let (mut record, mut unknown) = record_of(attachment, elements, survey, is_taken);
        record.boot_id.clone_from(&locked.instance().boot_id);
        for mapping in std::mem::take(&mut record.mappings) {
            match locked.holders(&[mapping.host])?.first() {
                None => record.mappings.push(mapping),
                Some(_) => unknown
                    .push(format!("{}, which another pod or reservation holds", mapping.host)),
            }
        }
        locked.save(&record)?;
        adopted += 1;
        let (ports, unknown) = (record.mappings.len(), unknown.join(", "));
        log.note(Event::Adopted { owner: Box::new(record.owner), ports, unknown });
    }
    if adopted > 0 {
        log.note(Event::AdoptedInPart);
    }
    Ok(adopted)
}

/// What `elements`, which lead to the pods of one attachment, say of it, and in words what they do not.
fn record_of(
    attachment: &Attachment,
    elements: &[&Element],
    survey: &Survey,
    is_taken: impl Fn(&HostPort) -> bool,
) -> (Record, Vec<String>) {
    let mut unknown = vec![NEVER_KNOWN.to_owned()];
    let owner = owner_of(attachment, elements.first().map_or("", |element| &element.comment));
    if owner.pod.is_some() && elements.iter().all(|one| one.comment.len() == COMMENT_MAX) {
        unknown.push("the end of its pod's name".to_owned());
    }
    let treated = |host: &HostPort| network_policy_at(host, survey);
    let network_policy = elements.iter().find_map(|element| treated(&element.host?));
    let (mut mappings, mut pods, mut astray) = (Vec::new(), Vec::new(), 0);
    for element in elements {
        let (Some(host), Data::Target(target)) = (element.host, element.data) else { continue };
        let container_port = NonZeroU16::new(target.port()).unwrap_or(host.port);
        let is_known = network_policy.is_some() && treated(&host) == network_policy;
        astray += usize::from(!is_known);
        pods.push(target.ip());
        mappings.push(Mapping { host, container_port, target: is_known.then_some(target) });
        // A claim on every address holds both families, and of the one in which the pod has no address
        // the table knows nothing.
        let twins = Family::ALL.map(|family| HostPort { address: family.wildcard(), ..host });
        let free = twins.into_iter().filter(|twin| host.is_wildcard() && !is_taken(twin));
        mappings.extend(free.map(|host| Mapping { host, container_port, target: None }));
    }
    if astray > 0 {
        unknown.push(format!(
            "the network policy of {astray} host ports, because their chains are damaged: they are \
             held and not translated"
        ));
    }
    mappings.sort_unstable();
    let without_target = || Policy {
        masquerade: Masquerade::Local,
        mark_bit: cni::DEFAULT_MARK_BIT,
        source_ranges: Vec::new(),
        host_addresses: Vec::new(),
    };
    let record = Record {
        owner,
        pod_addresses: network_policy.map_or(Vec::new(), |known| known.pod_addresses(&pods)),
        policy: network_policy.map_or_else(without_target, |known| known.policy().clone()),
        mappings,
        grants: Vec::new(),
        dialects: [].into(),
        advertised: [].into(),
        offload: None,
        created: 0,
        boot_id: String::new(),
    };
    (record, unknown)
}

/// The comment is the pod's name, or what stands for a container without one.
fn owner_of(attachment: &Attachment, text: &str) -> Owner {
    let bare = Owner::bare(attachment.clone());
    if text.is_empty() || text == comment(&bare) {
        return bare;
    }
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    let pod = Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid: String::new() };
    Owner { pod: Some(pod), ..bare }
}

/// How packets for `host` are treated, where the table still says so.
fn network_policy_at<'a>(host: &HostPort, survey: &'a Survey) -> Option<&'a NetworkPolicy> {
    let is_there = |digest| survey.elements.contains_key(&held_at(host, digest));
    let mut network_policies =
        survey.network_policies.iter().filter(|(digest, _)| is_there(**digest));
    let (_, network_policy) = network_policies.next()?;
    // In the sets of two, it cannot be told whose it is.
    network_policies.next().is_none().then_some(network_policy)
}
