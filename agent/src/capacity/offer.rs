//! One resource that is offered to kubelet: a socket, on which it is served, and a registration.

#![expect(clippy::disallowed_methods, reason = "the sockets of kubelet and of its device plugins")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::protocol::{Count, DevicePlugin, KUBELET, Listing, register};

/// The pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How long kubelet may take to answer, before which it connects to the socket, and then to ask for the list.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) struct Offer {
    dir: PathBuf,
    resource: String,
    /// The file name of the socket.
    endpoint: String,
    count: watch::Sender<Count>,
    sockets: Sockets,
    served: Option<Served>,
    /// What failed last, and when.
    failed: Option<(String, Instant)>,
}

/// A socket on which the resource is served.
struct Served {
    task: JoinHandle<()>,
    /// Which file it is, and which that of the kubelet that was told of it.
    socket: FileId,
    kubelet: FileId,
    since: Instant,
    listing: Arc<Listing>,
}

/// The sockets of this process. One of another process that has the same name by now is not deleted.
#[derive(Clone, Debug, Default)]
pub struct Sockets(Arc<Mutex<BTreeMap<PathBuf, FileId>>>);

impl Sockets {
    fn all(&self) -> MutexGuard<'_, BTreeMap<PathBuf, FileId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes them: kubelet then knows that nothing is offered.
    pub fn delete(&self) {
        for (path, socket) in std::mem::take(&mut *self.all()) {
            delete(&path, socket);
        }
    }
}

fn delete(path: &Path, socket: FileId) {
    if FileId::of(path) == Some(socket) {
        let _ = fs::remove_file(path);
    }
}

/// Which file has a name: kubelet makes its socket again when it starts, and deletes those of all plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    inode: u64,
    changed: (i64, i64),
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self { inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) })
    }
}

impl Offer {
    pub(super) fn new(dir: &Path, resource: String, agent: &str, sockets: Sockets) -> Self {
        let endpoint = format!("{}-{agent}.sock", resource.replace('/', "-"));
        let ((count, _), dir) = (watch::channel(Count::default()), dir.to_owned());
        Self { dir, resource, endpoint, count, sockets, served: None, failed: None }
    }

    /// What kubelet is told, if it is not that already.
    pub(super) fn set(&self, devices: usize, healthy: bool) {
        let new = Count { devices, healthy };
        self.count.send_if_modified(|count| std::mem::replace(count, new) != new);
    }

    /// Sees to it that kubelet, if there is one, has this.
    pub(super) async fn tend(&mut self) {
        let Some(kubelet) = FileId::of(&self.dir.join(KUBELET)) else { return };
        let own = FileId::of(&self.dir.join(&self.endpoint));
        let is_in_force = |offered: &Served| {
            let is_over = offered.listing.is_over.load(Ordering::Relaxed);
            let lives = !is_over && !offered.task.is_finished();
            lives && Some(offered.socket) == own && offered.kubelet == kubelet
        };
        let waits = self.failed.as_ref().is_some_and(|(_, since)| since.elapsed() < PAUSE);
        if waits {
            return;
        }
        if let Some(offered) = self.served.as_ref().filter(|it| is_in_force(it)) {
            if offered.listing.has_begun.load(Ordering::Relaxed) {
                self.failed = None;
                return;
            }
            if offered.since.elapsed() < LIMIT {
                return;
            }
            self.fail(
                "kubelet does not ask for the devices; kubelets before 1.26 cannot ask this program"
                    .to_owned(),
            );
        }
        self.end();
        match self.begin(kubelet).await {
            Ok(served) => {
                self.served = Some(served);
                let (resource, devices) = (&self.resource, self.count.borrow().devices);
                if self.failed.is_none() {
                    tracing::info!(resource, devices, "offered to kubelet");
                }
            }
            Err(reason) => self.fail(reason),
        }
    }

    /// The same failure, again and again, is one line.
    fn fail(&mut self, reason: String) {
        if self.failed.as_ref().is_none_or(|(last, _)| *last != reason) {
            tracing::warn!(
                resource = self.resource,
                dir = %self.dir.display(),
                "cannot register the device plugin with kubelet: {reason}; Pods that request it wait or are rejected"
            );
        }
        self.failed = Some((reason, Instant::now()));
    }

    /// Serves on a new socket, and tells kubelet of it.
    async fn begin(&self, kubelet: FileId) -> Result<Served, String> {
        let path = self.dir.join(&self.endpoint);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|error| error.to_string())?;
        let socket = FileId::of(&path).ok_or("its socket was deleted")?;
        self.sockets.all().insert(path, socket);
        let listing = Arc::<Listing>::default();
        let plugin = DevicePlugin { count: self.count.subscribe(), listing: listing.clone() };
        let serving = Server::builder()
            .add_service(plugin)
            .serve_with_incoming(UnixListenerStream::new(listener));
        let task = tokio::spawn(async move { drop(serving.await) });
        let served = Served { task, socket, kubelet, since: Instant::now(), listing };
        let registered = timeout(LIMIT, register(&self.dir, &self.endpoint, &self.resource)).await;
        let late = |_| format!("kubelet does not answer within {} s", LIMIT.as_secs());
        registered.map_err(late).flatten().inspect_err(|_| served.task.abort())?;
        Ok(served)
    }

    /// Ends what is served.
    fn end(&mut self) {
        if let Some(served) = self.served.take() {
            served.task.abort();
        }
        if let Some((path, socket)) =
            self.sockets.all().remove_entry(&self.dir.join(&self.endpoint))
        {
            delete(&path, socket);
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.end();
    }
}
