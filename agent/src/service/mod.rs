//! The agent at work: one session with the runtime after the other, a beat, and a thread for what blocks.

mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use autoport::app;
use autoport::event::Silent;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::worker::{Duty, Job, Task};
use crate::config::Plugin;
use crate::keeper::{BEAT, Clock, Keeper, Pulse, Standing};
use crate::nri::{Answer, Asked, Event, Failure, Identity, RETRY, Session};

/// How often holders whose pods do not exist are looked for.
const LOOK: Duration = Duration::from_secs(30);

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    pub socket: PathBuf,
    pub identity: Identity,
    /// Whether this agent gets the lead back from one that is not preferred.
    pub preferred: bool,
    pub plugin: Plugin,
}

/// The agent.
pub struct Service {
    settings: Settings,
    clock: Clock,
    pulse: Pulse,
    keeper: Arc<Mutex<Keeper>>,
    worker: mpsc::Sender<Task>,
}

impl Service {
    /// Starts the thread that uses the store.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        let store = app::store(&settings.plugin.store());
        // The state directory is made by the first who needs it.
        if let Err(error) = store.clone().waiting(RETRY).lock(&mut Silent) {
            tracing::warn!("cannot use the state directory: {error}");
        }
        let clock = Clock::of_node();
        let keeper = Keeper::new(store.dir(), settings.preferred, clock.clone());
        let pulse = keeper.pulse();
        let plugin = settings.plugin.clone();
        let worker = worker::start(store, plugin, clock.clone(), pulse.clone())?;
        Ok(Self { settings, clock, pulse, keeper: Arc::new(Mutex::new(keeper)), worker })
    }

    /// Serves the runtime for ever: when a session is over, it begins another.
    pub async fn run(&self) {
        let mut told = String::new();
        let beats = tokio::spawn(beat(Arc::clone(&self.keeper), self.worker.clone()));
        loop {
            let over = self.session().await;
            self.keeper().set_connected(false);
            // The same failure, ten times in a second, is one line.
            let reason = autoport::error::in_one_line(&over);
            if reason != told {
                tracing::warn!(
                    socket = %self.settings.socket.display(),
                    "not connected to the runtime: {reason}; trying again every {} ms",
                    RETRY.as_millis()
                );
                told = reason;
            }
            if beats.is_finished() {
                return;
            }
            sleep(RETRY).await;
        }
    }

    /// One session, until it is over.
    async fn session(&self) -> crate::nri::Error {
        let opened = Session::open(&self.settings.socket, &self.settings.identity).await;
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return error,
        };
        loop {
            let asked = match session.next().await {
                Ok(asked) => asked,
                Err(error) => return error,
            };
            if matches!(asked.event, Event::Synchronized { .. }) {
                let (name, version) = session.runtime();
                tracing::info!(runtime = name, version, "connected");
                self.keeper().set_connected(true);
            }
            let answer = self.answer(&asked).await;
            if let Err(failure) = &answer {
                tracing::warn!("rejected: {failure}");
            }
            if let Err(error) = session.answer(&asked, answer).await {
                return error;
            }
            self.keeper().hand_over();
        }
    }

    async fn answer(&self, asked: &Asked) -> Result<Answer, Failure> {
        let standing = self.keeper().standing();
        let duty = match standing {
            Standing::Leads => Duty::Answer,
            Standing::StandsBy => Duty::Watch,
            Standing::Unknown(error) => Duty::Reject(format!(
                "the node's agents cannot agree which of them answers: {}; the state directory of \
                 autoport must be writable",
                autoport::error::in_one_line(&error)
            )),
        };
        let (reply, replied) = oneshot::channel();
        let (role, limit) = (self.pulse.role(), asked.limit);
        let leads = duty == Duty::Answer;
        let job = Job { event: asked.event.clone(), duty, limit, role, reply };
        let late = Failure::Late { limit_ms: limit.as_millis() };
        if self.worker.send(Task::Event(Box::new(job))).is_err() {
            return Err(Failure::Refused("the agent's thread has ended".to_owned()));
        }
        let answer = timeout(limit, replied).await.map_err(|_| late.clone())?.map_err(|_| late)?;
        if leads && !self.pulse.has_still(role, self.clock.now()) && answer != Ok(Answer::Done) {
            let lost = "this agent was stopped for a moment, so that another may have answered";
            return Err(Failure::Refused(lost.to_owned()));
        }
        answer
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        lock(&self.keeper)
    }
}

/// A thread that panicked has left nothing half done: each step of the keeper is one file.
fn lock(keeper: &Mutex<Keeper>) -> MutexGuard<'_, Keeper> {
    keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Beats, also while an event is answered, and has the worker look now and then.
async fn beat(keeper: Arc<Mutex<Keeper>>, worker: mpsc::Sender<Task>) {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let every = LOOK.as_millis() / BEAT.as_millis();
    let (mut count, mut failed) = (0, false);
    loop {
        beats.tick().await;
        let (beaten, leads) = {
            let mut keeper = lock(&keeper);
            (keeper.beat(), keeper.leads())
        };
        if let Err(error) = &beaten
            && !failed
        {
            tracing::warn!("no heartbeat: {}", autoport::error::in_one_line(error));
        }
        failed = beaten.is_err();
        count += 1;
        if count % every == 0 && leads && worker.send(Task::Look).is_err() {
            return;
        }
    }
}
