//! What the thread that uses store and kernel is sent.

use std::time::Instant;

use autoport::store::Store;
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

/// What answering needs besides the event.
pub(super) struct Limits<'a> {
    pub(super) store: Store,
    pub(super) asks: bool,
    /// The role in which this agent answers.
    pub(super) role: Role,
    /// Whether the runtime still waits, and this agent may still write.
    pub(super) is_awaited: &'a dyn Fn() -> bool,
    /// Whether this agent may still write. The runtime need not wait for what a pod gives back.
    pub(super) leads: &'a dyn Fn() -> bool,
}

/// What becomes of it.
pub(super) struct Reply {
    pub(super) answer: Result<Answer, Failure>,
    /// The role in which this agent has answered.
    pub(super) led: Option<Role>,
}

/// For what an agent that was asked to end goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    /// Another agent is to take the lead.
    Handover,
    /// No other agent stays, and a sandbox waits for its container.
    Sandbox,
    /// No other agent stays, and no sandbox waits.
    No,
}

/// What the thread is sent.
pub(super) enum Task {
    /// An event, and the role at its time.
    Event(Box<Job>, Duty, Role),
    /// This agent leads from now on.
    Lead(Role),
    /// Tell whether a sandbox waits for its container, so that this agent is not to end yet.
    Waits(oneshot::Sender<Needed>),
    /// Have no ports guarded any more: this agent is the last. The channel is closed when that is done.
    Unguard(oneshot::Sender<()>),
    /// Look for holders whose sandboxes the runtime does not have.
    Look(Role, Option<Listed>),
}
