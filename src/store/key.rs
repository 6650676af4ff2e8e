//! The file name of an attachment.

use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::model::Attachment;

/// File names have 255 bytes; `.json` and the number of a copy put aside need some of them.
const LONGEST: usize = 200;

/// The name under which an attachment is recorded: `network:containerID:ifname` where that fits,
/// otherwise `sha256-` and the hash of it.
///
/// No part can have a colon (see [`Attachment::new`]), so two attachments never share a plain key,
/// and no plain key looks like a hashed one. A network name starts with a letter or a digit, so a
/// key is never a hidden file, `.` or `..`, and there is no slash in any part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The key of `attachment`.
    #[must_use]
    pub fn of(attachment: &Attachment) -> Self {
        let plain =
            [attachment.network(), attachment.container_id(), attachment.ifname()].join(":");
        if plain.len() <= LONGEST {
            return Self(plain);
        }
        let mut name = "sha256-".to_owned();
        for byte in Sha256::digest(&plain) {
            let _ = write!(name, "{byte:02x}");
        }
        Self(name)
    }

    /// The attachment that a plain key names; a hash does not tell.
    #[must_use]
    pub fn attachment(&self) -> Option<Attachment> {
        let mut parts = self.0.splitn(3, ':');
        let (network, container_id) = (parts.next()?, parts.next()?);
        Attachment::new(network, container_id, parts.next()?).ok()
    }

    /// Reads the name of a file in `attachments/` back.
    pub(super) fn of_file(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".json")?;
        let own = !stem.is_empty() && !stem.starts_with('.') && !stem.contains('/');
        own.then(|| Self(stem.to_owned()))
    }

    /// Where the record is, seen from the state directory.
    pub(super) fn path(&self) -> String {
        format!("attachments/{}.json", self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(network: &str, container_id: &str) -> Attachment {
        Attachment::new(network, container_id, "eth0").expect("a valid attachment")
    }

    #[test]
    fn plain_where_it_fits_and_hashed_beyond() {
        assert_eq!(Key::of(&attachment("cbr0", "4f2a")).to_string(), "cbr0:4f2a:eth0");
        let longest = attachment("n", &"c".repeat(LONGEST - "n::eth0".len()));
        assert_eq!(Key::of(&longest).to_string().len(), LONGEST);
        assert_eq!(Key::of(&longest).attachment(), Some(longest));
        let long = attachment("n", &"c".repeat(LONGEST - "n:eth0".len()));
        let key = Key::of(&long).to_string();
        assert!(key.starts_with("sha256-") && key.len() == 71, "{key}");
        assert_eq!(Key::of(&long).attachment(), None);
        assert_ne!(Key::of(&attachment("n", &"c".repeat(4000))), Key::of(&long));
        assert_ne!(Key::of(&attachment("sha256-00", "1")).to_string(), "sha256-00");
    }

    #[test]
    fn only_names_of_records_are_keys() {
        let key = Key::of(&attachment("cbr0", "4f2a"));
        assert_eq!(Key::of_file("cbr0:4f2a:eth0.json"), Some(key));
        for other in [".json", ".new", "..json", "a/b.json", "../x.json", "x.json~", ""] {
            assert_eq!(Key::of_file(other), None, "{other}");
        }
    }
}
