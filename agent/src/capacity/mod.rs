//! How many host ports the node has for Pods, as resources that the scheduler and kubelet count: a device plugin of
//! kubelet. A device stands for one number, whichever; which number a Pod gets is decided when it starts.
//!
//! The devices are healthy while this agent leads and is synchronized with the runtime: where a container would
//! start without its variables, kubelet does not admit Pods that ask for the resource.

mod count;
mod offer;
mod protocol;
mod wanted;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

pub use self::count::count;
pub use self::offer::Sockets;
pub use self::wanted::Wanted;

use self::offer::Offer;

/// The resource of the range without a name; that of another range has its name after a hyphen.
pub const RESOURCE: &str = "autoport.cni/ports";

/// How often is looked whether something has changed: so long the node has no capacity after another agent has
/// taken the lead.
const LOOK: Duration = Duration::from_secs(1);

/// What there is to offer at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Whether this agent offers it, and not another one of the node.
    pub leads: bool,
    /// Whether containers get their variables.
    pub healthy: bool,
    /// How many numbers of each resource are there for Pods that ask for it.
    pub ports: BTreeMap<String, usize>,
}

/// Offers what `look` finds to the kubelet whose directory of device plugins this is, for ever. `agent` tells the
/// agents of a node apart.
///
/// # Errors
/// When the system has no thread left.
pub fn start(
    dir: PathBuf,
    agent: String,
    mut look: impl FnMut() -> Capacity + Send + 'static,
) -> io::Result<Sockets> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sockets = Sockets::default();
    let own = sockets.clone();
    let run = move || {
        runtime.block_on(async {
            let mut offers = BTreeMap::new();
            loop {
                tend(&dir, &agent, &own, &mut offers, look()).await;
                sleep(LOOK).await;
            }
        });
    };
    std::thread::Builder::new().name("capacity".to_owned()).spawn(run)?;
    Ok(sockets)
}

/// Brings the offers to what there is.
async fn tend(
    dir: &Path,
    agent: &str,
    sockets: &Sockets,
    offers: &mut BTreeMap<String, Offer>,
    Capacity { leads, healthy, ports }: Capacity,
) {
    offers.retain(|resource, _| leads && ports.contains_key(resource));
    for (resource, count) in ports.into_iter().filter(|_| leads) {
        let offer = offers.entry(resource).or_insert_with_key(|resource| {
            Offer::new(dir, resource.clone(), agent, sockets.clone())
        });
        offer.set(count, healthy);
        offer.tend().await;
    }
}

#[cfg(test)]
mod tests;
