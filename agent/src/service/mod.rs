//! The agent at work: one session with the runtime after the other, a thread that decides who answers, one
//! that uses store and kernel for the events, and some that no event waits for. The session's thread itself
//! touches no disk, so that no disk keeps an event beyond its deadline.

mod bind;
mod capacity;
mod declared;
mod desk;
mod discover;
mod gates;
mod guarded;
mod injected;
mod journal;
mod known;
mod lead;
mod ports;
mod publish;
mod sockets;
mod startup;
mod table;
mod task;
mod traced;
mod uninjected;
mod usage;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use autoport::app;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::bind::Binder;
use self::lead::Order;
use self::startup::Startup;
use self::task::{Job, Needed, Reply};
use crate::capacity::{Sockets, Wanted};
use crate::cluster::{self, Cluster};
use crate::config::Plugin;
use crate::hostnet::Listed;
use crate::inject;
use crate::keeper::{BEAT, Clock, Keeper, Pulse};
use crate::metrics::{self, Doors, Health, Metrics, Outcome};
use crate::nri::{Answer, Asked, Event, Failure, Identity, RETRY, Rejection, Session};

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    pub socket: PathBuf,
    pub identity: Identity,
    /// Whether this agent gets the lead back from one that is not preferred.
    pub preferred: bool,
    pub plugin: Plugin,
    /// Where its metrics are served.
    pub doors: Doors,
    /// Where the specs of Pods come from.
    pub cluster: Option<Cluster>,
    /// Where kubelet has the sockets of its device plugins, if it is to count host ports.
    pub device_plugins: Option<PathBuf>,
    /// How many `EndpointSlices` it makes at most for Pods that ask for them; `None`: it makes none.
    pub endpoint_slices: Option<usize>,
    /// Whether it removes [`STARTUP_TAINT`](crate::cluster::STARTUP_TAINT) when both agents serve the runtime.
    pub untaints: bool,
}

/// The agent.
pub struct Service {
    settings: Settings,
    clock: Clock,
    pulse: Pulse,
    orders: mpsc::Sender<Order>,
    needs_list: Arc<AtomicBool>,
    metrics: Metrics,
    health: Arc<Health>,
    /// Of the device plugin.
    sockets: Option<Sockets>,
    /// Held from an event to its answer.
    answering: tokio::sync::Mutex<()>,
}

/// How long an agent that is to end goes on at most while no other is connected. Less than
/// `terminationGracePeriodSeconds` of `deploy/kubernetes`.
const GRACE: Duration = Duration::from_secs(5);

/// It goes on at least for so long: an ADD that has found it connected records what its sandbox holds meanwhile.
const QUIET: Duration = Duration::from_secs(1);

/// How long it waits for what is done at its end.
const LAST_WORK: Duration = Duration::from_secs(1);

/// How often it looks whether it is still needed.
const LEAVE_STEP: Duration = Duration::from_millis(100);

/// How often holders whose sandboxes do not exist are looked for.
const LOOK: Duration = Duration::from_secs(30);

/// Every 20th look asks the runtime for its list: it may not have told of the end of a sandbox whose DEL was
/// lost.
const LISTED_LOOK: u32 = 20;

/// How long the runtime may take for its list.
const LIST_LIMIT: Duration = Duration::from_secs(2);

type Answered = Result<Answer, Failure>;

/// Why a session is over.
enum Over {
    Session(crate::nri::Error),
    /// One of the threads has ended.
    Thread,
}

impl From<crate::nri::Error> for Over {
    fn from(error: crate::nri::Error) -> Self {
        Self::Session(error)
    }
}

impl From<mpsc::SendError<Order>> for Over {
    fn from(_: mpsc::SendError<Order>) -> Self {
        Self::Thread
    }
}

impl Service {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(mut settings: Settings) -> std::io::Result<Self> {
        let store = app::store(&settings.plugin.store());
        let clock = Clock::of_node();
        let (metrics, health) = (Metrics::default(), Arc::new(Health::default()));
        metrics::start(settings.doors.clone(), metrics.clone(), health.clone())?;
        let follows = Arc::<AtomicBool>::default();
        table::start(store.clone(), settings.preferred, metrics.clone(), follows.clone())?;
        journal::start(store.clone(), metrics.clone())?;
        let (warnings, waiting) = cluster::warnings();
        let binder = Binder::new(warnings.clone());
        let keeper = Keeper::new(store.dir(), settings.preferred, clock.clone());
        let keeper = keeper.with_bind_hook(binder.told());
        let pulse = keeper.pulse();
        let plugin = settings.plugin.clone();
        let needs_list = Arc::new(AtomicBool::new(true));
        let (beats, lists) = (pulse.clone(), needs_list.clone());
        let checks = sockets::start(metrics.clone(), warnings.clone())?;
        let worker = worker::start(
            store.clone(),
            plugin,
            clock.clone(),
            beats,
            lists,
            metrics.clone(),
            (checks, warnings.clone(), binder),
        )?;
        let orders = lead::start(store.clone(), keeper, worker, metrics.clone(), follows)?;
        let mut sockets = None;
        if let Some(cluster) = settings.cluster.take() {
            let (plugin, health) = (settings.plugin.clone(), health.clone());
            let (dir, clock) = (store.dir().to_owned(), clock.clone());
            let wanted = Arc::<Mutex<Wanted>>::default();
            if let Some(dir) = settings.device_plugins.take() {
                let (store, metrics, wanted) = (store.clone(), metrics.clone(), wanted.clone());
                let (plugin, health) = (plugin.clone(), health.clone());
                let (ready, counted) = (None, None);
                let mut look =
                    capacity::Look { store, plugin, metrics, health, wanted, ready, counted };
                let agent = settings.identity.index().to_string();
                sockets = Some(crate::capacity::start(dir, agent, move || look.capacity())?);
            }
            let startup = Startup { dir, clock, plugin, health };
            let startup = Some(startup).filter(|_| settings.untaints);
            let slices = settings.endpoint_slices.map(|most| (most, warnings));
            declared::start(store, cluster, metrics.clone(), wanted, waiting, (startup, slices))?;
        }
        let answering = tokio::sync::Mutex::default();
        Ok(Self { settings, clock, pulse, orders, needs_list, metrics, health, sockets, answering })
    }

    /// Serves the runtime until a thread ends: when a session is over, it begins another.
    pub async fn run(&self) {
        let mut told = String::new();
        tokio::spawn(beat(self.orders.clone(), self.health.clone()));
        let Settings { socket, identity, .. } = self.settings.clone();
        tokio::spawn(look(
            socket,
            identity.listing(),
            self.orders.clone(),
            self.needs_list.clone(),
        ));
        loop {
            let Err(over) = self.session().await;
            // Before the thread gets to it, which may wait for a disk.
            self.pulse.lose();
            let closed = self.orders.send(Order::Connected(false));
            let (Over::Session(error), Ok(())) = (over, closed) else { return };
            // The same failure, ten times in a second, is one line.
            let reason = autoport::error::in_one_line(&error);
            self.metrics.set_connected(false);
            self.health.set_unready(format!("not connected to the runtime: {reason}"));
            if reason != told {
                tracing::warn!(
                    socket = %self.settings.socket.display(),
                    "not connected to the runtime: {reason}; retrying every {} ms",
                    RETRY.as_millis()
                );
                told = reason;
            }
            sleep(RETRY).await;
        }
    }

    /// Goes on, beside [`Service::run`], until another agent leads. If none is connected, it goes on while sandboxes
    /// wait for their containers: these would be created without their variables.
    pub async fn leave(&self) {
        let begun = Instant::now();
        // No Pods are to come that kubelet would admit because of this agent.
        self.health.set_unready("the agent was asked to stop".to_owned());
        let mut needed = Needed::No;
        while let Some(left) = GRACE.checked_sub(begun.elapsed()) {
            // A disk that hangs gives no reply.
            let Ok(Some(by)) = timeout(left, self.needed()).await else { return };
            if by == Needed::No && begun.elapsed() > QUIET {
                return self.done(Order::Unguard).await;
            }
            needed = by;
            sleep(LEAVE_STEP).await;
        }
        if needed == Needed::Handover {
            tracing::warn!(
                "the other agent of this node has not taken the lead: containers that are created before it \
                 answers have no variables"
            );
            return;
        }
        tracing::warn!(
            "no other agent is connected: containers that are created before one is connected have no variables"
        );
        // New holders would not be let through on a node that has no agent any more.
        self.done(Order::Unguard).await;
    }

    /// For what this agent is needed; `None` if it can end.
    async fn needed(&self) -> Option<Needed> {
        // The answer to an event that is in work must not come after the lead was given up.
        let _idle = self.answering.lock().await;
        let (reply, needed) = oneshot::channel();
        self.orders.send(Order::Leave(reply)).ok()?;
        needed.await.ok()
    }

    /// Gives the lead up, before the session ends by the end of [`Service::run`]. The lock would be free only after
    /// that, and another agent would let an event in between pass.
    pub async fn give_up(&self) {
        self.done(Order::GiveUp).await;
    }

    /// Waits for the end of what is ordered, but not longer than [`LAST_WORK`].
    async fn done(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (reply, done) = oneshot::channel();
        if self.orders.send(order(reply)).is_ok() {
            let _ = timeout(LAST_WORK, done).await;
        }
    }

    /// One session, until it is over.
    async fn session(&self) -> Result<std::convert::Infallible, Over> {
        let Settings { socket, identity, .. } = &self.settings;
        let mut session = Session::open(socket, identity).await?;
        loop {
            let asked = session.next().await?;
            let (begun, method) = (Instant::now(), asked.event.name());
            let is_first = matches!(asked.event, Event::Synchronized { .. });
            if is_first {
                let (name, version) = session.runtime();
                tracing::info!(runtime = name, version, "connected");
                self.orders.send(Order::Connected(true))?;
            }
            let stream = asked.stream;
            let answering = self.answering.lock().await;
            let answered = tokio::select! {
                answered = self.answer(asked) => answered,
                error = session.over() => return Err(error.into()),
            };
            let is_over = answered.is_err();
            let (Ok(answer) | Err(answer)) = answered;
            if let Err(failure) = &answer {
                tracing::warn!("rejected: {failure}");
            }
            let outcome = match &answer {
                Ok(_) => Outcome::Answered,
                Err(Failure::Refused(rejection)) => Outcome::Rejected(rejection.kind),
                Err(Failure::Late { .. }) => Outcome::Rejected("late"),
            };
            session.answer(stream, answer).await?;
            drop(answering);
            self.metrics.request(method, outcome, begun.elapsed());
            if is_first {
                self.metrics.set_connected(true);
                self.health.set_ready();
            }
            if is_over {
                return Err(Over::Thread);
            }
        }
    }

    /// The answer, at the latest when it is due; as an error if it is the last, because a thread has ended. A
    /// pod that asks for no host ports is never rejected.
    async fn answer(&self, asked: Asked) -> Result<Answered, Answered> {
        let Asked { event, limit, .. } = asked;
        let asks = match &event {
            Event::RunPodSandbox(pod) | Event::CreateContainer { pod, .. } => inject::asks(pod),
            Event::Synchronized { .. }
            | Event::StopPodSandbox(_)
            | Event::RemovePodSandbox(_)
            | Event::ContainerEnded { .. } => false,
        };
        let without = |failure| if asks { Err(failure) } else { Ok(Answer::Done) };
        let ended = || {
            let ended = "a thread of autoport-agent has ended; kubelet repeats the request";
            without(Failure::Refused(Rejection::new("agent", ended)))
        };
        let (reply, replied) = oneshot::channel();
        // A quarter is left for what cannot be interrupted.
        let until = Instant::now() + limit / 4 * 3;
        let is_awaited = !matches!(event, Event::ContainerEnded { .. });
        let job = Job { event, asks, until, reply };
        self.orders.send(Order::Event(Box::new(job))).map_err(|_| ended())?;
        if !is_awaited {
            return Ok(Ok(Answer::Done));
        }
        let Ok(replied) = timeout(limit, replied).await else {
            return Ok(without(Failure::Late { limit_ms: limit.as_millis() }));
        };
        let Reply { answer, led } = replied.map_err(|_| ended())?;
        let is_lost = led.is_some_and(|role| !self.pulse.has_still(role, self.clock.now()));
        if is_lost && asks && answer != Ok(Answer::Done) {
            let lost = "this agent was stopped for a moment, so that another may have answered; \
                        kubelet repeats the request";
            return Ok(Err(Failure::Refused(Rejection::new("lead", lost))));
        }
        Ok(answer)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.sockets.iter().for_each(Sockets::delete);
    }
}

/// Has the heart beat as long as this thread runs.
async fn beat(orders: mpsc::Sender<Order>, health: Arc<Health>) {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while orders.send(Order::Beat).is_ok() {
        health.runs();
        beats.tick().await;
    }
}

/// Has holders whose sandboxes do not exist looked for. A list of the runtime is asked for where its events do not
/// tell which sandboxes it has.
async fn look(
    socket: PathBuf,
    identity: Identity,
    orders: mpsc::Sender<Order>,
    needs_list: Arc<AtomicBool>,
) {
    for number in 1_u32.. {
        sleep(LOOK).await;
        let asked = Instant::now();
        let mut listed = None;
        if needs_list.load(Ordering::Relaxed) || number.is_multiple_of(LISTED_LOOK) {
            match timeout(LIST_LIMIT, Session::list(&socket, &identity)).await {
                Ok(Ok(pods)) => {
                    let list = pods.into_iter().map(|pod| (pod.uid, pod.id)).collect();
                    listed = Some(Listed { list, asked });
                }
                Ok(Err(error)) => {
                    let reason = autoport::error::in_one_line(&error);
                    tracing::warn!("cannot list the runtime's sandboxes: {reason}");
                }
                Err(_) => tracing::warn!("the runtime does not list its sandboxes"),
            }
        }
        if orders.send(Order::Look(listed)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nri::message::Pod;

    #[test]
    fn without_its_threads_an_agent_rejects_pods_that_ask_and_ends() {
        let (orders, _) = mpsc::channel();
        let clock = Clock::of_node();
        let pulse = Keeper::new("/nowhere".as_ref(), true, clock.clone()).pulse();
        let identity = Identity::new("autoport", 50).expect("an index");
        let plugin = Plugin::new("/nowhere".into());
        let (socket, doors) = ("/nowhere".into(), Doors::default());
        let settings = Settings {
            socket,
            identity,
            preferred: true,
            plugin,
            doors,
            cluster: None,
            device_plugins: None,
            endpoint_slices: None,
            untaints: false,
        };
        let (needs_list, health) = (Arc::default(), Arc::default());
        let metrics = Metrics::default();
        let (sockets, answering) = (None, tokio::sync::Mutex::default());
        let service = Service {
            settings,
            clock,
            pulse,
            orders,
            needs_list,
            metrics,
            health,
            sockets,
            answering,
        };
        let answer = |annotations: &[(&str, &str)]| {
            let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let annotations = annotations.iter().map(own).collect();
            let event = Event::RunPodSandbox(Pod { annotations, ..Pod::default() });
            let asked = Asked { event, limit: RETRY, stream: 1 };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime of tokio").block_on(service.answer(asked))
        };
        assert_eq!(answer(&[]), Err(Ok(Answer::Done)));
        let refused = answer(&[("autoport.cni/ports", "http=auto")]);
        assert!(matches!(refused, Err(Err(Failure::Refused(_)))), "{refused:?}");
    }
}
