//! `autoport env`.

use std::collections::BTreeSet;
use std::io;

use autoport::app::{self, Ambiguous, Told};

use super::output::{Answer, Screen};
use super::{Failure, Store, nothing_recorded};

impl Answer for Told {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        out.write_all(self.publication.to_env().as_bytes())
    }
}

pub(super) fn run(asked: &str, store: &Store) -> Result<Told, Failure> {
    let log = &mut crate::Stderr;
    let nobody = || Failure::nobody(asked);
    let Some(mut listing) = app::list(store, log)? else {
        nothing_recorded(store)?;
        return Err(nobody());
    };
    listing.narrow_to_name(asked)?;
    if listing.attachments.is_empty() {
        return Err(nobody());
    }
    let pods = listing.attachments.iter().filter_map(|record| record.owner.pod.as_ref());
    let pods: BTreeSet<_> = pods.map(|pod| (pod.to_string(), pod.uid.as_str())).collect();
    if pods.len() > 1 {
        let found = pods.into_iter().map(|(name, uid)| format!("{name} (UID {uid})")).collect();
        return Err(Ambiguous { asked: asked.to_owned(), found }.into());
    }
    let uid = pods.into_iter().next().map(|(_, uid)| uid).filter(|uid| !uid.is_empty());
    let no_uid =
        || format!("the runtime passed no UID for {asked}, so nothing was published for it");
    let uid = uid.ok_or_else(|| Failure::Asked(no_uid()))?;
    let told = app::told(store, uid, log)?;
    let nothing = || {
        format!(
            "nothing is published for {asked}: that is done only for pods with a host port that the \
             node chose"
        )
    };
    told.ok_or_else(|| Failure::Asked(nothing()))
}
