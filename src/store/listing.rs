//! How all ports of a protocol stand, by the names in three directories: for whoever would have to
//! look for very many of them one by one.

use std::num::NonZeroU16;

use super::disk::Disk;
use super::error::Error;
use super::memory::{self, Releaser};
use super::{Shared, index};
use crate::model::Protocol;

/// What [`Shared::entered_at`] and [`Shared::released_at`] say of every port of one protocol.
#[derive(Debug)]
pub struct Listing<'a> {
    entered: Ports,
    /// Those in which something that counts may be, the latest first.
    periods: Vec<Period>,
    releaser: &'a Releaser,
    now: u64,
}

/// What was released in one period.
#[derive(Debug)]
struct Period {
    marks: Disk,
    marked: Ports,
    /// Whether every mark counts and is somebody else's, so that its name says all.
    is_plain: bool,
}

/// Whether a port is one of them, by its number.
#[derive(Debug)]
struct Ports(Vec<bool>);

impl Ports {
    /// Those that are names in a directory.
    fn named(disk: &Disk, directory: &str) -> Result<Self, Error> {
        let mut ports = vec![false; 1 << u16::BITS];
        disk.each_name(directory, |name| {
            if let Some(port) = index::port_in(&name) {
                ports[usize::from(port.get())] = true;
            }
        })?;
        Ok(Self(ports))
    }

    fn contains(&self, port: NonZeroU16) -> bool {
        self.0[usize::from(port.get())]
    }
}

impl Shared {
    /// Lists a protocol for `releaser`, to whom its own marks do not matter.
    ///
    /// A mark of the present period counts, and nobody has one there who has no memory there: then
    /// none is read. (What a DEL marked that was killed before it wrote the memory, and what is no
    /// mark, is taken for somebody else's: the number is deferred.)
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn listing<'a>(
        &self,
        protocol: Protocol,
        releaser: &'a Releaser,
        now: u64,
    ) -> Result<Listing<'a>, Error> {
        let entered = Ports::named(&self.disk, &index::of_protocol(protocol))?;
        let mut periods = Vec::new();
        for (age, period) in memory::periods(now).enumerate() {
            let Some(marks) = self.disk.below(&format!("{period}/{protocol}"))? else { continue };
            let is_plain =
                age == 0 && self.disk.inode(&memory::memory(&period, releaser))?.is_none();
            periods.push(Period { marked: Ports::named(&marks, "")?, marks, is_plain });
        }
        Ok(Listing { entered, periods, releaser, now })
    }
}

impl Listing<'_> {
    /// Whether anybody may hold this port, on whatever address.
    #[must_use]
    pub fn is_entered(&self, port: NonZeroU16) -> bool {
        self.entered.contains(port)
    }

    /// Whether somebody else released this port lately: at most a look-up for each period.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn is_released(&self, port: NonZeroU16) -> Result<bool, Error> {
        for period in self.periods.iter().filter(|period| period.marked.contains(port)) {
            if period.is_plain {
                return Ok(true);
            }
            let target = period.marks.target(&port.to_string())?;
            if let Some((at, by)) = target.as_deref().and_then(memory::told) {
                return Ok(memory::counts(at, self.now) && !self.releaser.is(by));
            }
        }
        Ok(false)
    }
}
