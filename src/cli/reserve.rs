//! `autoport reserve` and `autoport release`.

use std::io;

use autoport::app;
use autoport::model::HostPort;
use autoport::plan::Spot;
use autoport::store::{Reservation, Store};
use serde::Serialize;

use super::output::{Answer, Screen};
use super::{Failure, arguments, now};

/// A reservation that was made or ended.
#[derive(Serialize)]
pub(super) struct Changed {
    name: String,
    hosts: Vec<HostPort>,
}

impl Answer for Changed {
    /// Who reads this asked for just that.
    fn text(&self, _: &mut Screen<'_>) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn reserve(asked: &arguments::Reserve, store: &Store) -> Result<Changed, Failure> {
    let reservation = Reservation {
        name: asked.name.clone(),
        hosts: asked.ports.iter().flat_map(Spot::hosts).collect(),
        created: now(),
        persistent: asked.persist,
    };
    app::reserve(store, &reservation, &mut crate::Stderr)?;
    Ok(Changed { name: reservation.name, hosts: reservation.hosts })
}

pub(super) fn release(name: &str, store: &Store) -> Result<Changed, Failure> {
    let freed = app::unreserve(store, name, &mut crate::Stderr)?;
    let none =
        || format!("there is no reservation {name}; `autoport list` shows the existing ones");
    let freed = freed.ok_or_else(|| Failure::Asked(none()))?;
    Ok(Changed { name: name.to_owned(), hosts: freed })
}
