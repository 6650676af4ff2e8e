//! Which of the node's agents answers the runtime, and how the plugin learns that one does.
//!
//! The leader holds a lock (`flock`) on `agent.lock` and writes its heartbeat to `agent.json`. Every agent is
//! told of every event; the leader alone answers. A standby takes over as soon as the lock is free, and where
//! the leader is stopped, so that its lock stays and its heart does not beat.
//!
//! Two answers to one event are an error of the runtime: the container is not created, and is tried again.
//! No answer is worse: it is created without its variables. So in doubt an agent answers, or rejects.

mod clock;
mod error;
mod heart;
mod lock;

use std::path::Path;
use std::time::Duration;

use self::clock::STALL;
pub use self::clock::{Clock, Instant, Pulse, Role};
pub use self::error::Error;
use self::heart::Heart;
pub use self::heart::{Heartbeat, last, read};
use self::lock::{Attempt, Lock};

/// Held by the leader, and its heartbeat.
pub use autoport::store::{AGENT_HEARTBEAT as HEARTBEAT, AGENT_LOCK as LOCK};
use autoport::store::{AGENT_NEXT as NEXT, AGENT_PRESENT as PRESENT, BindHook};

/// How often the heart beats. The contract with the plugin is once in a second.
pub const BEAT: Duration = Duration::from_millis(500);

/// What an agent does with an event.
#[derive(Debug)]
pub enum Standing {
    /// It answers.
    Leads,
    /// Another agent answers.
    StandsBy,
    /// It is about to take the lead over from a standby. The runtime asks that one later: if this agent let
    /// an event pass and the standby ended then, no agent would have answered.
    Waits,
    /// It cannot be told; pods that ask for host ports have to wait.
    Unknown(Error),
}

/// Whether an agent that is about to end can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Another agent leads, or there is no runtime to answer.
    Free,
    /// Another agent stays, and has not taken the lead yet.
    HandsOver,
    /// No agent that stays is connected to the runtime.
    Last,
}

/// The role of this agent.
#[derive(Debug)]
pub struct Keeper {
    clock: Clock,
    pulse: Pulse,
    /// Whether it gets the lead back from an agent that is not preferred.
    preferred: bool,
    lead: Lock,
    next: Lock,
    /// Shared with the other agents that are connected and stay.
    present: Lock,
    /// Whether it is about to end.
    leaves: bool,
    /// Whether another agent led at the last beat.
    follows: bool,
    heart: Heart,
    /// The heart of a preferred agent that waits.
    waiting: Heart,
    part: Part,
}

/// What an agent is, besides the holder of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It has no synchronized session with the runtime.
    Offline,
    /// It takes the lead when it is free.
    Ready,
    /// It answers although another agent has the lock, because that one is stopped.
    Deputy,
    /// It was stopped while it led, and another agent has answered meanwhile: that one gets the lock.
    Overtaken,
}

impl Keeper {
    /// An agent that has no role yet, in the state directory `dir`.
    pub fn new(dir: &Path, preferred: bool, clock: Clock) -> Self {
        Self {
            pulse: Pulse::new(clock.now()),
            clock,
            preferred,
            lead: Lock::at(dir.join(LOCK)),
            next: Lock::at(dir.join(NEXT)),
            present: Lock::at(dir.join(PRESENT)),
            leaves: false,
            follows: false,
            heart: Heart::at(dir.join(HEARTBEAT), !preferred),
            waiting: Heart::at(dir.join(NEXT), !preferred),
            part: Part::Offline,
        }
    }

    /// The same with what its heartbeat tells of the bind hook.
    pub const fn with_bind_hook(mut self, told: BindHook) -> Self {
        self.heart.bind_hook = Some(told);
        self.waiting.bind_hook = Some(told);
        self
    }

    /// Leaves the sign on the node that an agent was started, whether or not it ever connects.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn begin(&self) -> Result<(), Error> {
        self.lead.open().map(drop)
    }

    /// For those who must not write after this agent has lost its role.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Whether this agent leads as far as it knows.
    pub const fn leads(&self) -> bool {
        matches!(self.part, Part::Deputy) || self.lead.is_held()
    }

    /// Whether another agent of the node leads, and lives.
    pub const fn follows(&self) -> bool {
        self.follows
    }

    /// Notes that the runtime's session is synchronized, or is over. Without one an agent cannot lead.
    pub fn set_connected(&mut self, connected: bool) {
        if !connected {
            self.give_up();
            self.next.release();
            self.present.release();
            self.part = Part::Offline;
            self.follows = false;
        } else if self.part == Part::Offline {
            self.part = Part::Ready;
            // An error is the next beat's.
            let _ = self.show();
        }
    }

    /// Notes that this agent is about to end; gives whether it can. From now on the plugin does not count on it, so
    /// that pods that need an agent wait. It gives the lead up where another agent stays, and takes it again if an
    /// event comes first: the other may have let that event pass already. If it ended while it had the lead, an
    /// event between the ends of its session and of its process would be answered by no agent.
    ///
    /// # Errors
    /// When a file of the state directory cannot be used; then it is needed as far as it knows.
    pub fn leave(&mut self) -> Result<Departure, Error> {
        if self.part == Part::Offline {
            return Ok(Departure::Free);
        }
        self.leaves = true;
        self.next.release();
        self.present.release();
        let attempt = self.present.attempt();
        self.present.release();
        if attempt? == Attempt::Taken {
            if self.leads() {
                self.heart.write(self.clock.now(), false)?;
            }
            return Ok(Departure::Last);
        }
        // The agent that is stopped may be the one that seems to stay; and what a deputy has written counts for a
        // while.
        if self.part == Part::Deputy {
            return Ok(Departure::HandsOver);
        }
        self.give_up();
        let attempt = self.lead.attempt();
        self.lead.release();
        let has_successor = attempt? == Attempt::HeldByOther;
        Ok(if has_successor { Departure::Free } else { Departure::HandsOver })
    }

    /// Decides who answers an event that has arrived. A free lead is taken in any case: the agent that
    /// should have it may be stopped.
    pub fn standing(&mut self) -> Standing {
        self.decide(true).unwrap_or_else(Standing::Unknown)
    }

    /// Beats: to be called every [`BEAT`]. Takes the lead where no agent has it, so that the plugin, which
    /// may reject pods while there is no leader, need not wait for the next event. Hands it over to a
    /// preferred agent that waits for it.
    ///
    /// # Errors
    /// When a file of the state directory cannot be used.
    pub fn beat(&mut self) -> Result<(), Error> {
        self.follows = false;
        let standing = self.decide(false)?;
        self.follows = self.part != Part::Offline && matches!(standing, Standing::StandsBy);
        let now = self.clock.now();
        self.pulse.beat(now);
        if matches!(standing, Standing::Leads) {
            if !self.preferred && self.is_awaited(now) {
                self.give_up();
                return Ok(());
            }
            self.heart.write(now, !self.leaves)?;
        } else if self.next.is_held() {
            self.waiting.write(now, true)?;
        }
        self.show()
    }

    /// Has agents that are about to end know of this one. Such an agent may have the lock for a moment while it
    /// looks: then it is the next beat that gets it.
    fn show(&mut self) -> Result<(), Error> {
        let stays = self.part != Part::Offline && !self.leaves;
        if stays { self.present.share().map(drop) } else { Ok(()) }
    }

    fn decide(&mut self, is_event: bool) -> Result<Standing, Error> {
        if self.part == Part::Offline {
            return Ok(Standing::StandsBy);
        }
        let now = self.clock.now();
        if self.pulse.is_stalled(now, STALL) {
            let led = self.leads();
            self.give_up();
            self.pulse.beat(now);
            if led {
                self.part = Part::Overtaken;
            }
        }
        if self.lead.is_held() && !self.lead.guards()? {
            // The file was deleted: another agent may hold the lock of a new one.
            self.give_up();
        }
        if self.lead.is_held() {
            return Ok(Standing::Leads);
        }
        let attempt = self.lead.attempt()?;
        if self.part == Part::Overtaken {
            if attempt == Attempt::Taken
                && let Some(leader) = self.heart.of_another(now)?
            {
                self.lead.release();
                return Ok(self.behind(&leader));
            }
            // Once the other has the lock, or is gone, a free one can be taken again.
            self.part = Part::Ready;
        }
        match attempt {
            Attempt::Taken if is_event || self.takes_over(now) => {
                self.part = Part::Ready;
                self.next.release();
                self.heart.write(now, !self.leaves)?;
                Ok(Standing::Leads)
            }
            Attempt::Taken => {
                self.lead.release();
                Ok(Standing::StandsBy)
            }
            Attempt::HeldByOther => self.stand_by(now),
        }
    }

    /// Stands by, or answers for a leader that is stopped. The heartbeat is written at once, so that further
    /// agents stand by.
    fn stand_by(&mut self, now: Instant) -> Result<Standing, Error> {
        if self.preferred
            && !self.leaves
            && !self.next.is_held()
            && self.next.attempt()? == Attempt::Taken
        {
            self.waiting.write(now, true)?;
        }
        if let Some(leader) = self.heart.of_another(now)? {
            if self.part == Part::Deputy {
                self.give_up();
            }
            return Ok(self.behind(&leader));
        }
        self.part = Part::Deputy;
        self.heart.write(now, !self.leaves)?;
        Ok(Standing::Leads)
    }

    /// What this agent is while `leader` leads.
    const fn behind(&self, leader: &Heartbeat) -> Standing {
        let waits = self.preferred && !self.leaves && leader.standby;
        if waits { Standing::Waits } else { Standing::StandsBy }
    }

    /// Whether it takes a free lead without an event.
    fn takes_over(&mut self, now: Instant) -> bool {
        !self.leaves && (self.preferred || !self.is_awaited(now))
    }

    /// Whether a preferred agent waits for the lead, and is not stopped itself.
    fn is_awaited(&mut self, now: Instant) -> bool {
        let attempt = self.next.attempt();
        self.next.release();
        let waits = matches!(attempt, Ok(Attempt::HeldByOther));
        waits && self.waiting.of_another(now).is_ok_and(|waiting| waiting.is_some())
    }

    fn give_up(&mut self) {
        self.pulse.lose();
        self.lead.release();
        if self.part == Part::Deputy {
            self.part = Part::Ready;
        }
    }
}

#[cfg(test)]
mod tests;
