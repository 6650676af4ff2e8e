//! On which interfaces `route_localnet` was switched on: `loopback/<interface>`, a symbolic link whose
//! target is what the sysctl was before.
//!
//! Written before the sysctl, so that `autoport uninstall` finds whatever was changed. Interfaces that
//! go with their pod are not noted, or these would be as many as there ever were pods.

use super::error::Error;
use super::{Locked, Shared};

const DIRECTORY: &str = "loopback";
const BEFORE: &str = "0";

fn path(interface: &str) -> String {
    format!("{DIRECTORY}/{interface}")
}

impl Shared {
    /// The interfaces that were noted.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn loopback(&self) -> Result<Vec<String>, Error> {
        self.disk.names(DIRECTORY)
    }
}

impl Locked {
    /// Notes that `route_localnet` of an interface, whose name must be one, is about to be switched on.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn note_loopback(&self, interface: &str) -> Result<(), Error> {
        self.disk.link(&path(interface), BEFORE)
    }

    /// Forgets an interface whose sysctl is as it was before.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn forget_loopback(&self, interface: &str) -> Result<(), Error> {
        self.disk.remove(&path(interface))
    }
}
