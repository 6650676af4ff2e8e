//! Where the choice of numbers goes on: `cursors/<range>`, a symbolic link whose target is the last
//! number that was chosen.
//!
//! A link is made, replaced and read in one step each. One that is lost or damaged costs nothing but
//! the distance between two uses of a number, so none of this is synced.

use std::num::NonZeroU16;

use super::error::Error;
use super::{Locked, Shared, lookup};

/// No named range can have this name: theirs begin with a letter or a digit.
const DEFAULT: &str = "=default";

fn path(range: Option<&str>) -> String {
    format!("cursors/{}", range.map_or(DEFAULT.to_owned(), lookup::name))
}

impl Shared {
    /// The number that was last chosen from the range of this name, or from the default one.
    ///
    /// # Errors
    /// When the file system refuses; a damaged cursor is none.
    pub fn cursor(&self, range: Option<&str>) -> Result<Option<NonZeroU16>, Error> {
        let target = self.disk.target(&path(range))?;
        Ok(target.and_then(|target| target.parse().ok()))
    }
}

impl Locked {
    /// Remembers the number that was last chosen from a range.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn set_cursor(&self, range: Option<&str>, last: NonZeroU16) -> Result<(), Error> {
        self.disk.link(&path(range), &last.to_string())
    }
}
