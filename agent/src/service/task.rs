//! What the thread that uses store and kernel is sent.

use std::time::Instant;

use tokio::sync::oneshot;

use crate::hostnet::Listed;
use crate::keeper::Role;
use crate::nri::{Answer, Event, Failure, Rejection};

/// What this agent is to do about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Answer it.
    Answer,
    /// Note it, since another agent answers.
    Watch,
    /// Reject what asks for host ports, since it is not known who answers.
    Reject(Rejection),
}

/// An event for the worker.
pub(super) struct Job {
    pub(super) event: Event,
    /// Whether its pod asks for host ports or their variables.
    pub(super) asks: bool,
    /// Until then locks are waited for.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// What becomes of it.
pub(super) struct Reply {
    pub(super) answer: Result<Answer, Failure>,
    /// The role in which this agent has answered.
    pub(super) led: Option<Role>,
}

/// What the thread is sent.
pub(super) enum Task {
    /// An event, and the role at its time.
    Event(Box<Job>, Duty, Role),
    /// This agent leads from now on.
    Lead(Role),
    /// Tell whether a sandbox waits for its container, so that this agent is not to end yet.
    Waits(oneshot::Sender<bool>),
    /// Look for holders whose sandboxes the runtime does not have.
    Look(Role, Option<Listed>),
}
