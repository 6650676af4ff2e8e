//! How many devices the Pods of the node ask for in their specs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::RESOURCE;

/// Of one container no more resources of ours are counted: its author could name thousands.
const MOST: usize = 16;

/// By the UID of the Pod and the resource.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pods: BTreeMap<String, BTreeMap<String, usize>>,
    changes: u64,
}

impl Wanted {
    /// How many this Pod asks for; `None` where the Pod is not known.
    pub fn of(&self, uid: &str, resource: &str) -> Option<usize> {
        self.pods.get(uid).map(|asked| asked.get(resource).copied().unwrap_or_default())
    }

    /// How often it has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The Pod with this UID has this spec.
    pub fn note(&mut self, uid: &str, spec: Option<&v1::PodSpec>) {
        let asked = spec.map(of_pod).unwrap_or_default();
        if self.pods.get(uid) != Some(&asked) {
            self.pods.insert(uid.to_owned(), asked);
            self.changes += 1;
        }
    }

    /// Forgets all Pods but those that are `known`.
    pub fn keep(&mut self, known: impl Fn(&str) -> bool) {
        let before = self.pods.len();
        self.pods.retain(|uid, _| known(uid));
        self.changes += u64::from(self.pods.len() != before);
    }
}

/// As the scheduler counts it: init containers run before the others, one after the other.
fn of_pod(spec: &v1::PodSpec) -> BTreeMap<String, usize> {
    let mut asked = BTreeMap::new();
    for container in &spec.containers {
        for (resource, count) in of_container(container) {
            *asked.entry(resource).or_default() += count;
        }
    }
    for container in spec.init_containers.iter().flatten() {
        let stays = container.restart_policy.as_deref() == Some("Always");
        for (resource, count) in of_container(container) {
            let all: &mut usize = asked.entry(resource).or_default();
            *all = if stays { *all + count } else { (*all).max(count) };
        }
    }
    asked
}

fn of_container(container: &v1::Container) -> impl Iterator<Item = (String, usize)> {
    let limits = container.resources.iter().filter_map(|all| all.limits.as_ref()).flatten();
    let ours = limits.filter(|(resource, _)| resource.starts_with(RESOURCE));
    ours.take(MOST).filter_map(|(resource, count)| Some((resource.clone(), number(count)?)))
}

/// An extended resource has a whole number, which the API server shortens: 2000 is "2k".
fn number(Quantity(text): &Quantity) -> Option<usize> {
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "Ki" => 1024,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(factor)
}
