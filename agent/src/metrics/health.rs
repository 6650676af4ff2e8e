//! Whether the agent is well: whether it runs, and whether it can answer the runtime.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The agent counts as dead when the thread that serves the runtime has not run for so long. It runs twice in
/// a second.
const DEAD: Duration = Duration::from_secs(10);

/// Shared by the threads.
#[derive(Debug)]
pub struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When the thread that serves the runtime ran last.
    ran: Instant,
    /// Why the agent cannot answer the runtime; `None` where it can.
    unready: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        let unready = Some("the agent has not connected to the runtime yet".to_owned());
        Self(Mutex::new(State { ran: Instant::now(), unready }))
    }
}

impl Health {
    /// The thread that serves the runtime runs.
    pub fn runs(&self) {
        self.state().ran = Instant::now();
    }

    /// The agent is connected to the runtime, and the runtime has told it what exists.
    pub fn set_ready(&self) {
        self.state().unready = None;
    }

    /// The agent cannot answer the runtime.
    pub fn set_unready(&self, reason: String) {
        self.state().unready = Some(reason);
    }

    /// # Errors
    /// Why the agent counts as dead.
    pub(super) fn alive(&self) -> Result<(), String> {
        let idle = self.state().ran.elapsed();
        if idle > DEAD {
            let seconds = idle.as_secs();
            return Err(format!("the thread that serves the runtime did not run for {seconds} s"));
        }
        Ok(())
    }

    /// # Errors
    /// Why the agent cannot answer the runtime.
    pub fn ready(&self) -> Result<(), String> {
        self.alive()?;
        self.state().unready.clone().map_or(Ok(()), Err)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_ready_while_it_is_connected_and_runs() {
        let health = Health::default();
        assert!(health.alive().is_ok() && health.ready().is_err());
        health.set_ready();
        assert_eq!(health.ready(), Ok(()));
        health.set_unready("closed".to_owned());
        assert_eq!(health.ready(), Err("closed".to_owned()));
        health.set_ready();
        health.state().ran = Instant::now().checked_sub(DEAD * 2).expect("the machine is older");
        assert!(health.alive().is_err() && health.ready().is_err());
        health.runs();
        assert_eq!(health.ready(), Ok(()));
    }
}
