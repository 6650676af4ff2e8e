//! The file name of a holder of ports.

use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::model::{Attachment, Holder, HostPod, InvalidName, check_short};

/// File names have 255 bytes; `.json` and the number of a copy put aside need some of them.
const LONGEST: usize = 200;

/// The name under which a holder of ports is recorded.
///
/// An attachment has `network:containerID:ifname` where that fits, otherwise `sha256-`, the hash of
/// the network's name and the hash of all. No part can have a colon (see [`Attachment::new`]), so two attachments never share a plain
/// key, and no plain key looks like a hashed one. A network name starts with a letter or a digit, so
/// a key is never a hidden file, `.` or `..`, and there is no slash in any part.
///
/// A host-network pod has its UID, and a reservation its own name; both follow the rules of a
/// network's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub(super) kind: Kind,
    /// Without the directory and the ending.
    pub(super) stem: String,
}

/// What a key is the name of: the directory its file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Attachment,
    HostPod,
    Reservation,
    /// One of a later version, whatever it is.
    Unknown,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Attachment, Self::HostPod, Self::Reservation];

    pub(super) const fn directory(self) -> &'static str {
        match self {
            Self::Attachment => "attachments",
            Self::HostPod => "hostpods",
            Self::Reservation => "reservations",
            Self::Unknown => "",
        }
    }
}

impl Key {
    /// The key of `holder`.
    pub fn of(holder: &Holder) -> Self {
        match holder {
            Holder::Attachment(attachment) => Self::of_attachment(attachment),
            Holder::HostPod { pod } => Self { kind: Kind::HostPod, stem: pod.uid().to_owned() },
        }
    }

    /// The key of `attachment`.
    pub fn of_attachment(attachment: &Attachment) -> Self {
        let plain =
            [attachment.network(), attachment.container_id(), attachment.ifname()].join(":");
        let stem = if plain.len() <= LONGEST {
            plain
        } else {
            format!("{}-{}", hashed(attachment.network()), hash(&plain))
        };
        Self { kind: Kind::Attachment, stem }
    }

    /// Whether the attachment that it names, by its name or by a hash, is one of this network: what a
    /// GC needs to know of a record that cannot be read.
    pub fn is_of_network(&self, network: &str) -> bool {
        self.kind == Kind::Attachment
            && match self.stem.split_once(':') {
                Some((own, _)) => own == network,
                None => self.stem.rsplit_once('-').is_some_and(|(own, _)| own == hashed(network)),
            }
    }

    /// The key of the reservation of this name.
    ///
    /// # Errors
    /// [`InvalidName`] when no reservation can have it.
    pub fn of_reservation(name: &str) -> Result<Self, InvalidName> {
        check_short("reservation", name)?;
        Ok(Self { kind: Kind::Reservation, stem: name.to_owned() })
    }

    /// The attachment that a plain key names; a hash does not tell, and the other kinds have none.
    pub fn attachment(&self) -> Option<Attachment> {
        let mut parts = self.stem.splitn(3, ':');
        let (network, container_id) = (parts.next()?, parts.next()?);
        Attachment::new(network, container_id, parts.next()?).ok()
    }

    /// What an index entry leads to that only a later version can have made.
    pub(super) fn unknown(target: &str) -> Self {
        Self { kind: Kind::Unknown, stem: target.trim_start_matches("../").to_owned() }
    }

    /// Whether this version knows what kind of holder it names.
    pub fn is_known(&self) -> bool {
        self.kind != Kind::Unknown
    }

    /// Reads the name of a file in the directory of `kind` back.
    pub(super) fn of_file(kind: Kind, name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".json")?;
        match kind {
            Kind::Attachment => {
                let own = !stem.is_empty() && !stem.starts_with('.') && !stem.contains('/');
                own.then(|| Self { kind, stem: stem.to_owned() })
            }
            Kind::HostPod => HostPod::new(stem).ok().map(|pod| Self::of(&pod.into())),
            Kind::Reservation => Self::of_reservation(stem).ok(),
            Kind::Unknown => None,
        }
    }

    /// Where the record is, seen from the state directory.
    pub(super) fn path(&self) -> String {
        if !self.is_known() {
            return self.stem.clone();
        }
        format!("{}/{}.json", self.kind.directory(), self.stem)
    }

    /// Reads the text of [`Key`]'s `Display` back, of those that have records.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        match name.split_once(':') {
            Some(("hostpod", uid)) => HostPod::new(uid).ok().map(|pod| Self::of(&pod.into())),
            None if !name.starts_with("sha256-") => None,
            _ => Some(Self { kind: Kind::Attachment, stem: name.to_owned() })
                .filter(|key| key.stem.matches(':').count() != 1),
        }
    }

    /// Reads such a path back.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let (directory, name) = path.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.directory() == directory)?;
        Self::of_file(kind, name)
    }
}

/// The key of an attachment has two colons or none, so the kinds never look alike.
impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Attachment => out.write_str(&self.stem),
            Kind::Unknown => self.stem.escape_debug().fmt(out),
            Kind::HostPod => write!(out, "hostpod:{}", self.stem),
            Kind::Reservation => write!(out, "reservation:{}", self.stem),
        }
    }
}

pub(super) fn hashed(plain: &str) -> String {
    format!("sha256-{}", hash(plain))
}

fn hash(plain: &str) -> String {
    Sha256::digest(plain).iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests;
