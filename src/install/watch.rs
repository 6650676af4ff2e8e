//! Noticing at once that something has changed in the folders of a runtime.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{BEFORE, NOTES, Places, disk};
use crate::cni::NODE_DIR;

/// The folders as they are watched.
#[derive(Debug)]
pub struct Watch(Inotify);

impl Places {
    /// Begins to watch the folders for changes. A folder that is missing is watched once it is made.
    ///
    /// # Errors
    /// When the kernel refuses: `fs.inotify.max_user_instances` is reached, most likely.
    pub fn watch(&self) -> nix::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let files = [self.conflist.as_deref(), self.change.file.as_deref()];
        let parents = files.into_iter().flatten().filter_map(Path::parent);
        let folders = [&*self.conf_dir, &*self.bin_dir, Path::new(NODE_DIR)];
        for folder in folders.into_iter().chain(parents) {
            watch(&inotify, folder)?;
        }
        Ok(Watch(inotify))
    }
}

/// Watches a folder, or the nearest one above it that exists, until it is made.
fn watch(inotify: &Inotify, folder: &Path) -> nix::Result<()> {
    let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    let flags = WHOLE | AddWatchFlags::IN_CREATE | itself;
    for folder in folder.ancestors() {
        match inotify.add_watch(folder, flags) {
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
            watched => return watched.map(drop),
        }
    }
    Ok(())
}

/// What happens to a whole file. When one is created it may still be written.
const WHOLE: AddWatchFlags =
    AddWatchFlags::IN_CLOSE_WRITE.union(AddWatchFlags::IN_MOVE).union(AddWatchFlags::IN_DELETE);

impl Watch {
    /// Whether anything has changed since the last time, but for what an installation itself does before it has
    /// changed a configuration.
    pub fn has_changed(&self) -> bool {
        let mut changed = false;
        while let Ok(events) = self.0.read_events() {
            changed |= events.iter().any(|event| {
                let name = event.name.as_ref().map(|name| name.to_string_lossy());
                let own = [disk::LOCK, disk::TEMPORARY, BEFORE, NOTES];
                let is_own = name.is_some_and(|name| own.iter().any(|own| name.ends_with(own)));
                let is_unfinished = event.mask.contains(AddWatchFlags::IN_CREATE)
                    && !event.mask.contains(AddWatchFlags::IN_ISDIR);
                !is_own && !is_unfinished
            });
        }
        changed
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
