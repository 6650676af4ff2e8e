//! What is known of an attachment, after calls that may have been killed.

use std::collections::BTreeSet;

use autoport::model::HostPort;

use super::orders::Claim;

/// The host ports that a record may name: `None` where there is none. A killed ADD leaves what was,
/// what was asked for, or both.
pub(super) type Held = Option<BTreeSet<HostPort>>;

/// What is known of one attachment.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) possible: BTreeSet<Held>,
    /// The claim that is in force, where that is certain.
    pub(super) certain: Option<Claim>,
    /// What was asked for last.
    pub(super) asked: Option<Claim>,
}

impl State {
    pub(super) fn nothing() -> Self {
        Self { possible: BTreeSet::from([None]), certain: None, asked: None }
    }

    pub(super) fn is_certain(&self) -> bool {
        self.possible.len() == 1
    }

    pub(super) fn added(&mut self, claim: &Claim) {
        self.possible = BTreeSet::from([Some(claim.named())]);
        self.certain = Some(claim.clone());
    }

    pub(super) fn removed(&mut self) {
        self.possible = BTreeSet::from([None]);
        self.certain = None;
    }

    pub(super) fn maybe_added(&mut self, claim: &Claim) {
        let named = claim.named();
        let unions = self.possible.iter().flatten().map(|held| Some(held | &named));
        let unions: Vec<Held> = unions.collect();
        self.possible.extend(unions);
        self.possible.insert(Some(named));
        self.certain = None;
    }

    pub(super) fn maybe_removed(&mut self) {
        self.possible.insert(None);
        self.certain = self.certain.take().filter(|_| self.possible.len() == 1);
    }
}
