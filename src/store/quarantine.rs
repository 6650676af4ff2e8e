//! What becomes of a record that cannot be read: it keeps its ports until somebody who may decide
//! discards it, and somebody who can read more than we do finds a copy.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;

use super::Locked;
use super::error::Error;
use super::key::Key;
use super::lookup;

const DIRECTORY: &str = "unreadable";

/// Where a copy of a damaged record is.
#[derive(Debug)]
pub enum Aside {
    /// Here.
    Kept(PathBuf),
    /// Nowhere, for this reason. No command fails for it.
    Lost(Box<Error>),
    /// Nowhere: whoever asked may change nothing.
    Wanted,
    /// Nowhere: it is a later version's, which alone knows what it is.
    LeftAlone,
}

impl fmt::Display for Aside {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(path) => write!(out, "a copy is at {}", path.display()),
            Self::Lost(error) => {
                write!(out, "no copy could be kept: {error}")?;
                error.source().map_or(Ok(()), |source| write!(out, " ({source})"))
            }
            Self::LeftAlone => out.write_str("it is left as it is"),
            Self::Wanted => out.write_str("and ADD would save a copy of it"),
        }
    }
}

impl Locked {
    /// Puts a copy of an unreadable record aside and says where; the record itself keeps its ports.
    /// Asked again, it gives the same answer.
    #[must_use]
    pub fn put_aside(&self, key: &Key) -> Aside {
        if !key.is_known() {
            return Aside::LeftAlone;
        }
        let copy = || {
            let aside = self.aside(key)?;
            if self.disk.inode(&aside)?.is_none() {
                self.disk.copy(&key.path(), &aside)?;
            }
            Ok(self.disk.full(&aside))
        };
        copy().map_or_else(|error| Aside::Lost(Box::new(error)), Aside::Kept)
    }

    /// Forgets an unreadable record, whose ports ([`super::Shared::entered`]) become free, and says
    /// where it was moved to. Where there is no room for that it is deleted: its DEL must not fail.
    ///
    /// # Errors
    /// When the file system refuses even that.
    pub fn discard(&self, key: &Key) -> Result<Aside, Error> {
        let hosts = self.entered(key)?;
        let moved = || {
            let aside = self.aside(key)?;
            match self.disk.inode(&aside)? {
                Some(_) => self.disk.remove(&key.path())?,
                None => self.disk.rename(&key.path(), &aside)?,
            }
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
        lookup::forget(&self.disk, key)?;
        Ok(aside)
    }

    /// Where the record of `key` was put aside already, or the first free name for it.
    fn aside(&self, key: &Key) -> Result<String, Error> {
        let own = self.disk.inode(&key.path())?;
        let mut number = 1;
        loop {
            let name = format!("{DIRECTORY}/{key}.{number}");
            let there = self.disk.inode(&name)?;
            if there.is_none() || there == own {
                return Ok(name);
            }
            number += 1;
        }
    }
}
