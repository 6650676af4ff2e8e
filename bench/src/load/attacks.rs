//! What pods do to the commands of others, each as a loop that goes on until it is told to stop.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{mkfifo, pipe2};
use serde_json::{Value, json};

use super::{Answer, Site, Tally};
use crate::fill::STATE;
use crate::measure::Call;
use crate::node::{Node, sysctl};
use crate::plugins::{Plugin, Pod};

/// The word by which this program asks itself for [`crowd`].
pub(crate) const CROWD: &str = "crowd";
/// The word by which this program asks itself for [`listen`].
pub(crate) const LISTEN: &str = "listen";

/// kubelet's.
const TAKEN: u16 = 10_250;

/// Opens so many files, and stays until its standard input ends.
pub(crate) fn crowd(words: &[String]) {
    let files = words[0].parse().expect("a number");
    let open = |_: usize| File::open("/dev/null").expect("/dev/null can be opened");
    let _open: Vec<File> = (0..files).map(open).collect();
    let _ = io::stdin().read(&mut [0]);
}

/// Listens, and stays until its standard input ends.
pub(crate) fn listen(words: &[String]) {
    let port: u16 = words[0].parse().expect("a port");
    let _listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    let _ = io::stdin().read(&mut [0]);
}

/// Processes that end with this value, or with this program.
pub(crate) struct Crowd {
    gate: Option<OwnedFd>,
    children: Vec<Child>,
}

impl Crowd {
    /// Starts `size` processes with `files` open files each, and last, where a search through all
    /// processes comes to it last, one that listens on the port that refused pods ask for.
    pub(crate) fn gather(node: &Node, size: usize, files: usize) -> Self {
        let own = std::env::current_exe().expect("the path of this program");
        // Without inheritance: a child with the other end would keep it open.
        let (read, gate) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let start = |word: &str, number: usize| {
            let stdin = Stdio::from(read.try_clone().expect("a descriptor can be duplicated"));
            let mut command = Command::new(&own);
            command.args([word, &number.to_string()]).stdin(stdin).stdout(Stdio::null());
            command.spawn().expect("this program can be started")
        };
        let mut children: Vec<_> = (0..size).map(|_| start(CROWD, files)).collect();
        children.push(node.space.run(|| start(LISTEN, TAKEN.into())));
        let last = children.last().map(Child::id).unwrap_or_default();
        // It is there when it can be connected to.
        let daemon = std::net::SocketAddr::from(([127, 0, 0, 1], TAKEN));
        let connects = || TcpStream::connect_timeout(&daemon, Duration::from_secs(1)).is_ok();
        let there = || node.space.run(connects);
        for _ in 0..500 {
            if there() {
                return Self { gate: Some(gate), children };
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("process {last} does not listen");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.gate.take());
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// Pods that ask for a port on which a daemon listens, again and again, as kubelet makes them do.
pub(crate) fn refused(site: &Site, number: u16, stop: &AtomicBool, tally: &Tally) {
    let pod = Pod::numbered(number, false, [TAKEN]);
    let call = Call::cni(site.executables, Plugin::Autoport, "ADD", &pod);
    while !stop.load(Ordering::Relaxed) {
        tally.count("refused ADD", &Answer::of(&call));
    }
}

/// What a runtime says of a pod of `namespace` that asks for ports by annotation.
fn annotated(site: &Site, command: &str, pod: &Pod, namespace: &str, ports: &str) -> Call {
    let mut config = Plugin::Autoport.config(pod);
    config["capabilities"]["io.kubernetes.cri.pod-annotations"] = json!(true);
    config["runtimeConfig"] =
        json!({"io.kubernetes.cri.pod-annotations": {"autoport.cni/ports": ports}});
    let args = |uid: &str| {
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=pod;K8S_POD_UID={uid}")
    };
    let call = Call::configured(site.executables, Plugin::Autoport, command, pod, &config);
    call.with("CNI_ARGS", &args(&pod.id))
}

/// A namespace whose pods come and go, each with as many ports as a pod may have.
pub(crate) fn churn(site: &Site, number: u16, stop: &AtomicBool, tally: &Tally) {
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let pod = Pod::numbered(number + turn % 100, false, []);
        for command in ["ADD", "DEL"] {
            let call = annotated(site, command, &pod, "churn", "p=1-128");
            tally.count(&format!("churning {command}"), &Answer::of(&call));
        }
    }
}

/// Fills the node's connection tracking table with what pods and clients may send; gives how many
/// entries there are then.
pub(crate) fn flood(node: &Node, wanted: usize) -> usize {
    let number = |name: &str| -> usize {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.trim().parse().expect("a number")
    };
    node.space.run(|| {
        // They stay as long as the measurement takes.
        sysctl("net/netfilter/nf_conntrack_udp_timeout", "1200");
        let wanted = wanted.min(number("nf_conntrack_max"));
        for last in 2..20 {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            for port in 1..=u16::MAX {
                // A full table is what is wanted.
                let _ = socket.send_to(b"x", (std::net::Ipv4Addr::new(127, 0, 0, last), port));
                if port % 1_024 == 0 && number("nf_conntrack_count") + 1_024 > wanted {
                    return number("nf_conntrack_count");
                }
            }
        }
        panic!("{} entries in connection tracking, not {wanted}", number("nf_conntrack_count"))
    })
}

/// How many pods there are whose containers write into their published directory.
pub(crate) const HOSTILE: u16 = 10;

/// How many entries a directory or a file of theirs has.
const ENTRIES: usize = 100_000;

/// One of them.
pub(crate) struct Hostile {
    /// Its number among them says what it does.
    kind: u16,
    pod: Pod,
    directory: PathBuf,
}

impl Hostile {
    pub(crate) fn numbered(kind: u16, number: u16) -> Self {
        let pod = Pod::numbered(number, false, []);
        let directory = Path::new(STATE).join("pods").join(&pod.id);
        Self { kind, pod, directory }
    }

    /// The command of its sandbox with this number.
    pub(crate) fn call(&self, site: &Site, command: &str, sandbox: usize) -> Call {
        let call = annotated(site, command, &self.pod, "hostile", "http=80");
        call.with("CNI_CONTAINERID", &format!("{sandbox}{}", self.pod.id))
    }

    /// What its container puts there, with what it may have in the way of rights: root, and the
    /// capabilities that runtimes leave it. Whatever fails has failed for the container.
    pub(crate) fn plant(&self) {
        let json = self.directory.join("ports.json");
        let _ = match self.kind {
            0 => Self::huge(&json, "nobody"),
            1 => Self::huge(&json, &format!("{:064x}", 2)),
            2 => self.nest(),
            3 => Self::litter(&self.directory.join("litter")),
            4 | 5 => Ok(()),
            6 => replace(&json, |path| mkfifo(path, Mode::S_IRWXU).map_err(Into::into)),
            7 => replace(&json, |path| {
                mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).map_err(Into::into)
            }),
            8 => replace(&json, |path| fs::create_dir(path)).and_then(|()| Self::litter(&json)),
            _ => replace(&json, |path| symlink("/dev/zero", path)),
        };
    }

    /// What it does all the time.
    pub(crate) fn writes(&self, stop: &AtomicBool) {
        let json = self.directory.join("ports.json");
        // It also keeps a lock on whatever it can open.
        let _locked = File::open(&self.directory)
            .map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).ok());
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let _ = match self.kind {
                4 => fs::write(&json, vec![b'['; 1 << 20]),
                _ => replace(&json, |path| fs::write(path, b"{}")).and_then(|()| {
                    let apart = self.directory.join(format!("apart-{}", turn % 64));
                    fs::rename(&json, &apart)
                }),
            };
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it does something all the time.
    pub(crate) const fn is_busy(&self) -> bool {
        matches!(self.kind, 4 | 5)
    }

    /// As many entries as fit into what is read at most, 16 MiB.
    fn huge(path: &Path, container: &str) -> io::Result<()> {
        let text = fs::read(path)?;
        let Ok(mut whole) = serde_json::from_slice::<Value>(&text) else { return Ok(()) };
        if text.len() > 1 << 20 || !whole["ports"].is_array() {
            return Ok(());
        }
        let mut port = whole["ports"][0].clone();
        port["hostIPs"] = json!([]);
        let own = port["attachment"]["containerId"].as_str().unwrap_or_default().to_owned();
        let fit = (15 << 20) / port.to_string().len();
        let ports = (0..fit.min(ENTRIES)).map(|number| {
            port["attachment"]["containerId"] = match number {
                0 => json!(own),
                _ if container == "nobody" => json!(format!("{container}{number}")),
                _ => json!(container),
            };
            port.clone()
        });
        whole["ports"] = ports.collect();
        let text = serde_json::to_vec(&whole)?;
        replace(path, |path| fs::write(path, &text))
    }

    fn nest(&self) -> io::Result<()> {
        // A path may not be longer than 4 KiB, a nest may.
        let mut folder = self.directory.join("n");
        if folder.exists() {
            return Ok(());
        }
        fs::create_dir(&folder)?;
        for _ in 0..200 {
            let mut inner = self.directory.join("m");
            fs::create_dir(&inner)?;
            for _ in 0..50 {
                inner.push("d");
                fs::create_dir(&inner)?;
            }
            fs::rename(&folder, inner.join("n"))?;
            folder = self.directory.join("n");
            fs::rename(self.directory.join("m"), &folder)?;
        }
        Ok(())
    }

    fn litter(folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        if folder.join("0").exists() {
            return Ok(());
        }
        // The last one first: where it is, all are.
        for number in (0..ENTRIES).rev() {
            File::create(folder.join(number.to_string()))?;
        }
        Ok(())
    }
}

/// Puts something else where a file, a link or a directory is.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
    make(path)
}

/// The pods of [`Hostile`] get one sandbox after the other, which is what leads to their directories, and
/// between two turns the runtime has garbage collected in another network.
pub(crate) fn sandboxes(site: &Site, pods: &[Hostile], stop: &AtomicBool, tally: &Tally) {
    for turn in 1.. {
        for pod in pods {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let added = Answer::of(&pod.call(site, "ADD", turn));
            tally.count("hostile ADD", &added);
            pod.plant();
            tally.count("hostile DEL", &Answer::of(&pod.call(site, "DEL", turn - 1)));
        }
        let nobody = Pod::numbered(1, false, []);
        let mut config = Plugin::Autoport.config(&nobody);
        config["name"] = json!("other");
        config["cni.dev/valid-attachments"] = json!([]);
        let call = Call::configured(site.executables, Plugin::Autoport, "GC", &nobody, &config);
        tally.count("GC", &Answer::of(&call));
    }
}
