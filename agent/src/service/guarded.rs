//! The port guard, where the configuration asks for it (`guardRange`).

use std::num::NonZeroU16;
use std::path::PathBuf;

use autoport::app;
use autoport::cni::Config;
use autoport::error::in_one_line;
use autoport::model::{PortPolicy, Record};
use autoport::store::{Guarded, Reservation};

use super::task::Limits;
use crate::hook::{Guard, Run};
use crate::hostnet::Call;
use crate::keeper::Role;
use crate::nri::Rejection;
use crate::nri::message::Pod;

/// Has it attached and removed.
pub(super) struct Guarding {
    /// Or why this node cannot have it.
    guard: Result<Guard, String>,
    /// In which role all holders were read, and what for. Until either changes, a holder is added.
    read: Option<(Role, PortPolicy)>,
    /// What was logged last.
    told: Option<Outcome>,
}

/// Which ports are to be guarded; `None` for none.
pub(super) type Asked = Option<PortPolicy>;

/// The cgroups in which they are refused, or why they are not.
type Outcome = Result<Vec<String>, String>;

/// What the configuration asks for.
pub(super) fn asked(config: &Config) -> Asked {
    config.guard_range.then(|| config.ports.clone())
}

impl Guarding {
    pub(super) const fn new(guard: Result<Guard, String>) -> Self {
        Self { guard, read: None, told: None }
    }

    /// Learns of pods that the runtime has. They may hold ports already, unless this is the first event of a sandbox.
    pub(super) fn learn<'a>(&mut self, pods: impl IntoIterator<Item = &'a Pod>, is_first: bool) {
        let Ok(guard) = &mut self.guard else { return };
        for pod in pods {
            let cgroup = pod.linux.as_ref().map_or("", |linux| &linux.cgroup_parent);
            if guard.learn(cgroup, &pod.uid) && !is_first {
                self.read = None;
            }
        }
    }

    /// Updates the guard for a holder that has just been assigned its ports. It takes no longer with many others: they
    /// are not read again.
    ///
    /// # Errors
    /// Why it must not run: the guard may refuse its ports to it, or grant them to others.
    pub(super) fn let_through(
        &mut self,
        asked: Asked,
        holder: &Record,
        limits: &Limits<'_>,
        call: &mut Call<'_>,
    ) -> Result<(), Rejection> {
        let Some(ports) = asked.filter(|_| (limits.leads)()) else { return Ok(()) };
        let role = limits.role;
        let outcome = match &mut self.guard {
            Ok(guard) if self.read.as_ref() == Some(&(role, ports.clone())) => {
                guard.add(holder).map(|all| shown(&all)).map_err(|error| in_one_line(&error))
            }
            _ => self.read_all(ports, role, call),
        };
        if outcome.is_err() {
            self.withdraw(holder.owner.uid().unwrap_or_default());
        }
        if self.tell(&outcome) {
            write(Some(&outcome), call);
        }
        outcome.map(drop).map_err(|reason| {
            let text = format!(
                "cannot attach the port guard, which guardRange of the node's configuration asks for: {reason}"
            );
            Rejection::new("guard", text)
        })
    }

    /// Notes that the pod with this UID has released its ports. They are refused to it with the next change.
    pub(super) fn withdraw(&mut self, uid: &str) {
        if let Ok(guard) = &mut self.guard {
            guard.withdraw(uid);
        }
    }

    /// Has the ports refused to all but their holders, or to nobody, and writes what has become of that.
    pub(super) fn renew(&mut self, asked: Asked, role: Role, call: &mut Call<'_>) {
        let Some(ports) = asked else {
            self.remove();
            return write(None, call);
        };
        let outcome = self.read_all(ports, role, call);
        self.tell(&outcome);
        write(Some(&outcome), call);
    }

    /// Has the ports refused to all but the holders that are recorded.
    fn read_all(&mut self, ports: PortPolicy, role: Role, call: &mut Call<'_>) -> Outcome {
        self.read = None;
        let guard = self.guard.as_mut().map_err(|reason| reason.clone())?;
        let listing = app::list(call.store, call.log).map_err(|error| error.in_one_line())?;
        let listing = listing.unwrap_or_default();
        let set = guard.set(runs(&ports, &listing.reservations), &listing.attachments);
        self.read = set.is_ok().then_some((role, ports));
        set.map(|all| shown(&all)).map_err(|error| in_one_line(&error))
    }

    /// Logs what has changed; gives whether it has.
    fn tell(&mut self, outcome: &Outcome) -> bool {
        if self.told.as_ref() == Some(outcome) {
            return false;
        }
        match outcome {
            Ok(cgroups) if cgroups.is_empty() => {
                tracing::info!("the port guard is attached with the first Pod");
            }
            Ok(cgroups) => tracing::info!(?cgroups, "the port guard is in force"),
            Err(reason) => tracing::warn!("without the port guard (guardRange): {reason}"),
        }
        self.told = Some(outcome.clone());
        true
    }

    /// Has nothing refused any more.
    fn remove(&mut self) {
        (self.read, self.told) = (None, None);
        let Ok(guard) = &mut self.guard else { return };
        match guard.remove() {
            Ok(true) => tracing::info!("the port guard is removed"),
            Ok(false) => {}
            Err(error) => tracing::warn!("cannot remove the port guard: {}", in_one_line(&error)),
        }
    }
}

fn shown(cgroups: &[PathBuf]) -> Vec<String> {
    cgroups.iter().map(|path| path.display().to_string()).collect()
}

/// Writes it for `autoport doctor`, unless that is what is written.
fn write(outcome: Option<&Outcome>, call: &mut Call<'_>) {
    let guarded = outcome.cloned().map(Guarded::new).transpose();
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
