//! The executable and the network configurations in the folders of a container runtime: putting
//! autoport there, and taking it away again.
//!
//! A configuration is replaced as a whole, by a rename within its own folder: containerd looks again
//! after a rename or a write there, and not after a file came in from elsewhere. The executable comes
//! first, since CRI-O passes over a list whose plugin is not there. The text before the change stays
//! beside the file, under a name that no runtime reads. Stopped at any point, each file is the old or
//! the new one.

mod cache;
mod conflist;
mod disk;
mod from_portmap;
mod problem;
mod text;

use std::io;
use std::path::{Path, PathBuf};

use diffy::DiffOptions;
use serde::Serialize;

pub use disk::configurations;
pub use problem::Problem;
pub(crate) use text::Value;

use crate::event::LockHolder;
use conflist::Edited;
use disk::{Folder, Found, look};

/// Where libcni remembers what it attached with which configuration.
const CACHE_DIR: &str = "/var/lib/cni/results";

const NAME: &str = "autoport";

/// What a configuration was before goes by its name and this. Runtimes read `.conf`, `.conflist` and
/// `.json`.
const BEFORE: &str = ".before-autoport";

/// What belongs to the system's package manager, and is not ours to delete.
const PACKAGED: &str = "/usr";

/// The folders of a runtime.
#[derive(Clone, Debug)]
pub struct Places {
    pub bin_dir: PathBuf,
    pub conf_dir: PathBuf,
    /// The one network that is meant, instead of what the runtime would choose.
    pub conflist: Option<PathBuf>,
    /// Whether to say what would be done, and not do it.
    pub dry_run: bool,
}

/// Why something was not installed, or not taken away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be used.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Another process installs, and does not end.
    #[error("cannot lock {} within 10 s: {} has it; end it, and try again",
        path.display(), holder.as_ref().map_or("a process of another container".to_owned(), ToString::to_string))]
    Locked {
        /// The file whose lock is taken.
        path: PathBuf,
        /// Who has it, where that can be seen.
        holder: Option<LockHolder>,
    },
    /// There is no network yet.
    #[error(
        "there is no network configuration in {}; install the cluster's network (the main CNI \
         plugin) first, or name another folder with --conf-dir", .0.display()
    )]
    NoNetwork(PathBuf),
    /// The runtime's choice is a single plugin, which nothing can be chained to.
    #[error(
        "{} comes first and is no list of plugins; make it one: {{\"cniVersion\": ..., \"name\": ..., \
         \"plugins\": [ what the file has now ]}} in a file whose name ends in .conflist, or name \
         another with --conflist", .0.display()
    )]
    NoList(PathBuf),
    /// What is named is not a list.
    #[error(
        "{} is no list of plugins: nothing can be chained to it; name a file that ends in .conflist",
        .0.display()
    )]
    NotAList(PathBuf),
    /// A configuration is somewhere else, where a change would not be noticed.
    #[error(
        "{} is not a regular file but {what}; runtimes do not notice when its target changes: \
         put the file itself there, or change it by hand", path.display()
    )]
    NotRegular { path: PathBuf, what: &'static str },
    /// A configuration is left as it is.
    #[error("{} was not changed", path.display())]
    Conflist { path: PathBuf, source: Problem },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// What became of one file, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub path: PathBuf,
    pub done: Done,
    /// What was changed, or why the file was kept.
    pub how: Option<String>,
    /// The change as `diff -u` prints it.
    pub diff: Option<String>,
    /// Where the text before the change is.
    pub backup: Option<PathBuf>,
    pub remarks: Vec<String>,
}

/// What was done to a file, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    Unchanged,
    Copied,
    Changed,
    Removed,
    /// It is still needed.
    Kept,
}

impl Step {
    fn new(path: PathBuf, done: Done) -> Self {
        Self { path, done, how: None, diff: None, backup: None, remarks: Vec::new() }
    }

    /// The step from `old` to the text that was `edited`.
    fn of(path: PathBuf, old: &str, edited: Edited) -> Self {
        let Edited { text, how, remarks } = edited;
        let Some(how) = how else {
            return Self { remarks, ..Self::new(path, Done::Unchanged) };
        };
        let name = path.display().to_string();
        let mut options = DiffOptions::new();
        options.set_original_filename(name.clone()).set_modified_filename(name);
        let diff = options.create_patch(old, &text).to_string();
        let (how, diff) = (Some(how.to_owned()), Some(diff));
        Self { how, diff, remarks, ..Self::new(path, Done::Changed) }
    }

    /// Whether it changes anything.
    pub const fn is_change(&self) -> bool {
        matches!(self.done, Done::Copied | Done::Changed | Done::Removed)
    }
}

/// Puts the running executable into the folder of plugins, and autoport into the network that the
/// runtime chooses: the first in the order of names.
///
/// # Errors
/// When something is not understood; then nothing is changed. When the file system refuses.
pub fn install(places: &Places) -> Result<Vec<Step>, Error> {
    let folder = places.conf_folder()?;
    let path = match &places.conflist {
        Some(path) => path.clone(),
        None => active(&places.conf_dir)?,
    };
    let text = regular(&path)?;
    let left = |source| Error::Conflist { path: path.clone(), source };
    let mut edited = conflist::with_autoport(&text).map_err(left)?;
    for plugin in conflist::types(&edited.text) {
        if plugin != NAME && !disk::exists(&places.bin_dir.join(&plugin)) {
            edited.remarks.push(format!(
                "{plugin} is not in {}: check that the runtime looks for plugins there",
                places.bin_dir.display()
            ));
        }
    }
    let mut steps = vec![copy_executable(places)?];
    let backup = edited.how.map(|_| before_of(&path));
    if let Some(before) = &backup {
        folder.replace(before, text.as_bytes(), &path)?;
        folder.replace(&path, edited.text.as_bytes(), &path)?;
    }
    steps.push(Step { backup, ..Step::of(path, &text, edited) });
    Ok(steps)
}

/// Takes autoport out of the network that is named, or of every one that has it. The executable stays:
/// what is attached still needs it.
///
/// # Errors
/// When something is not understood; when the file system refuses.
pub fn withdraw(places: &Places) -> Result<Vec<Step>, Error> {
    let folder = places.conf_folder()?;
    let paths = match &places.conflist {
        Some(path) => vec![path.clone()],
        None => lists_with_autoport(&places.conf_dir)?,
    };
    let mut steps = Vec::new();
    for path in paths {
        let text = regular(&path)?;
        let backup = before_of(&path);
        let before = match look(&backup)? {
            Found::File(before) => String::from_utf8(before).ok(),
            Found::Nothing | Found::Other(_) => None,
        };
        let left = |source| Error::Conflist { path: path.clone(), source };
        let edited = conflist::without_autoport(&text, before.as_deref()).map_err(left)?;
        if edited.how.is_some() {
            folder.replace(&path, edited.text.as_bytes(), &path)?;
        }
        steps.push(Step::of(path, &text, edited));
        folder.remove(&backup)?;
    }
    Ok(steps)
}

/// Deletes the executable from the folder of plugins, unless it is the package manager's, or a network
/// or what a runtime remembers of an attachment still names it.
///
/// # Errors
/// When the file system refuses.
pub fn remove_executable(places: &Places) -> Result<Step, Error> {
    let path = places.bin_dir.join(NAME);
    let step = |done| Ok(Step::new(path.clone(), done));
    let kept = |why: String| Ok(Step { how: Some(why), ..Step::new(path.clone(), Done::Kept) });
    if !disk::exists(&path) {
        return step(Done::Unchanged);
    }
    if path.starts_with(PACKAGED) {
        return kept(format!("files below {PACKAGED} belong to the package manager"));
    }
    // A dry run has taken it out of none.
    if !places.dry_run
        && let Some(network) = lists_with_autoport(&places.conf_dir)?.first()
    {
        return kept(format!("{} names it", network.display()));
    }
    if let Some(cached) = cache::first_with_autoport(Path::new(CACHE_DIR))? {
        return kept(format!(
            "the attachment {} was made with it, and its runtime may call it once more",
            cached.display()
        ));
    }
    places.folder(&places.bin_dir)?.remove(&path)?;
    step(Done::Removed)
}

impl Places {
    /// A folder to change something in; in a dry run nothing is changed there.
    fn folder(&self, path: &Path) -> Result<Folder, Error> {
        if self.dry_run { Ok(Folder::untouched(path)) } else { Folder::open(path) }
    }

    /// The folder in which a configuration is changed.
    fn conf_folder(&self) -> Result<Folder, Error> {
        let folder = match &self.conflist {
            // There may be no runtime yet, and so nothing to change.
            None if !disk::is_folder(&self.conf_dir) => {
                return Ok(Folder::untouched(&self.conf_dir));
            }
            None => &*self.conf_dir,
            Some(path) if !is_list(path) => return Err(Error::NotAList(path.clone())),
            Some(path) => match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                Some(_) | None => Path::new("."),
            },
        };
        self.folder(folder)
    }
}

fn copy_executable(places: &Places) -> Result<Step, Error> {
    let path = places.bin_dir.join(NAME);
    if disk::is_own_executable(&path)? {
        return Ok(Step::new(path, Done::Unchanged));
    }
    places.folder(&places.bin_dir)?.replace_executable(&path)?;
    Ok(Step::new(path, Done::Copied))
}

fn before_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BEFORE);
    name.into()
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conflist")
}

/// The network that a runtime chooses: the first by name of everything that could be one.
fn active(conf_dir: &Path) -> Result<PathBuf, Error> {
    let first = disk::configurations(conf_dir)?.into_iter().next();
    let path = first.ok_or_else(|| Error::NoNetwork(conf_dir.to_owned()))?;
    if is_list(&path) { Ok(path) } else { Err(Error::NoList(path)) }
}

fn lists_with_autoport(conf_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for path in disk::configurations(conf_dir)? {
        // What no runtime can read has no pods.
        if let Found::File(bytes) = look(&path)?
            && let Ok(text) = str::from_utf8(&bytes)
            && conflist::types(text).iter().any(|plugin| plugin == NAME)
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn regular(path: &Path) -> Result<String, Error> {
    let bytes = match look(path)? {
        Found::File(bytes) => bytes,
        Found::Nothing => return Err(Error::io("read", path)(io::ErrorKind::NotFound.into())),
        Found::Other(what) => return Err(Error::NotRegular { path: path.to_owned(), what }),
    };
    String::from_utf8(bytes).map_err(|error| Error::io("read", path)(io::Error::other(error)))
}
