//! The configuration of the cluster on this node: [`CLUSTER_FILE`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::conflist::Edited;
use super::disk::{Folder, Found, look};
use super::text::Value;
use super::{Error, Step};
use crate::cni::{CLUSTER_FILE, Config, NODE_DIR, NodeFiles};
use crate::regular;

/// What to write there.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The file that takes its place; without one its keys stay.
    pub file: Option<PathBuf>,
    /// Keys with their values, JSON or bare words, over those of the file. `null` removes a key.
    pub set: Vec<(String, String)>,
}

/// The text as it would be.
pub(super) struct Proposal {
    old: Option<Vec<u8>>,
    new: String,
    remarks: Vec<String>,
}

impl Change {
    pub(super) const fn is_empty(&self) -> bool {
        self.file.is_none() && self.set.is_empty()
    }

    /// Judges the change as an ADD would with it and the plugin's object of the network, if there is one.
    ///
    /// # Errors
    /// When an ADD would be rejected.
    pub(super) fn propose(&self, object: Option<&str>) -> Result<Proposal, Error> {
        let path = Path::new(CLUSTER_FILE);
        let old = match look(path)? {
            Found::Nothing => None,
            Found::File(bytes) => Some(bytes),
            Found::Other(what) => return Err(Error::NotRegular { path: path.to_owned(), what }),
        };
        let (from, base) = match &self.file {
            Some(file) => {
                let bytes = regular::read(file).map_err(Error::io("read", file))?;
                (file.display().to_string(), bytes)
            }
            None => (CLUSTER_FILE.to_owned(), old.clone().unwrap_or_else(|| b"{}\n".to_vec())),
        };
        let no_object = || Error::NoObject { from: from.clone() };
        let base = String::from_utf8(base).map_err(|_| no_object())?;
        let whole = Value::of(&base).map_err(|_| no_object())?;
        let mut kept = whole.members().ok_or_else(no_object)?;
        // Of equal keys the last counts.
        let set: BTreeMap<&str, String> =
            self.set.iter().map(|(key, value)| (&**key, json(value))).collect();
        let is_removed = |key: &str| set.get(key).is_some_and(|value| value == "null");
        kept.retain(|member| !is_removed(&member.key));
        let set: Vec<_> = set.clone().into_iter().filter(|(key, _)| !is_removed(key)).collect();
        let new = if self.set.is_empty() {
            base.clone()
        } else {
            whole.replaced(&whole.with_members(kept, &set))
        };
        let files = NodeFiles::in_dir(Path::new(NODE_DIR), regular::read);
        let files = files.with_cluster_file(new.clone().into_bytes());
        let rejected = |source| Error::Config { from: from.clone(), source };
        let judged = Config::read(object.map(str::as_bytes), &files).map_err(rejected)?;
        Ok(Proposal { old, new, remarks: judged.1 })
    }
}

/// A value as JSON: a bare word is a string.
fn json(value: &str) -> String {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
    if is_json { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

impl Proposal {
    /// Writes it, unless the file has this text.
    pub(super) fn write(self, dry_run: bool) -> Result<Step, Error> {
        let Self { old, new, remarks } = self;
        let path = PathBuf::from(CLUSTER_FILE);
        let is_new = old.as_deref() != Some(new.as_bytes());
        if is_new && !dry_run {
            Folder::made(Path::new(NODE_DIR))?.write(&path, new.as_bytes())?;
        }
        let how = is_new.then_some("the configuration of the cluster");
        let old = String::from_utf8_lossy(old.as_deref().unwrap_or_default());
        Ok(Step::of(path, &old, Edited { text: new, how, remarks }))
    }
}
