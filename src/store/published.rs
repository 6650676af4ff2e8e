//! What containers read about their own ports: `pods/<pod UID>/ports.json` and `ports.env`.
//!
//! The only files here that others than root may read. What is in them is [`crate::publication`]'s;
//! `ports.json` is also where it is remembered which attachment published what. A container that
//! mounts the directory writable may have put anything there: that fools nobody but itself.

use std::path::PathBuf;

use super::error::Error;
use super::key::Key;
use super::public::Public;
use super::{Locked, Shared, Store};
use crate::model::{Attachment, Pod, check_identifier};
use crate::publication::{Entry, Publication};

const DIRECTORY: &str = "pods";
const JSON: &str = "ports.json";
const ENV: &str = "ports.env";

/// Ten thousand entries have two million bytes.
const LONGEST: u64 = 16 << 20;

fn directory(uid: &str) -> Result<String, Error> {
    check_identifier("pod UID", uid)?;
    Ok(format!("{DIRECTORY}/{uid}"))
}

impl Shared {
    /// What is published for the pod with this UID; `None` when nothing is, or nothing that makes
    /// sense.
    #[must_use]
    pub fn published(&self, uid: &str) -> Option<Publication> {
        let dir = directory(uid).ok()?;
        let bytes = Public::open(&self.disk, &dir).ok()??.read(LONGEST, JSON).ok()??;
        Publication::from_json(&bytes)
    }

    /// The file of variables for the pod with this UID, whatever somebody has put there.
    #[must_use]
    pub fn published_variables(&self, uid: &str) -> Option<Vec<u8>> {
        let dir = directory(uid).ok()?;
        Public::open(&self.disk, &dir).ok()??.read(LONGEST, ENV).ok()?
    }
}

impl Store {
    /// The directory in which files are published for the pod with this UID; `None` where it can have
    /// none.
    #[must_use]
    pub fn published_at(&self, uid: &str) -> Option<PathBuf> {
        Some(self.dir().join(directory(uid).ok()?))
    }
}

impl Locked {
    /// Publishes `entries` for `attachment` of `pod`, beside those of the pod's other attachments and
    /// in place of what the attachment itself, or an earlier sandbox of the pod, had published.
    ///
    /// # Errors
    /// [`Error::Name`] when the UID cannot be a file name, or when the file system refuses.
    pub fn publish(
        &self,
        pod: &Pod,
        attachment: &Attachment,
        entries: Vec<Entry>,
    ) -> Result<(), Error> {
        let dir = directory(&pod.uid)?;
        let mut publication = self.published(&pod.uid).unwrap_or_default();
        publication.pod = pod.clone();
        publication.put(attachment, entries);
        if publication.entries.is_empty() {
            return Public::remove(&self.disk, &dir);
        }
        self.write(&dir, &publication)
    }

    /// Withdraws what `attachment` published for the pod with this UID, and with the last of it the
    /// pod's directory.
    ///
    /// # Errors
    /// When the file system refuses. A UID that no pod can have published nothing.
    pub fn unpublish(&self, uid: &str, attachment: &Attachment) -> Result<(), Error> {
        self.narrow(uid, |entry| entry.attachment.as_ref() != Some(attachment))
    }

    /// Withdraws what anybody published who is not `recorded`. What one pod has made of its
    /// directory keeps nobody else's from being withdrawn; the first failure is reported.
    pub(super) fn unpublish_all_but(&self, recorded: impl Fn(&Key) -> bool) -> Result<(), Error> {
        let mut all = Ok(());
        for uid in self.disk.names(DIRECTORY)? {
            let stays = |entry: &Entry| {
                entry.attachment.as_ref().is_some_and(|own| recorded(&Key::of_attachment(own)))
            };
            all = all.and(self.narrow(&uid, stays));
        }
        all
    }

    fn narrow(&self, uid: &str, stays: impl Fn(&Entry) -> bool) -> Result<(), Error> {
        let Ok(dir) = directory(uid) else { return Ok(()) };
        let mut publication = self.published(uid).unwrap_or_default();
        let before = publication.entries.len();
        publication.entries.retain(stays);
        if publication.entries.is_empty() {
            return Public::remove(&self.disk, &dir);
        }
        if publication.entries.len() == before {
            return Ok(());
        }
        self.write(&dir, &publication)
    }

    /// A reader sees each file as it was or as it will be, never half of it.
    fn write(&self, dir: &str, publication: &Publication) -> Result<(), Error> {
        let full = self.disk.full(&format!("{dir}/{JSON}"));
        let text = publication.to_json().map_err(Error::io("encode", &full))?;
        let dir = Public::make(&self.disk, dir)?;
        dir.replace(ENV, publication.to_env().as_bytes())?;
        dir.replace(JSON, text.as_bytes())
    }
}
