//! The port guard, where the configuration asks for it (`guardRange`).

use std::num::NonZeroU16;

use autoport::app;
use autoport::cni::Config;
use autoport::error::in_one_line;
use autoport::model::PortPolicy;
use autoport::store::{Guarded, Reservation};

use crate::hook::{Guard, Run};
use crate::hostnet::Call;
use crate::nri::Rejection;

/// Has it attached and removed.
pub(super) struct Guarding {
    /// Or why this node cannot have it.
    guard: Result<Guard, String>,
    /// What was logged last.
    told: Option<Result<Vec<String>, String>>,
}

/// Which ports are to be guarded; `None` for none.
pub(super) type Asked = Option<PortPolicy>;

/// What the configuration asks for.
pub(super) fn asked(config: &Config) -> Asked {
    config.guard_range.then(|| config.ports.clone())
}

impl Guarding {
    pub(super) const fn new(guard: Result<Guard, String>) -> Self {
        Self { guard, told: None }
    }

    /// Updates the guard for a holder that has just been assigned its ports.
    ///
    /// # Errors
    /// Why it must not run: the guard may refuse its ports to it, or grant them to others.
    pub(super) fn let_through(
        &mut self,
        asked: Asked,
        call: &mut Call<'_>,
    ) -> Result<(), Rejection> {
        let set = self.set(asked, call);
        set.map_or(Ok(()), |set| set.map(drop)).map_err(|reason| {
            let text = format!(
                "cannot attach the port guard, which guardRange of the node's configuration asks for: {reason}"
            );
            Rejection::new("guard", text)
        })
    }

    /// Has the ports refused to all but their holders, or to nobody, and says what has become of that.
    pub(super) fn renew(&mut self, asked: Asked, call: &mut Call<'_>) {
        let guarded = self.set(asked, call).map(Guarded::new).transpose();
        let written = guarded.and_then(|guarded| {
            if call.store.guarded() == guarded {
                return Ok(());
            }
            call.store.lock(call.log)?.write_guarded(guarded.as_ref())
        });
        if let Err(error) = written {
            tracing::debug!("cannot write agent.guard: {}", in_one_line(&error));
        }
    }

    /// The cgroups in which they are refused; `None` where nothing is asked for.
    fn set(&mut self, asked: Asked, call: &mut Call<'_>) -> Option<Result<Vec<String>, String>> {
        let Some(ports) = asked else {
            self.remove();
            return None;
        };
        let listing = app::list(call.store, call.log).map_err(|error| error.in_one_line());
        let set = self.guard.as_mut().map_err(|reason| reason.clone()).and_then(|guard| {
            let listing = listing?.unwrap_or_default();
            let cgroups = guard.set(runs(&ports, &listing.reservations), &listing.attachments);
            cgroups.map_err(|error| in_one_line(&error))
        });
        let set = set.map(|all| all.iter().map(|path| path.display().to_string()).collect());
        if self.told.as_ref() != Some(&set) {
            match &set {
                Ok(cgroups) => tracing::info!(?cgroups, "the port guard is in force"),
                Err(reason) => tracing::warn!("without the port guard (guardRange): {reason}"),
            }
            self.told = Some(set.clone());
        }
        Some(set)
    }

    /// Has nothing refused any more.
    fn remove(&mut self) {
        self.told = None;
        let Ok(guard) = &mut self.guard else { return };
        match guard.remove() {
            Ok(true) => tracing::info!("the port guard is removed"),
            Ok(false) => {}
            Err(error) => tracing::warn!("cannot remove the port guard: {}", in_one_line(&error)),
        }
    }
}

/// The ports that the node may choose, without those that are reserved: a daemon of the node may bind them, which may
/// be in a pod.
fn runs(ports: &PortPolicy, reserved: &[Reservation]) -> Vec<Run> {
    let named = ports.named_ranges.values().flat_map(|range| &range.ports);
    let reserved: Vec<_> =
        reserved.iter().flat_map(|one| &one.hosts).map(|host| host.port).collect();
    let all = ports.ranges.iter().chain(named);
    let mut numbers: Vec<u16> =
        all.flat_map(|range| range.first.get()..=range.last.get()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        let port = NonZeroU16::new(number);
        if !port.is_some_and(|port| ports.permits(port) && !reserved.contains(&port)) {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.first + last.count == number => last.count += 1,
            _ => runs.push(Run { first: number, count: 1 }),
        }
    }
    runs
}
