//! The executable and the network configurations in the folders of a container runtime: putting
//! autoport there, and taking it away again.
//!
//! A configuration is replaced as a whole, by a rename within its own folder: containerd looks again
//! after a rename or a write there, and not after a file came in from elsewhere. The executable comes
//! first, since CRI-O passes over a list whose plugin is not there. The text before the change stays
//! beside the file, under a name that no runtime reads. Stopped at any point, each file is the old or
//! the new one.

mod cache;
mod cluster;
mod conflist;
mod contest;
mod disk;
mod from_portmap;
mod link;
mod notes;
mod platform;
mod problem;
mod text;
mod watch;

use std::io;
use std::path::{Path, PathBuf};

use diffy::DiffOptions;
use serde::Serialize;

pub use cluster::Change;
pub use disk::configurations;
pub use problem::Problem;
pub(crate) use text::Value;
pub use watch::Watch;

use crate::cni;
use crate::event::LockHolder;
use crate::regular;
use cluster::Proposal;
use conflist::Edited;
use disk::{Folder, Found, look};
use notes::Notes;

/// Where libcni remembers what it attached with which configuration.
const CACHE_DIR: &str = "/var/lib/cni/results";

const NAME: &str = "autoport";

/// What a configuration was before goes by its name and this. Runtimes read `.conf`, `.conflist` and
/// `.json`.
const BEFORE: &str = ".before-autoport";

/// And what is to be remembered of it.
const NOTES: &str = ".autoport-notes";

/// What belongs to the system's package manager, and is not ours to delete.
const PACKAGED: &str = "/usr";

/// The folders of a runtime.
#[derive(Clone, Debug)]
pub struct Places {
    pub bin_dir: PathBuf,
    pub conf_dir: PathBuf,
    /// The one network that is meant, instead of what the runtime would choose.
    pub conflist: Option<PathBuf>,
    /// The link to the executable, if one is wanted.
    pub link: Option<PathBuf>,
    /// What to change in the configuration of the cluster.
    pub change: Change,
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
         plugin) first, or name another folder with --conf-dir{}", .0.display(), platform::hint(.0)
    )]
    NoNetwork(PathBuf),
    /// The runtime's choice is a single plugin, which nothing can be chained to.
    #[error(
        "{} comes first and is not a list of plugins; make it one: {{\"cniVersion\": ..., \"name\": ..., \
         \"plugins\": [ what the file has now ]}} in a file whose name ends in .conflist, or name \
         another with --conflist", .0.display()
    )]
    NoList(PathBuf),
    /// What is named is not a list.
    #[error(
        "{} is not a list of plugins: nothing can be chained to it; name a file that ends in .conflist",
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
    /// Another program takes autoport out of the list all the time.
    #[error(
        "another program, probably that of {main}, removes autoport from {} again and again: {}; meanwhile \
         autoport is put back at most ten times in a minute", path.display(), contest::remedy(main)
    )]
    Contested {
        path: PathBuf,
        /// The main plugin.
        main: String,
    },
    /// What is to be written is no configuration.
    #[error("{from} was rejected, and {} was not changed", cni::CLUSTER_FILE)]
    Config {
        /// The file that it comes from.
        from: String,
        source: cni::Error,
    },
    /// What is to be written is no object.
    #[error(
        "{from} is not a JSON object with keys of docs/configuration.md, and {} was not changed",
        cni::CLUSTER_FILE
    )]
    NoObject { from: String },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            // What is read is no folder of the runtime, or was there a moment ago.
            let source = if action == "read" { source } else { platform::hinting(source, path) };
            Self::Io { action, path: path.to_owned(), source }
        }
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
    /// A link to the executable was made.
    Linked,
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
        matches!(self.done, Done::Copied | Done::Linked | Done::Changed | Done::Removed)
    }
}

/// Puts the running executable into the folder of plugins, and autoport into the network that the
/// runtime chooses: the first in the order of names. Before that, writes the configuration of the cluster. Where
/// that is rejected, the one from before stays, and the rest is done all the same; without one, nothing is.
///
/// # Errors
/// When something is not understood; then nothing is changed. When the file system refuses. When the
/// configuration of the cluster is rejected.
pub fn install(places: &Places, now: u64) -> Result<Vec<Step>, Error> {
    let folder = places.conf_folder()?;
    let path = match &places.conflist {
        Some(path) => path.clone(),
        None => active(&places.conf_dir)?,
    };
    let text = list_at(&path)?;
    let left = |source| Error::Conflist { path: path.clone(), source };
    let mut edited = conflist::with_autoport(&text).map_err(left)?;
    let before = text_of(&beside(&path, NOTES))?;
    let notes = Notes::of(before.as_deref()).next(&mut edited, now);
    if notes.contest.is_on() && (places.dry_run || notes.contest.has_to_wait()) {
        let main = conflist::types(&text).into_iter().next().unwrap_or_default();
        return Err(Error::Contested { path, main });
    }
    let (proposal, rejected) = match propose(places, &edited.text) {
        Ok(proposal) => (proposal, None),
        Err(error) if disk::exists(Path::new(cni::CLUSTER_FILE)) => (None, Some(error)),
        Err(error) => return Err(error),
    };
    let mut executable = copy_executable(places)?;
    let link = link::make(places, &mut executable);
    let mut steps = vec![executable];
    steps.extend(link);
    steps.extend(proposal.map(|it| it.write(places.dry_run)).transpose()?);
    for plugin in conflist::types(&edited.text) {
        if plugin != NAME && !disk::exists(&places.bin_dir.join(&plugin)) {
            edited.remarks.push(format!(
                "{plugin} is not in {}: check that the runtime looks for plugins there",
                places.bin_dir.display()
            ));
        }
    }
    let backup = edited.how.map(|_| beside(&path, BEFORE));
    if let Some(before) = &backup {
        folder.replace(before, text.as_bytes(), &path)?;
        folder.replace(&path, edited.text.as_bytes(), &path)?;
    }
    let notes = notes.text();
    if before.as_ref() != Some(&notes) {
        folder.replace(&beside(&path, NOTES), notes.as_bytes(), &path)?;
    }
    steps.push(Step { backup, ..Step::of(path, &text, edited) });
    rejected.map_or(Ok(steps), Err)
}

fn propose(places: &Places, text: &str) -> Result<Option<Proposal>, Error> {
    if places.change.is_empty() {
        return Ok(None);
    }
    places.change.propose(conflist::object(text).map(Value::raw)).map(Some)
}

/// The content of a file beside a configuration, which only an installation writes.
fn text_of(path: &Path) -> Result<Option<String>, Error> {
    match look(path)? {
        Found::File(bytes) => Ok(String::from_utf8(bytes).ok()),
        Found::Nothing | Found::Other(_) => Ok(None),
    }
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
        let text = list_at(&path)?;
        let before = text_of(&beside(&path, BEFORE))?;
        let left = |source| Error::Conflist { path: path.clone(), source };
        let edited = conflist::without_autoport(&text, before.as_deref()).map_err(left)?;
        if edited.how.is_some() {
            folder.replace(&path, edited.text.as_bytes(), &path)?;
        }
        steps.push(Step::of(path, &text, edited));
    }
    forget(places, &folder)?;
    Ok(steps)
}

/// Deletes what is beside lists that do not have autoport any more, also where the main plugin has taken it out.
fn forget(places: &Places, folder: &Folder) -> Result<(), Error> {
    let with = lists_with_autoport(&places.conf_dir)?;
    let named = places.conflist.clone().map(|path| vec![path]);
    let all = named.map_or_else(|| disk::configurations(&places.conf_dir), Ok)?;
    for path in all.iter().filter(|path| !with.contains(path)) {
        folder.remove(&beside(path, NOTES))?;
        folder.remove(&beside(path, BEFORE))?;
    }
    Ok(())
}

/// Deletes the executable from the folder of plugins and the configuration of the cluster, unless a network
/// or what a runtime remembers of an attachment still names the plugin. A package's executable stays.
///
/// # Errors
/// When the file system refuses.
pub fn remove_rest(places: &Places) -> Result<Vec<Step>, Error> {
    let executable = places.bin_dir.join(NAME);
    let kept = |why: String| Step { how: Some(why), ..Step::new(executable.clone(), Done::Kept) };
    if let Some(why) = still_needed(places)?.filter(|_| disk::exists(&executable)) {
        return Ok(vec![kept(why)]);
    }
    let mut steps = vec![if executable.starts_with(PACKAGED) && disk::exists(&executable) {
        kept(format!("files below {PACKAGED} belong to the package manager"))
    } else {
        places.removed(&executable)?
    }];
    steps.extend(link::remove(places)?);
    let cluster = Path::new(cni::CLUSTER_FILE);
    if disk::exists(cluster) {
        steps.push(places.removed(cluster)?);
    }
    Ok(steps)
}

/// Why a runtime may call the plugin once more.
fn still_needed(places: &Places) -> Result<Option<String>, Error> {
    // A dry run has taken it out of none.
    if !places.dry_run
        && let Some(network) = lists_with_autoport(&places.conf_dir)?.first()
    {
        return Ok(Some(format!("{} names it", network.display())));
    }
    let cached = cache::first_with_autoport(Path::new(CACHE_DIR))?;
    Ok(cached.map(|cached| {
        let cached = cached.display();
        format!("the attachment {cached} was made with it, and its runtime may call it once more")
    }))
}

impl Places {
    /// Deletes a file, if there is one.
    fn removed(&self, path: &Path) -> Result<Step, Error> {
        if !disk::exists(path) {
            return Ok(Step::new(path.to_owned(), Done::Unchanged));
        }
        self.folder(path.parent().unwrap_or(Path::new("/")))?.remove(path)?;
        Ok(Step::new(path.to_owned(), Done::Removed))
    }

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

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The first network configuration that has autoport, in the order in which runtimes choose theirs, and
/// autoport's object in it. Files that cannot be read are passed over: no runtime uses them.
///
/// # Errors
/// When the folder is there and cannot be listed.
pub fn network(conf_dir: &Path) -> Result<Option<(PathBuf, String)>, Error> {
    let found = disk::configurations(conf_dir)?.into_iter().find_map(|path| {
        let text = String::from_utf8(regular::read(&path).ok()?).ok()?;
        Some((path, conflist::object(&text)?.raw().to_owned()))
    });
    Ok(found)
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

fn list_at(path: &Path) -> Result<String, Error> {
    let bytes = match look(path)? {
        Found::File(bytes) => bytes,
        Found::Nothing => return Err(Error::io("read", path)(io::ErrorKind::NotFound.into())),
        Found::Other(what) => return Err(Error::NotRegular { path: path.to_owned(), what }),
    };
    String::from_utf8(bytes).map_err(|error| Error::io("read", path)(io::Error::other(error)))
}
