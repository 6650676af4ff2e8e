//! The Pods of the node as the API server has them, beside what they hold: shared by what runs on the thread that
//! uses the API server.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use autoport::publication::Publication;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::status::{self, Facts, Gate, Target, Verdict};

#[derive(Default)]
pub(super) struct Desk {
    /// By the UID by which the runtime knows the Pod.
    cards: RefCell<BTreeMap<String, Card>>,
    /// Those whose status is to be looked at.
    pub(super) changed: Changed,
    /// Those whose slices are, if anyone looks at them.
    pub(super) slices: Changed,
    discovers: bool,
}

/// Pods that were changed and not looked at.
#[derive(Default)]
pub(super) struct Changed {
    uids: RefCell<BTreeSet<String>>,
    notify: Notify,
}

impl Changed {
    fn add(&self, uid: &str) {
        self.uids.borrow_mut().insert(uid.to_owned());
        self.notify.notify_one();
    }

    /// Those that are to be looked at.
    pub(super) fn take(&self) -> BTreeSet<String> {
        self.uids.take()
    }

    /// These could not be looked at.
    pub(super) fn put_back(&self, uids: BTreeSet<String>) {
        self.uids.borrow_mut().extend(uids);
    }

    /// Waits until there is one, but no longer than this.
    pub(super) async fn wait(&self, limit: Duration) {
        let _ = timeout(limit, self.notify.notified()).await;
    }
}

struct Card {
    facts: Facts,
    held: Option<Publication>,
    gate: Gate,
    /// When the Pod was seen first, if no agent had written to it until then.
    new_since: Option<Instant>,
}

/// A Pod whose program is to be looked for.
pub(super) struct Due {
    pub(super) uid: String,
    pub(super) is_on_host: bool,
    pub(super) address: Option<IpAddr>,
    pub(super) targets: Vec<Target>,
}

impl Desk {
    /// With slices of the Pods, or without.
    pub(super) fn new(discovers: bool) -> Self {
        Self { discovers, ..Self::default() }
    }

    /// The API server has this Pod. What it had earlier is ignored: an answer to a change can come before older news.
    pub(super) fn note(&self, pod: &v1::Pod) {
        let Some(facts) = Facts::of(pod) else { return };
        let uid = facts.pod.uid.clone();
        let mut cards = self.cards.borrow_mut();
        match cards.get_mut(&uid).filter(|card| card.facts.uid == facts.uid) {
            Some(card) => {
                let is_old = facts.version != 0 && facts.version < card.facts.version;
                if is_old || card.facts == facts {
                    return;
                }
                card.facts = facts;
            }
            None => drop(cards.insert(uid.clone(), Card::of(facts))),
        }
        drop(cards);
        self.changed.add(&uid);
        self.change_slices(&uid);
    }

    fn change_slices(&self, uid: &str) {
        if self.discovers {
            self.slices.add(uid);
        }
    }

    /// Everything is listed again, perhaps by an API server that was restored from a backup.
    pub(super) fn begin(&self) {
        self.cards.borrow_mut().values_mut().for_each(|card| card.facts.version = 0);
    }

    /// Forgets all Pods but those that are `known`.
    pub(super) fn keep(&self, known: impl Fn(&str) -> bool) {
        self.cards.borrow_mut().retain(|uid, _| known(uid));
    }

    /// The Pods that ask for host ports, or only those that hold none yet.
    pub(super) fn asking(&self, only_without: bool) -> Vec<String> {
        let cards = self.cards.borrow();
        let asking = cards.iter().filter(|(_, card)| card.facts.asks);
        let asking = asking.filter(|(_, card)| !only_without || card.held.is_none());
        asking.map(|(uid, _)| uid.clone()).collect()
    }

    /// This is what the Pod holds. A Pod that has ended holds nothing, whatever a record has.
    pub(super) fn hold(&self, uid: &str, held: Option<Publication>) {
        let mut cards = self.cards.borrow_mut();
        let Some(card) = cards.get_mut(uid) else { return };
        let held = held.filter(|_| !card.facts.has_ended);
        // Its sandbox is being made again, perhaps with the same ports.
        let is_lost = held.is_none() && !card.facts.has_ended;
        if !is_lost && card.held != held {
            card.held = held;
            drop(cards);
            self.change_slices(uid);
        }
    }

    /// What the API server has of the Pod.
    pub(super) fn facts(&self, uid: &str) -> Option<Facts> {
        self.cards.borrow().get(uid).map(|card| card.facts.clone())
    }

    /// Whether the Pod was seen first after this time, and carried nothing of an agent then.
    pub(super) fn is_new(&self, uid: &str, since: Instant) -> bool {
        let cards = self.cards.borrow();
        cards.get(uid).and_then(|card| card.new_since).is_some_and(|at| at >= since)
    }

    /// What the Pod holds.
    pub(super) fn held(&self, uid: &str) -> Option<Publication> {
        self.cards.borrow().get(uid)?.held.clone()
    }

    /// The Pods that name a Service.
    pub(super) fn with_service(&self) -> Vec<String> {
        let cards = self.cards.borrow();
        let with = cards.iter().filter(|(_, card)| card.facts.service.is_some());
        with.map(|(uid, _)| uid.clone()).collect()
    }

    /// The namespace and the name of the Pod, and the change that it needs.
    pub(super) fn patch(
        &self,
        uid: &str,
        node: &str,
        now: &Time,
    ) -> Option<(String, String, Value)> {
        let cards = self.cards.borrow();
        let Card { facts, held, gate, .. } = cards.get(uid)?;
        let patch = status::patch(facts, held.as_ref(), gate.verdict(), node, now)?;
        Some((facts.pod.namespace.clone(), facts.pod.name.clone(), patch))
    }

    /// The Pods whose programs are to be looked for now.
    pub(super) fn due(&self, now: Instant) -> Vec<Due> {
        let cards = self.cards.borrow();
        let due = cards.iter().filter(|(_, card)| card.facts.has_gate && card.gate.is_due(now));
        let due = due.filter_map(|(uid, card)| {
            let (held, facts) = (card.held.as_ref()?, &card.facts);
            let (is_on_host, address) = (facts.is_on_host, facts.address);
            let targets = status::targets(held, is_on_host);
            Some(Due { uid: uid.clone(), is_on_host, address, targets })
        });
        due.collect()
    }

    /// A look has found this about the Pod's program.
    pub(super) fn look(&self, uid: &str, found: Verdict, now: Instant) {
        let changes =
            self.cards.borrow_mut().get_mut(uid).is_some_and(|card| card.gate.look(found, now));
        if changes {
            self.changed.add(uid);
        }
    }
}

impl Card {
    fn of(facts: Facts) -> Self {
        let gate = Gate::new(facts.listening);
        let new_since = facts.carried.is_empty().then(Instant::now);
        Self { facts, held: None, gate, new_since }
    }
}

#[cfg(test)]
mod tests;
