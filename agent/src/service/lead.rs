//! The thread that decides whether this agent answers an event, and beats. It alone uses the files by which
//! the node's agents agree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SendError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use autoport::error::in_one_line;
use autoport::event::Silent;
use autoport::store::Store;
use tokio::sync::oneshot;

use super::task::{Duty, Job, Needed, Task};
use crate::hostnet::Listed;
use crate::keeper::{Departure, Keeper, Role, Standing};
use crate::metrics::Metrics;
use crate::nri::{RETRY, Rejection};

/// How often a preferred agent that waits for the lead tries to take it while an event waits.
const STEP: Duration = Duration::from_millis(20);

/// What the thread is sent.
pub(super) enum Order {
    /// The runtime's session is synchronized, or over.
    Connected(bool),
    /// Beat: sent by the session's thread, so that the heart stops if either thread does.
    Beat,
    /// This agent is about to end. The reply tells what it is needed for; there is none where another agent leads.
    Leave(oneshot::Sender<Needed>),
    /// Lead no more: the session is about to end, and the process. The channel is closed when that is done.
    GiveUp(oneshot::Sender<()>),
    /// Have no ports guarded any more: no other agent is there. The channel is closed when that is done.
    Unguard(oneshot::Sender<()>),
    /// Look for holders whose sandboxes do not exist, by a list of the runtime if there is one.
    Look(Option<Listed>),
    /// Have it answered.
    Event(Box<Job>),
}

/// Starts the thread. It ends when the other end of the channel or the worker does.
pub(super) fn start(
    store: Store,
    keeper: Keeper,
    worker: Sender<Task>,
    metrics: Metrics,
    follows: Arc<AtomicBool>,
) -> std::io::Result<Sender<Order>> {
    let (orders, received) = mpsc::channel();
    let run = move || {
        // The state directory is made by the first who needs it.
        if let Err(error) = store.waiting(RETRY).lock(&mut Silent) {
            tracing::warn!("cannot use the state directory: {}", in_one_line(&error));
        } else if let Err(error) = keeper.begin() {
            tracing::warn!("{}", in_one_line(&error));
        }
        Lead { keeper, worker, metrics, follows, failed: false, led: None }.run(&received);
    };
    thread::Builder::new().name("lead".to_owned()).spawn(run)?;
    Ok(orders)
}

struct Lead {
    keeper: Keeper,
    worker: Sender<Task>,
    metrics: Metrics,
    /// Whether another agent leads, for the thread that watches the table.
    follows: Arc<AtomicBool>,
    /// Whether the last beat failed.
    failed: bool,
    /// The role in which it leads, as far as the worker knows.
    led: Option<Role>,
}

impl Lead {
    fn run(mut self, orders: &Receiver<Order>) {
        for order in orders {
            let role = self.keeper.pulse().role();
            let sent = match order {
                Order::Connected(connected) => {
                    self.keeper.set_connected(connected);
                    Ok(())
                }
                Order::Beat => {
                    self.beat();
                    Ok(())
                }
                Order::Leave(reply) => self.leave(reply),
                Order::GiveUp(_done) => {
                    self.keeper.set_connected(false);
                    Ok(())
                }
                Order::Unguard(reply) => self.worker.send(Task::Unguard(reply)),
                Order::Look(listed) if self.keeper.leads() => {
                    self.worker.send(Task::Look(role, listed))
                }
                Order::Look(_) => Ok(()),
                Order::Event(job) => {
                    let duty = self.duty(&job);
                    let role = self.keeper.pulse().role();
                    self.worker.send(Task::Event(job, duty, role))
                }
            };
            let leads = self.keeper.leads();
            self.metrics.set_leader(leads);
            self.follows.store(self.keeper.follows(), Ordering::Relaxed);
            if sent.and_then(|()| self.tell(leads)).is_err() {
                return;
            }
        }
    }

    /// Tells the worker that this agent has the lead, or has it again.
    fn tell(&mut self, leads: bool) -> Result<(), SendError<Task>> {
        let led = leads.then(|| self.keeper.pulse().role());
        let before = std::mem::replace(&mut self.led, led);
        led.filter(|_| led != before).map_or(Ok(()), |role| self.worker.send(Task::Lead(role)))
    }

    /// Tells for what this agent is needed until it ends.
    fn leave(&mut self, reply: oneshot::Sender<Needed>) -> Result<(), SendError<Task>> {
        let departure = self.keeper.leave().unwrap_or_else(|error| {
            tracing::warn!("cannot look for other agents: {}", in_one_line(&error));
            Departure::Last
        });
        match departure {
            Departure::Free => {}
            Departure::HandsOver => drop(reply.send(Needed::Handover)),
            Departure::Last => self.worker.send(Task::Waits(reply))?,
        }
        Ok(())
    }

    fn beat(&mut self) {
        let beaten = self.keeper.beat();
        if let Err(error) = &beaten
            && !self.failed
        {
            tracing::warn!("no heartbeat: {}", in_one_line(error));
        }
        self.failed = beaten.is_err();
    }

    /// What this agent is to do about an event. Where it waits for the lead, so does the event. If the session has
    /// ended, the runtime does not ask this agent any more: it must not take the lead from one that is asked.
    fn duty(&mut self, job: &Job) -> Duty {
        loop {
            match self.keeper.standing() {
                Standing::Leads => return Duty::Answer,
                Standing::StandsBy => return Duty::Watch,
                Standing::Waits if !job.asks => return Duty::Watch,
                Standing::Waits if Instant::now() < job.until => {
                    thread::sleep(STEP);
                    if job.reply.is_closed() {
                        return Duty::Watch;
                    }
                    // It is not stopped: it waits.
                    self.beat();
                }
                Standing::Waits => {
                    return Duty::Reject(Rejection::new(
                        "lead",
                        "the standby agent of this node has not handed the lead over to this agent \
                         yet; kubelet repeats the request",
                    ));
                }
                Standing::Unknown(error) => {
                    let text = format!(
                        "cannot determine which agent of the node answers: {}; the state \
                         directory of autoport must be writable",
                        in_one_line(&error)
                    );
                    return Duty::Reject(Rejection::new("state_directory", text));
                }
            }
        }
    }
}
