//! `install` and `uninstall`, killed before each of their system calls that can change anything.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::*;
use crate::stage::tracer::{Among, Blow, Strike, Which, trace};

const DISK: &str = env!("CARGO_TARGET_TMPDIR");

/// The folders of a runtime.
struct Desk {
    folder: tempfile::TempDir,
    /// The list before and after the installation.
    texts: [String; 2],
}

impl Desk {
    /// Below `place`: on the disk where the executable is, it can be there without being copied;
    /// in memory a copy takes no time.
    fn below(place: &str) -> Self {
        let scene = Scene::new(Plugin::PortmapNftables);
        install(&[]);
        let after = fs::read_to_string(CONFLIST).expect("the configuration");
        let folder = tempfile::tempdir_in(place).expect("a directory");
        for name in ["bin", "net.d", "sbin"] {
            fs::create_dir(folder.path().join(name)).expect("our folder");
        }
        Self { folder, texts: [scene.before.clone(), after] }
    }

    fn executable(&self) -> PathBuf {
        self.folder.path().join("bin/autoport")
    }

    fn link(&self) -> PathBuf {
        self.folder.path().join("sbin/autoport")
    }

    fn list(&self) -> PathBuf {
        self.folder.path().join("net.d/10-blue.conflist")
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("net.d/10-blue.conflist.before-autoport")
    }

    /// Makes it as it is after the installation, or before; with the executable or without.
    fn prepare(&self, is_installed: bool, has_executable: bool) {
        let [before, after] = &self.texts;
        fs::write(self.list(), if is_installed { after } else { before }).expect("our file");
        let _ = fs::remove_file(self.backup());
        // Else it would look as if another program took autoport out all the time.
        let _ = fs::remove_file(self.list().with_extension("conflist.autoport-notes"));
        let _ = fs::remove_file(self.executable());
        let _ = fs::remove_file(self.link());
        if is_installed {
            symlink(self.executable(), self.link()).expect("our folder");
            fs::write(self.backup(), before).expect("our file");
        }
        if has_executable {
            fs::hard_link(Plugin::Autoport.path(), self.executable()).expect("on one disk");
        }
    }

    /// Kills the command before each of its calls that can change anything, and does it again.
    fn kill(&self, command: &str, has_executable: bool) {
        let is_install = command == "install";
        let folder = |name| self.folder.path().join(name).display().to_string();
        let (bin, networks, link) = (folder("bin"), folder("net.d"), folder("sbin/autoport"));
        let words = [command, "--link", &link, "--bin-dir", &bin, "--conf-dir", &networks];
        let mut struck = 0;
        for nth in 0.. {
            self.prepare(!is_install, has_executable);
            let strike =
                Strike { among: Among::Changes, which: Which::Only(nth), blow: Blow::KillBefore };
            let traced = trace(&Call::operator(&words), Some(strike));
            let Some(hit) = traced.struck else {
                assert!(traced.outcome.status.success(), "{}", traced.outcome);
                break;
            };
            struck += 1;
            let what = format!("{command}, killed before {}", hit.text);
            self.is_whole(&what);
            told(&words);
            let now = fs::read_to_string(self.list()).expect("the configuration");
            assert_eq!(now, self.texts[usize::from(is_install)], "{what}");
            assert_eq!(self.executable().exists(), is_install, "{what}");
            assert_eq!(self.link().is_symlink(), is_install, "{what}");
            let left = [view::states(&bin), view::states(&networks)].concat();
            let left: Vec<_> = left.into_iter().map(|(name, ..)| name).collect();
            let files = left.iter().filter(|name| *name != ".autoport-lock").count();
            assert_eq!(files, if is_install { 4 } else { 1 }, "{what}: {left:?}");
        }
        assert!(struck >= 4, "{command} was killed at {struck} points only");
    }

    /// Each file is the old or the new one, and a list names what is there.
    fn is_whole(&self, what: &str) {
        let now = fs::read_to_string(self.list()).expect("the configuration");
        assert!(self.texts.contains(&now), "{what}: {now}");
        if now == self.texts[1] {
            assert!(self.executable().exists(), "{what}: the list names what is not there");
            let before = fs::read_to_string(self.backup()).unwrap_or_default();
            assert_eq!(before, self.texts[0], "{what}: the text before the command is not known");
        }
        if let Ok(found) = fs::metadata(self.executable()) {
            let whole = fs::metadata(Plugin::Autoport.path()).expect("it is built").len();
            assert_eq!((found.len(), found.mode() & 0o777), (whole, 0o755), "{what}");
        }
    }
}

#[test]
fn an_installation_leaves_the_old_or_the_new() {
    Desk::below(DISK).kill("install", true);
}

#[test]
fn an_installation_leaves_no_half_executable() {
    Desk::below("/run").kill("install", false);
}

#[test]
fn its_reverse_leaves_the_old_or_the_new() {
    Desk::below(DISK).kill("uninstall", true);
}
