//! A link to the executable in a folder of the PATH, so that operators run it without the folder of plugins.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{self, Link};
use super::{Done, Error, NAME, Places, Step};

/// Folders in which a package may have put such a link.
const PACKAGES_FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];

/// Makes the link, unless something is there or its folder is not, as in a container. Where that fails, it is
/// a remark of the `executable`: on many nodes the folder is read-only.
pub(super) fn make(places: &Places, executable: &mut Step) -> Option<Step> {
    let path = places.link.as_deref()?;
    let target = target(places).ok()?;
    let step = |done, how| Some(Step { how, ..Step::new(path.to_owned(), done) });
    let kept = |how: String| step(Done::Kept, Some(how));
    match disk::link_at(path) {
        Link::NoFolder => None,
        Link::To(there) if there == target => step(Done::Unchanged, None),
        Link::To(there) => kept(format!("it is a link to {}", there.display())),
        Link::Other => kept("it is not a link, so it belongs to another program".to_owned()),
        Link::Free
            if PACKAGES_FOLDERS.iter().any(|it| is_one(&Path::new(it).join(NAME), &target)) =>
        {
            None
        }
        Link::Free => {
            let made = if places.dry_run { Ok(()) } else { disk::make_link(path, &target) };
            if let Err(error) = made {
                let remark = format!("cannot make {} a link to it: {error}", path.display());
                executable.remarks.push(remark);
                return None;
            }
            step(Done::Linked, Some(format!("a link to {}", target.display())))
        }
    }
}

/// Deletes the link if it leads to the executable, which may be deleted by now.
pub(super) fn remove(places: &Places) -> Result<Option<Step>, Error> {
    let Some(path) = &places.link else { return Ok(None) };
    match (disk::link_at(path), target(places)) {
        (Link::To(there), Ok(target)) if there == target => places.removed(path).map(Some),
        _ => Ok(None),
    }
}

fn target(places: &Places) -> io::Result<PathBuf> {
    std::path::absolute(places.bin_dir.join(NAME))
}

fn is_one(path: &Path, target: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(path).is_some_and(|one| real(target) == Some(one))
}
