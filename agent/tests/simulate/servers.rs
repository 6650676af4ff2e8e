//! etcd and the API server of `integration/cluster/apiserver`, in the network namespace of the test: what they are
//! asked, and what they take.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::runtime::Runtime;

const ETCD: [&str; 4] = [
    "--listen-client-urls=http://127.0.0.1:2379",
    "--advertise-client-urls=http://127.0.0.1:2379",
    "--listen-peer-urls=http://127.0.0.1:2380",
    // The default of 2 GB is that of etcd; what 20,000 Pods take is less.
    "--log-level=error",
];

/// Both servers; they end with it.
pub(crate) struct Servers {
    dir: PathBuf,
    etcd: Child,
    api: Option<Child>,
    runtime: Runtime,
    client: Client,
}

/// What the API server has counted since its start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// By verb, resource and status code.
    pub(crate) requests: BTreeMap<(String, String, String), f64>,
    /// By resource: the events that all watches were sent together, and their bytes.
    pub(crate) events: BTreeMap<String, (f64, f64)>,
    /// The watches of Pods that are open.
    pub(crate) watches: f64,
}

impl Servers {
    /// Starts both with their files in `dir`.
    pub(crate) fn start(dir: &Path) -> Self {
        certificates(dir);
        let etcd = Command::new(tool("etcd"))
            .arg(format!("--data-dir={}", dir.join("etcd").display()))
            .args(ETCD)
            .stderr(log(dir, "etcd"))
            .spawn()
            .expect("etcd is built by integration/setup.sh simulate");
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        let client = runtime.block_on(async { client(dir).await });
        let mut servers = Self { dir: dir.to_owned(), etcd, api: None, runtime, client };
        servers.start_api();
        servers
    }

    /// Starts the API server, and waits until it is ready.
    pub(crate) fn start_api(&mut self) {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let api = Command::new(tool("kube-apiserver"))
            .args(["--etcd-servers=http://127.0.0.1:2379", "--bind-address=127.0.0.1"])
            .arg(format!("--tls-cert-file={}", at("pki.crt")))
            .arg(format!("--tls-private-key-file={}", at("pki.key")))
            .arg(format!("--client-ca-file={}", at("ca.crt")))
            .stderr(log(&self.dir, "kube-apiserver"))
            .spawn()
            .expect("the API server is built by integration/setup.sh simulate");
        self.api = Some(api);
        let begun = Instant::now();
        while self.text("/readyz").as_deref() != Ok("ok") {
            assert!(begun.elapsed() < Duration::from_mins(2), "{:?}", self.text("/readyz"));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the API server.
    pub(crate) fn stop_api(&mut self) {
        if let Some(mut api) = self.api.take() {
            let _ = api.kill();
            let _ = api.wait();
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Runs to the end what uses [`Servers::client`].
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn text(&self, path: &str) -> Result<String, String> {
        let request = http_get(path);
        let answer = async {
            tokio::time::timeout(Duration::from_secs(20), self.client.request_text(request)).await
        };
        let answer = self.runtime.block_on(answer).map_err(|_| "no answer".to_owned())?;
        answer.map_err(|error| error.to_string())
    }

    /// What it has counted.
    pub(crate) fn counts(&self) -> Counts {
        Counts::of(&self.text("/metrics").expect("it has metrics"))
    }

    /// The memory in MiB and the processor time of etcd and of the API server.
    pub(crate) fn usage(&self) -> [(f64, Duration); 2] {
        let api = self.api.as_ref().map_or(0, Child::id);
        [self.etcd.id(), api].map(|pid| (memory(pid, "VmRSS:"), processor_time(pid)))
    }

    /// How many connections the API server has.
    pub(crate) fn connections() -> usize {
        let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("it can be read");
        // Port 6443 is 192B; 01 is an established connection.
        table
            .lines()
            .filter(|line| {
                line.contains(":192B ")
                    && line.split_whitespace().nth(1).is_some_and(|it| it.ends_with(":192B"))
                    && line.split_whitespace().nth(3) == Some("01")
            })
            .count()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop_api();
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

impl Counts {
    fn of(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let label = |key: &str| {
                let begin = name.find(&format!("{key}=\""))? + key.len() + 2;
                Some(name[begin..].split('"').next()?.to_owned())
            };
            let label = |key: &str| label(key).unwrap_or_default();
            let metric = name.split('{').next().unwrap_or_default();
            match metric {
                "apiserver_request_total" => {
                    let resource = [label(",resource"), label("subresource")].join("/");
                    let key =
                        (label("verb"), resource.trim_end_matches('/').to_owned(), label("code"));
                    *counts.requests.entry(key).or_default() += value;
                }
                "apiserver_watch_events_total" => {
                    counts.events.entry(label("resource")).or_default().0 += value;
                }
                "apiserver_watch_events_sizes_sum" => {
                    counts.events.entry(label("resource")).or_default().1 += value;
                }
                "apiserver_longrunning_requests"
                    if label("verb") == "WATCH" && label(",resource") == "pods" =>
                {
                    counts.watches += value;
                }
                _ => {}
            }
        }
        counts
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.clone();
        for (key, value) in &mut counts.requests {
            *value -= earlier.requests.get(key).copied().unwrap_or_default();
        }
        for (key, value) in &mut counts.events {
            let before = earlier.events.get(key).copied().unwrap_or_default();
            *value = (value.0 - before.0, value.1 - before.1);
        }
        counts.requests.retain(|_, value| *value > 0.0);
        counts.events.retain(|_, value| value.0 > 0.0);
        counts
    }

    /// The requests of this verb for this resource, whatever was answered.
    pub(crate) fn of_kind(&self, verb: &str, resource: &str) -> f64 {
        let kind =
            self.requests.iter().filter(|((one, other, _), _)| one == verb && other == resource);
        kind.map(|(_, value)| value).sum()
    }
}

/// A line of `/proc/<pid>/status` that is in KiB, in MiB.
pub(crate) fn memory(pid: u32, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|one| one.strip_prefix(line));
    let value = value.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    value.unwrap_or_default() / 1024.0
}

/// How long the threads of a process have had a processor.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = after.split(' ').skip(11).take(2).filter_map(|it| it.parse::<u64>().ok());
    // The kernel tells times in hundredths of a second.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

pub(crate) fn http_get(path: &str) -> hyper::Request<Vec<u8>> {
    hyper::Request::get(path).body(Vec::new()).expect("a path")
}

pub(crate) async fn client(dir: &Path) -> Client {
    let file = Kubeconfig::read_from(dir.join("kubeconfig")).expect("it was written");
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("it is right")).expect("a client")
}

fn tool(name: &str) -> PathBuf {
    let tools = env::var_os("AUTOPORT_TOOLS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"),
        PathBuf::from,
    );
    tools.join("api/usr/bin").join(name)
}

fn log(dir: &Path, name: &str) -> File {
    let file = File::options().create(true).append(true).open(dir.join(format!("{name}.log")));
    file.expect("the directory is ours")
}

/// A certificate authority, one certificate for the server and all of its clients, and a kubeconfig with it.
fn certificates(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for words in [
        format!("req -x509 {key} -days 2 -subj /CN=ca -keyout ca.key -out ca.crt"),
        format!(
            "req {key} -subj /O=system:masters/CN=admin -keyout pki.key -out pki.csr \
             -addext subjectAltName=IP:127.0.0.1"
        ),
        "x509 -req -in pki.csr -CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy -days 2 \
         -out pki.crt"
            .to_owned(),
    ] {
        let openssl = Command::new("openssl").args(words.split_whitespace()).current_dir(dir).output();
        let openssl = openssl.expect("openssl is installed by integration/setup.sh simulate");
        assert!(openssl.status.success(), "{}", String::from_utf8_lossy(&openssl.stderr));
    }
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": "https://127.0.0.1:6443", "certificate-authority": dir.join("ca.crt"),
        }}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {
            "client-certificate": dir.join("pki.crt"), "client-key": dir.join("pki.key"),
        }}],
    });
    fs::write(dir.join("kubeconfig"), kubeconfig.to_string()).expect("the directory is ours");
}
