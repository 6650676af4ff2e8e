//! What the agent counts, whether it is well, and how both are asked for.

mod address;
mod counted;
mod health;
mod probe;
mod server;

use std::path::PathBuf;

pub use self::address::{Address, NoAddress};
pub use self::counted::{Allocation, Metrics, Outcome, Repair, Usage, Write};
pub use self::health::Health;
pub use self::probe::{Probe, ask};
pub use self::server::start;

/// Where the agent is asked; nowhere by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    pub address: Option<Address>,
    /// A socket that only root can open.
    pub socket: Option<PathBuf>,
}
