//! Programs that know nothing of host ports: two of each bind port 8080 on one node, and each is reached at its
//! host port from another machine, whose address it sees.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A program, and what it is asked for. Its answer has to have the name of its pod, and the client's address.
struct Server {
    name: &'static str,
    command: fn(&Path, &str) -> Vec<String>,
    question: &'static str,
}

/// As long as Java may take to compile its program in an emulated machine, beside another one that does the same.
const PATIENCE: Duration = Duration::from_mins(2);

const GET: &str = "GET / HTTP/1.0||";

const SERVERS: [Server; 8] = [
    Server { name: "nginx", command: |dir, pod| nginx(dir, pod, ""), question: GET },
    // Each of its two processes has a socket of its own.
    Server {
        name: "nginx with SO_REUSEPORT",
        command: |dir, pod| nginx(dir, pod, " reuseport"),
        question: GET,
    },
    Server { name: "redis", command: redis, question: "CONFIG GET dir|CLIENT INFO|QUIT|" },
    Server { name: "busybox httpd", command: busybox, question: "GET /cgi-bin/told HTTP/1.0||" },
    Server { name: "a Go program", command: go, question: "|" },
    Server { name: "Python", command: |_, pod| python(pod, 0), question: "|" },
    Server { name: "Python with MPTCP", command: |_, pod| python(pod, 262), question: "|" },
    // Its socket is one of IPv6 for both families.
    Server { name: "Java", command: java, question: "|" },
];

pub(super) fn tool(path: &str) -> String {
    let here = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools"));
    let tools = env::var_os("AUTOPORT_TOOLS").map_or_else(here, PathBuf::from);
    let path = tools.join(path);
    assert!(path.exists(), "{} is missing: integration/setup.sh clients", path.display());
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}

fn nginx(dir: &Path, pod: &str, more: &str) -> Vec<String> {
    let own = dir.display();
    let configuration = format!(
        "daemon off; worker_processes 2; user root; pid {own}/pid; error_log {own}/error; events {{}}
         http {{ access_log off; client_body_temp_path {own}/a; proxy_temp_path {own}/b; fastcgi_temp_path {own}/c;
         uwsgi_temp_path {own}/d; scgi_temp_path {own}/e;
         server {{ listen 8080{more}; return 200 \"{pod} to $remote_addr\"; }} }}"
    );
    fs::write(dir.join("nginx.conf"), configuration).expect("the directory is ours");
    let (error, file) = (format!("{own}/error"), format!("{own}/nginx.conf"));
    words(&[&tool("servers/usr/sbin/nginx"), "-e", &error, "-c", &file])
}

fn redis(dir: &Path, pod: &str) -> Vec<String> {
    let own = dir.join(pod);
    fs::create_dir(&own).expect("the directory is ours");
    let program = tool("servers/usr/bin/redis-check-rdb");
    // What it does depends on its name.
    let link = dir.join("redis-server");
    std::os::unix::fs::symlink(program, &link).expect("the directory is ours");
    let (link, own) = (link.display().to_string(), own.display().to_string());
    words(&[
        &link,
        "--port",
        "8080",
        "--bind",
        "0.0.0.0",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--dir",
        &own,
    ])
}

fn busybox(dir: &Path, pod: &str) -> Vec<String> {
    let folder = dir.join("cgi-bin");
    fs::create_dir(&folder).expect("the directory is ours");
    let script = format!("#!/bin/sh\necho; echo {pod} to $REMOTE_ADDR\n");
    let path = folder.join("told");
    fs::write(&path, script).expect("the directory is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let dir = dir.display().to_string();
    words(&["busybox", "httpd", "-f", "-p", "8080", "-h", &dir])
}

fn go(_: &Path, pod: &str) -> Vec<String> {
    words(&[&tool("rootfs/echo"), "-name", pod, "8080"])
}

fn python(pod: &str, protocol: u16) -> Vec<String> {
    let script = format!(
        "import socket\n\
         server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, {protocol})\n\
         server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         server.bind(('0.0.0.0', 8080))\n\
         server.listen()\n\
         while True:\n    \
             client, peer = server.accept()\n    \
             client.sendall(('{pod} to ' + peer[0]).encode())\n    \
             client.close()\n"
    );
    words(&["/usr/bin/python3", "-c", &script])
}

/// Java runs a single file as it is.
fn java(dir: &Path, pod: &str) -> Vec<String> {
    let source = format!(
        "import java.net.*;
         class Server {{
             public static void main(String[] words) throws Exception {{
                 var server = new ServerSocket(8080);
                 while (true) {{
                     try (var client = server.accept()) {{
                         var told = \"{pod} to \" + client.getInetAddress().getHostAddress();
                         client.getOutputStream().write(told.getBytes());
                     }}
                 }}
             }}
         }}"
    );
    let file = dir.join("Server.java");
    fs::write(&file, source).expect("the directory is ours");
    words(&[&tool("java/home/bin/java"), "-XX:TieredStopAtLevel=1", &file.display().to_string()])
}

/// A running program, and all that it has started.
struct Running {
    child: Child,
    cgroup: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.child.wait();
    }
}

impl Scene {
    fn program(&self, uid: &str, words: &[String]) -> Running {
        let gnu = format!("{}-linux-gnu", env::consts::ARCH);
        let libraries =
            ["usr/lib", "lib"].map(|folder| format!("{}/{folder}/{gnu}", tool("servers")));
        let container = format!("pod{uid}/c1");
        let mut command: Command = self.cgroup.command(&container, &words[0]);
        command.args(&words[1..]).env("LD_LIBRARY_PATH", libraries.join(":"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().expect("it can be started");
        Running { child, cgroup: self.cgroup.path(&container) }
    }
}

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn two_of_each_bind_the_same_port_and_are_reached() {
    let mut scene = Scene::new();
    let mut outside = outside();
    for server in &SERVERS {
        let mut running = Vec::new();
        for uid in ["one", "two"] {
            let pod = scene.pod(uid, "http=8080/tcp+udp", "redirect");
            let [http] = scene.runs(&pod, ["HTTP"]);
            let dir = tempfile::tempdir().expect("a directory");
            let words = (server.command)(dir.path(), uid);
            running.push((uid, http, scene.program(uid, &words), dir));
        }
        for (uid, http, _, _) in &running {
            let begun = Instant::now();
            let order = format!("asks 198.51.100.1:{http} {}", server.question);
            let mut answer = String::new();
            while !(answer.contains(uid) && answer.contains("198.51.100.2")) {
                assert!(begun.elapsed() < PATIENCE, "{}: {answer}", server.name);
                std::thread::sleep(Duration::from_millis(50));
                answer = outside.does(&order);
            }
            // A client in the pod, such as an exec probe.
            let answer = scene.actor(uid).does(&format!("asks 127.0.0.1:8080 {}", server.question));
            assert!(
                answer.contains(uid) && answer.contains("127.0.0.1"),
                "{}: {answer}",
                server.name
            );
        }
        assert_eq!(outside.does("connects 198.51.100.1:8080"), "connection refused");
    }
}

/// Binds what the kernel does not tell a program of eBPF, and connects by both protocols that it does tell.
const OTHERS: &str = "
import socket
def bound(kind, protocol):
    one = socket.socket(socket.AF_INET, kind, protocol)
    one.bind(('127.0.0.1', 8080))
    return one.getsockname()[1]
print(bound(socket.SOCK_DGRAM, 136), bound(socket.SOCK_RAW, 253))
server = socket.socket()
server.bind(('127.0.0.1', 8080))
server.listen()
print(server.getsockname()[1])
for protocol in [6, 262]:
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    print(client.connect_ex(('127.0.0.1', 8080)))
";

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn other_protocols_are_left_alone_and_clients_of_mptcp_are_not() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080/tcp+udp", "redirect");
    let [http] = scene.runs(&pod, ["HTTP"]);
    let mut command = scene.cgroup.command("podone/c1", "/usr/bin/python3");
    let output = command.args(["-c", OTHERS]).output().expect("it can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    // UDP-Lite, a raw socket, whose number is that of its protocol, TCP, a client of TCP, and one of MPTCP.
    assert_eq!(printed, format!("8080 253\n{http}\n0\n0\n"));
}

/// Binds by `IORING_OP_BIND`; prints what the kernel has answered, and the port of the socket.
const RING: &str = "
import ctypes, mmap, os, socket, struct
call = ctypes.CDLL(None, use_errno=True).syscall
parameters = ctypes.create_string_buffer(120)
ring = call(425, 1, parameters)
words = struct.unpack('30I', parameters.raw)
tail, array = words[11], words[16]
queue = mmap.mmap(ring, array + 4 * words[0], offset=0)
done = mmap.mmap(ring, words[25] + 16 * words[1], offset=0x8000000)
entries = mmap.mmap(ring, 64, offset=0x10000000)
server = socket.socket()
address = ctypes.create_string_buffer(struct.pack('=HH4s8x', socket.AF_INET, socket.htons(8080), bytes([127, 0, 0, 1])))
entries[:28] = struct.pack('=BBHiQQI', 56, 0, 0, server.fileno(), 16, ctypes.addressof(address), 0)
queue[array:array + 4] = struct.pack('I', 0)
queue[tail:tail + 4] = struct.pack('I', 1)
call(426, ring, 1, 1, 1, None, 0)
print(struct.unpack_from('=Qi', done, words[25])[1], server.getsockname()[1])
";

#[test]
#[ignore = "root alone makes cgroups: run by make test-clients"]
fn a_bind_by_io_uring_gets_the_host_port() {
    let mut scene = Scene::new();
    let pod = scene.pod("one", "http=8080", "redirect");
    let [http] = scene.runs(&pod, ["HTTP"]);
    let mut command = scene.cgroup.command("podone/c1", "/usr/bin/python3");
    let output = command.args(["-c", RING]).output().expect("it can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    // Before Linux 6.11 there is no such operation: EINVAL, and no port.
    let expected = [format!("0 {http}\n"), "-22 0\n".to_owned()];
    assert!(expected.contains(&printed.to_string()), "{printed}: {output:?}");
}
