//! The interfaces towards pods by which 127.0.0.0/8 is let in: `loopback/<interface>`, a symbolic link
//! whose target says what `route_localnet` was before, and `unguarded` where `guardExcept` names it.
//!
//! Written before the sysctl, so that `autoport uninstall` finds what was changed, and a table that is
//! built again guards what was open.

use std::fs;
use std::path::Path;

use super::error::Error;
use super::{Locked, Shared};

const DIRECTORY: &str = "loopback";
const UNGUARDED: &str = " unguarded";

/// One for each interface that there is.
const INTERFACES: &str = "/proc/sys/net/ipv4/conf";

/// How many notes come together before those are looked for whose interface is gone.
const MANY: usize = 16;

/// An interface towards pods by which 127.0.0.0/8 is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inlet {
    /// The name of the interface.
    pub interface: String,
    /// Whether `route_localnet` was 0 before.
    pub switched_on: bool,
    /// Whether nothing but the answers of pods may use it.
    pub guarded: bool,
}

impl Inlet {
    fn read(interface: &str, target: &str) -> Self {
        let before = target.trim_end_matches(UNGUARDED);
        let (switched_on, guarded) = (before == "0", before == target);
        Self { interface: interface.to_owned(), switched_on, guarded }
    }

    fn target(&self) -> String {
        let before = if self.switched_on { "0" } else { "1" };
        format!("{before}{}", if self.guarded { "" } else { UNGUARDED })
    }
}

fn path(interface: &str) -> String {
    format!("{DIRECTORY}/{interface}")
}

impl Shared {
    /// What is noted of an interface.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn inlet(&self, interface: &str) -> Result<Option<Inlet>, Error> {
        let target = self.disk.target(&path(interface))?;
        Ok(target.map(|target| Inlet::read(interface, &target)))
    }

    /// The interfaces that were noted.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn loopback(&self) -> Result<Vec<Inlet>, Error> {
        let mut inlets = Vec::new();
        for interface in self.disk.names(DIRECTORY)? {
            inlets.extend(self.inlet(&interface)?);
        }
        Ok(inlets)
    }
}

impl Locked {
    /// Notes an interface, whose name must be one, before 127.0.0.0/8 is let in. Returns those that are
    /// forgotten because they are gone.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn note_loopback(&self, inlet: &Inlet) -> Result<Vec<String>, Error> {
        let is_many = (self.disk.names(DIRECTORY)?.len() + 1).is_multiple_of(MANY);
        let gone = if is_many { self.forget_gone()? } else { Vec::new() };
        self.disk.link(&path(&inlet.interface), &inlet.target())?;
        Ok(gone)
    }

    /// Forgets the interfaces that are gone, and returns them.
    #[expect(clippy::disallowed_methods, reason = "the store is the door to files")]
    pub(super) fn forget_gone(&self) -> Result<Vec<String>, Error> {
        let is_gone = |interface: &String| {
            fs::symlink_metadata(Path::new(INTERFACES).join(interface)).is_err()
        };
        let gone: Vec<_> = self.disk.names(DIRECTORY)?.into_iter().filter(is_gone).collect();
        gone.iter().try_for_each(|interface| self.forget_loopback(interface))?;
        Ok(gone)
    }

    /// Forgets an interface whose sysctl is as it was before.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn forget_loopback(&self, interface: &str) -> Result<(), Error> {
        self.disk.remove(&path(interface))
    }
}
