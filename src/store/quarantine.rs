//! What happens to a record that cannot be read: it keeps its ports until a command that may decide discards
//! it, and a copy stays for an operator.

use std::error::Error as _;
use std::path::PathBuf;

use super::Locked;
use super::error::Error;
use super::key::Key;
use super::lookup;

const DIRECTORY: &str = "unreadable";

/// Where a discarded record is.
#[derive(Debug, derive_more::Display)]
pub enum Aside {
    /// Here.
    #[display("a copy is at {}", _0.display())]
    Kept(PathBuf),
    /// Nowhere, for this reason. No command fails for it.
    #[display("no copy could be kept: {_0}{}",
        _0.source().map_or(String::new(), |source| format!(" ({source})")))]
    Lost(Box<Error>),
}

impl Locked {
    /// Forgets an unreadable record, whose ports ([`super::Shared::entered`]) become free, and says
    /// where it was moved to. Where there is no room for that it is deleted: its DEL must not fail.
    ///
    /// # Errors
    /// When the file system refuses even that.
    pub fn discard(&self, key: &Key) -> Result<Aside, Error> {
        let hosts = self.entered(key)?;
        let moved = || {
            let aside = self.free_name(key)?;
            self.disk.rename(&key.path(), &aside)?;
            Ok(self.disk.full(&aside))
        };
        let aside = match moved() {
            Ok(path) => Aside::Kept(path),
            Err(error) => {
                // It may be a directory.
                self.disk.remove(&key.path()).or_else(|_| self.disk.remove_all(&key.path()))?;
                Aside::Lost(Box::new(error))
            }
        };
        self.withdraw(key, hosts.iter())?;
        // It does not tell under what names it is entered.
        lookup::prune(&self.disk, |_, entered| entered != key)?;
        Ok(aside)
    }

    fn free_name(&self, key: &Key) -> Result<String, Error> {
        let mut number = 1;
        loop {
            let name = format!("{DIRECTORY}/{key}.{number}");
            if self.disk.inode(&name)?.is_none() {
                return Ok(name);
            }
            number += 1;
        }
    }
}
