//! `autoport env`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::PathBuf;

use autoport::app::{self, Ambiguous};
use autoport::model::Pod;
use autoport::publication::Entry;
use serde::Serialize;

use super::output::{Answer, Text};
use super::{Failure, Node, subject_named};

/// What the containers of a pod were told.
#[derive(Serialize)]
pub(super) struct Published {
    pod: Pod,
    directory: PathBuf,
    ports: Vec<Entry>,
    variables: BTreeMap<String, String>,
    #[serde(skip)]
    text: String,
}

impl Answer for Published {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        out.write_all(self.text.as_bytes())
    }
}

pub(super) fn run(asked: &str, node: &Node) -> Result<Published, Failure> {
    let log = &mut crate::Stderr;
    let nobody = || Failure::Nobody(asked.to_owned());
    let mut listing = app::list(&node.store, log)?.ok_or_else(nobody)?;
    listing.narrow(&subject_named(asked))?;
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
    let uid = uid.ok_or_else(|| Failure::NoUid(asked.to_owned()))?;
    let told = app::told(&node.store, uid, log)?;
    let told = told.ok_or_else(|| Failure::NothingPublished(asked.to_owned()))?;
    Ok(Published {
        text: told.publication.to_env(),
        variables: told.publication.variables().into_iter().collect(),
        pod: told.publication.pod,
        directory: told.directory,
        ports: told.publication.entries,
    })
}
