//! What the kernel tells about changes of tables: of ours, by others.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::ENOBUFS;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::{Answer, Body, answers};
use super::socket::{Socket, is_own_port};
use super::{Error, INET};
use crate::kernel::uapi;
use crate::ruleset::{OFFLOAD_TABLE, TABLE};

/// How much may be told before it is read. Where it is not enough, that is noticed, and costs a look unless it
/// was our own change: the kernel tells of each element of a table that is built again.
const ROOM: usize = 1 << 20;

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody else has changed our table, or may have.
    Changed,
    /// The time is over.
    Elapsed,
    /// The descriptor that stops it is ready.
    Stopped,
}

/// A subscription to what is told about tables.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    /// For questions: an answer on the other one might be lost among events.
    asking: Socket,
    /// Whether the transaction that is being told about has changed our table.
    ours: bool,
    /// Whether our table may have changed while nothing was told.
    changed: bool,
    /// The generation of the tables after the last look.
    known: Option<u32>,
}

impl Events {
    /// Subscribes: from now on nothing is missed.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        let (mut socket, asking) = (Socket::open()?, Socket::open()?);
        socket.subscribe(uapi::NFNLGRP_NFTABLES, ROOM)?;
        Ok(Self { socket, asking, ours: false, changed: false, known: None })
    }

    /// Does `work`, which looks at our table and may change it, while nothing is told: the kernel takes a third less
    /// time for a large transaction that no process listens to. `work` gives the generation of the tables that it has
    /// left, if it knows. A later one is noticed.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn without<T>(&mut self, work: impl FnOnce() -> (T, Option<u32>)) -> Result<T, Error> {
        let before = self.asking.generation();
        if before.is_some() {
            self.socket.unsubscribe(uapi::NFNLGRP_NFTABLES)?;
        }
        // What was told until now is older than the look.
        self.read()?;
        let (done, left) = work();
        self.socket.subscribe(uapi::NFNLGRP_NFTABLES, ROOM)?;
        self.known = left.or(before);
        (self.ours, self.changed) = (false, self.asking.generation() != self.known);
        Ok(done)
    }

    /// Waits until somebody else has changed our table, `stop` is ready, or `patience` is used up.
    /// Without patience it sleeps until the kernel has something to tell.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn wait(
        &mut self,
        stop: BorrowedFd<'_>,
        patience: Option<Duration>,
    ) -> Result<Woken, Error> {
        if std::mem::take(&mut self.changed) {
            return Ok(Woken::Changed);
        }
        let begun = Instant::now();
        loop {
            let left = patience.map(|patience| patience.saturating_sub(begun.elapsed()));
            // Rounded up: a wait of a part of a millisecond would not sleep.
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
            });
            let mut both = [
                PollFd::new(stop, PollFlags::POLLIN),
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut both, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    return Err(Error::Socket { action: "wait for", source: errno.into() });
                }
            }
            if both[0].any() == Some(true) {
                return Ok(Woken::Stopped);
            }
            if both[1].any() == Some(true) && self.read()? {
                return Ok(Woken::Changed);
            }
            if left == Some(Duration::ZERO) {
                return Ok(Woken::Elapsed);
            }
        }
    }

    /// Reads what has been told; says whether it concerns us.
    fn read(&mut self) -> Result<bool, Error> {
        let (mut concerns, mut lost) = (false, false);
        loop {
            match self.socket.receive() {
                Ok(None) => break,
                Ok(Some(datagram)) => {
                    for event in answers(datagram) {
                        concerns |= hear(&mut self.ours, &event);
                    }
                }
                // More was told than there is room for. Nobody knows what.
                Err(Error::Socket { source, .. }) if source.raw_os_error() == Some(ENOBUFS) => {
                    lost = true;
                }
                Err(error) => return Err(error),
            }
        }
        if !lost {
            return Ok(concerns);
        }
        self.ours = false;
        Ok(self.known.is_none() || self.asking.generation() != self.known)
    }
}

/// Takes the next event; says whether, with it, somebody else has changed our table. `ours` is whether the
/// transaction that is being told about has changed it.
///
/// The kernel tells a transaction part by part and then that there is a new generation. Transactions
/// do not mix.
fn hear(ours: &mut bool, event: &Answer<'_>) -> bool {
    let Body::Object(attributes) = event.body else { return false };
    if event.kind == uapi::NFT_MSG_NEWGEN {
        return std::mem::take(ours) && !is_own_port(event.port);
    }
    let is_ours = |table| [TABLE, OFFLOAD_TABLE].contains(&table);
    *ours |= event.message.first() == Some(&INET)
        && attributes.text(uapi::NFTA_TABLE).is_some_and(is_ours);
    false
}

#[cfg(test)]
mod tests;
