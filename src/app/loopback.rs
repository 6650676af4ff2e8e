//! Reaching a pod from 127.0.0.0/8: which interface lets it in, and the guard that keeps everybody else
//! from using that (CVE-2020-8558).
//!
//! The order is: note the interface in the store, guard it in the table, switch `route_localnet` on. So
//! an interface is never open without the guard, and a table that is built again guards all of them.

use crate::error::Error;
use crate::kernel::{self, Change};
use crate::model::{Ask, Masquerade, Policy, Record, check_ifname};
use crate::ruleset::Interface;
use crate::store::{Inlet, Locked, Shared};

/// The interface towards a pod, and what it needs.
pub(super) struct Opening {
    inlet: Inlet,
    is_noted: bool,
    is_open: bool,
}

/// Whether processes of this node reach pods by 127.0.0.0/8: only where the packets are masqueraded.
pub(super) const fn is_let_in(policy: &Policy) -> bool {
    match policy.masquerade {
        Masquerade::Nobody => false,
        Masquerade::Local | Masquerade::Everybody => true,
    }
}

/// The interface by which `record`'s pod is to be reached from 127.0.0.0/8; `None` where it is not.
///
/// `found` is the interface towards the pod. Where it was not looked up, it is only if none that an earlier
/// plugin made is noted already.
pub(super) fn towards(
    shared: Option<&Shared>,
    record: &Record,
    ask: &Ask,
    found: Option<&str>,
) -> Result<Option<Opening>, Error> {
    let (hints, except) = (&ask.host_interfaces, &ask.guard_except);
    let mut pods = record.mappings.iter().filter_map(|mapping| mapping.target).map(|t| t.ip());
    let Some(pod) = pods.find(std::net::IpAddr::is_ipv4).filter(|_| is_let_in(&ask.policy)) else {
        return Ok(None);
    };
    let noted = |interface: &str| shared.map_or(Ok(None), |shared| shared.inlet(interface));
    let guarded = |interface: &String| !except.contains(interface);
    for interface in hints.iter().filter(|hint| check_ifname(hint).is_ok()) {
        let known = noted(interface)?.filter(|inlet| inlet.guarded == guarded(interface));
        if let Some(inlet) = known.filter(|_| kernel::allows_loopback(interface)) {
            return Ok(Some(Opening { inlet, is_noted: true, is_open: true }));
        }
    }
    let found = match found {
        Some(found) => Some(found.to_owned()),
        None => kernel::interface_towards(pod)?,
    };
    let Some(interface) = found else { return Ok(None) };
    let (noted, is_open) = (noted(&interface)?, kernel::allows_loopback(&interface));
    let switched_on = noted.as_ref().map_or(!is_open, |noted| noted.switched_on);
    let inlet = Inlet { switched_on, guarded: guarded(&interface), interface };
    let is_noted = noted.as_ref() == Some(&inlet);
    Ok(Some(Opening { inlet, is_noted, is_open }))
}

/// Those of `interfaces` that have to be guarded.
pub(super) fn guarded(shared: &Shared, interfaces: &[String]) -> Result<Vec<String>, Error> {
    let mut guarded = Vec::new();
    for interface in interfaces.iter().filter(|interface| check_ifname(interface).is_ok()) {
        guarded.extend(shared.inlet(interface)?.filter(|inlet| inlet.guarded));
    }
    Ok(guarded.into_iter().map(|inlet| inlet.interface).collect())
}

impl Opening {
    /// The interface whose `route_localnet` has to be switched on.
    pub(super) fn switched_on(&self) -> Option<&str> {
        (!self.is_open).then_some(self.inlet.interface.as_str())
    }

    /// Notes the interface, if it is not noted yet, and adds to `change` what the guard needs.
    pub(super) fn note(&self, locked: &Locked, change: &mut Change) -> Result<(), Error> {
        self.guard(change);
        if !self.is_noted {
            for vanished in locked.note_loopback(&self.inlet)? {
                change.released.extend(Interface::named(&vanished).map(Interface::place));
            }
        }
        Ok(())
    }

    /// The interface, where it is guarded.
    pub(super) fn guarded(&self) -> Option<&str> {
        self.inlet.guarded.then_some(self.inlet.interface.as_str())
    }

    /// Adds to `change` what the guard needs.
    pub(super) fn guard(&self, change: &mut Change) {
        let Some(interface) = Interface::named(&self.inlet.interface) else { return };
        if self.inlet.guarded {
            change.wanted.insert(interface.place(), interface.guarded());
        } else {
            change.released.insert(interface.place());
        }
    }

    /// Lets 127.0.0.0/8 in; the guard must be in force.
    pub(super) fn open(&self) -> Result<(), Error> {
        Ok(self.switched_on().map_or(Ok(()), kernel::allow_loopback)?)
    }
}
