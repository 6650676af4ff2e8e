//! `autoport env`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::PathBuf;

use autoport::app::{self, Told};
use autoport::model::Pod;
use autoport::publication::{Entry, Publication};
use serde::Serialize;

use super::output::{Answer, Screen, Text};
use super::{Failure, Node, Verdict, arguments, subject_named};

/// What the containers of a pod were told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Published<'a> {
    pod: &'a Pod,
    directory: PathBuf,
    ports: &'a [Entry],
    variables: BTreeMap<String, String>,
    #[serde(skip)]
    text: String,
}

impl Answer for Published<'_> {
    fn text(&self, out: &mut Text<'_>) -> io::Result<()> {
        out.write_all(self.text.as_bytes())
    }
}

pub(super) fn run(
    asked: &arguments::Env,
    node: &Node,
    screen: &mut Screen<'_>,
) -> Result<Verdict, Failure> {
    let log = &mut crate::Stderr;
    let nobody = || Failure::Nobody(asked.pod.clone());
    let mut listing = app::list(&node.store, node.patience, log)?.ok_or_else(nobody)?;
    listing.narrow(&subject_named(&asked.pod))?;
    if listing.attachments.is_empty() {
        return Err(nobody());
    }
    let pods = listing.attachments.iter().filter_map(|record| record.owner.pod.as_ref());
    let pods: BTreeSet<_> = pods.map(|pod| (pod.to_string(), pod.uid.clone())).collect();
    if pods.len() > 1 {
        let names = pods.into_iter().map(|(name, uid)| format!("{name} (UID {uid})"));
        return Err(Failure::Several { asked: asked.pod.clone(), found: names.collect() });
    }
    let uid = pods.into_iter().next().map(|(_, uid)| uid).filter(|uid| !uid.is_empty());
    let Some(uid) = uid else { return Err(Failure::NoUid(asked.pod.clone())) };
    let told = app::told(&node.store, node.patience, &uid, log)?;
    let Told { directory, publication } =
        told.ok_or_else(|| Failure::NothingPublished(asked.pod.clone()))?;
    let text = publication.to_env();
    let Publication { pod, entries, .. } = &publication;
    let variables = publication.variables().into_iter().collect();
    screen.show(&Published { pod, directory, ports: entries, variables, text })?;
    Ok(Verdict::Well)
}
