//! Records made again from the table, after the state directory was lost or where a table of another
//! store is taken over: as far as the elements go, and no further.

use std::collections::{BTreeMap, btree_map::Entry};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use crate::cni;
use crate::error::Error;
use crate::event::{Event, Log};
use crate::kernel::Survey;
use crate::model::{Attachment, Family, HostPort, Mapping, Owner, Pod, Policy, Protocol, Record};
use crate::ruleset::{COMMENT_MAX, Data, Element, Treatment, comment, held_at, read_holder};
use crate::store::Locked;

/// What is never in the table.
const NEVER_KNOWN: &str = "the UID of its pod, its network namespace, which numbers the node chose";

/// What the table says of one attachment.
struct Share<'a> {
    comment: &'a str,
    targets: BTreeMap<HostPort, SocketAddr>,
}

/// Records what `survey` says of attachments that have no record, and returns of how many. Ports that
/// a record or reservation holds stay there.
pub(super) fn adopt(locked: &Locked, survey: &Survey, log: &mut dyn Log) -> Result<usize, Error> {
    let (shares, nameless) = shares(survey);
    for (comment, elements) in nameless {
        let (count, first) = (elements.len(), elements[0]);
        let first = format!("{} of {}", first.key, first.set);
        log.note(Event::Nameless { comment: comment.to_owned(), count, first });
    }
    let mut taken: BTreeMap<(Protocol, NonZeroU16), Vec<HostPort>> = BTreeMap::new();
    for host in shares.values().flat_map(|share| share.targets.keys()) {
        taken.entry((host.protocol, host.port)).or_default().push(*host);
    }
    let is_taken = |host: &HostPort| {
        let others = taken.get(&(host.protocol, host.port)).into_iter().flatten();
        others.into_iter().any(|other| other.overlaps(host))
    };
    let mut adopted = 0;
    for (attachment, share) in &shares {
        // What cannot be read may still say more than the table does.
        if !matches!(locked.load(attachment), Ok(None)) {
            continue;
        }
        let (mut record, mut unknown) = record_of(attachment, share, survey, is_taken);
        record.boot_id.clone_from(&locked.instance().boot_id);
        let mut mappings = Vec::new();
        for mapping in record.mappings {
            match locked.holders(&[mapping.host])?.first() {
                None => mappings.push(mapping),
                Some(_) => unknown.push(format!("{}, which somebody else holds", mapping.host)),
            }
        }
        record.mappings = mappings;
        locked.save(&record)?;
        adopted += 1;
        unknown.insert(0, NEVER_KNOWN.to_owned());
        let (ports, unknown) = (record.mappings.len(), unknown.join(", "));
        log.note(Event::Adopted { owner: Box::new(record.owner), ports, unknown });
    }
    if adopted > 0 {
        log.note(Event::AdoptedInPart);
    }
    Ok(adopted)
}

type Nameless<'a> = BTreeMap<&'a str, Vec<&'a Element>>;

/// Who has which elements that lead to a pod; and those of nobody, by their comment.
fn shares(survey: &Survey) -> (BTreeMap<Attachment, Share<'_>>, Nameless<'_>) {
    let mut shares: BTreeMap<Attachment, Share<'_>> = BTreeMap::new();
    let mut nameless = Nameless::new();
    for element in survey.elements.values() {
        let Data::Target(target) = element.data else { continue };
        let comment = element.comment.as_str();
        match read_holder(&element.holder) {
            Some(attachment) => {
                let share = match shares.entry(attachment) {
                    Entry::Occupied(share) => share.into_mut(),
                    Entry::Vacant(none) => none.insert(Share { comment, targets: BTreeMap::new() }),
                };
                share.targets.insert(element.host, target);
            }
            None => nameless.entry(comment).or_default().push(element),
        }
    }
    (shares, nameless)
}

/// What of `share` is known, and in words what is not.
fn record_of(
    attachment: &Attachment,
    share: &Share<'_>,
    survey: &Survey,
    is_taken: impl Fn(&HostPort) -> bool,
) -> (Record, Vec<String>) {
    let mut unknown = Vec::new();
    let owner = owner_of(attachment, share.comment);
    if owner.pod.is_some() && share.comment.len() == COMMENT_MAX {
        unknown.push("the end of its pod's name".to_owned());
    }
    let treatments = share.targets.keys().map(|host| treatment_at(host, survey));
    let treatments: BTreeMap<HostPort, Option<&Treatment>> =
        share.targets.keys().copied().zip(treatments).collect();
    let treatment = treatments.values().flatten().next().copied();
    let mut mappings = Vec::new();
    let mut astray = 0;
    for (host, target) in &share.targets {
        let container_port = NonZeroU16::new(target.port()).unwrap_or(host.port);
        let is_known = treatment.is_some() && treatments[host] == treatment;
        astray += usize::from(!is_known);
        mappings.push(Mapping { host: *host, container_port, target: is_known.then_some(*target) });
        // Whoever names no address holds both families, and of the one in which the pod has no
        // address the table knows nothing.
        let other = Family::ALL.into_iter().find(|family| *family != Family::of(&host.address));
        let twin = other.map(|other| HostPort { address: other.wildcard(), ..*host });
        if let Some(twin) = twin.filter(|twin| host.is_wildcard() && !is_taken(twin)) {
            mappings.push(Mapping { host: twin, container_port, target: None });
        }
    }
    if astray > 0 {
        unknown.push(format!(
            "how the packets of {astray} host ports are treated, since their chains are damaged: \
             they are held and lead nowhere"
        ));
    }
    mappings.sort_unstable();
    let pods: Vec<IpAddr> = share.targets.values().map(SocketAddr::ip).collect();
    let nobodys = Policy {
        masquerade: crate::model::Masquerade::Local,
        mark_bit: cni::DEFAULT_MARK_BIT,
        source_ranges: Vec::new(),
        host_addresses: Vec::new(),
        counters: false,
    };
    let record = Record {
        owner,
        pod_addresses: treatment.map_or(Vec::new(), |treatment| treatment.pod_addresses(&pods)),
        policy: treatment.map_or(nobodys, |treatment| treatment.policy(cni::DEFAULT_MARK_BIT)),
        mappings,
        grants: Vec::new(),
        dialects: [].into(),
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
fn treatment_at<'a>(host: &HostPort, survey: &'a Survey) -> Option<&'a Treatment> {
    let is_there = |digest| survey.elements.contains_key(&held_at(host, digest));
    let mut treatments = survey.treatments.iter().filter(|(digest, _)| is_there(**digest));
    let (_, treatment) = treatments.next()?;
    // In the sets of two, it cannot be told whose it is.
    treatments.next().is_none().then_some(treatment)
}
