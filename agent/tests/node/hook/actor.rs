//! A process of a pod, which binds and connects as it is told.

use std::env;
use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::AsRawFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use autoport::app;
use autoport::event::Silent;
use autoport::model::{HostPort, Protocol};
use autoport::store::{Reservation, Store};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname, socket,
};

/// The name by which it answers.
const NAME: &str = "AUTOPORT_TEST_ACTOR";

/// Its answers begin with this: libtest prints as well.
const MARK: &str = "actor: ";

const PATIENCE: Duration = Duration::from_secs(5);

/// The process. It ends with the test.
pub(crate) struct Actor {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Actor {
    /// One that runs as `command`, which is to start this program.
    pub(crate) fn start(mut command: Command, name: &str) -> Self {
        let mut child = command
            .args(["--exact", "hook::actor::act", "--ignored", "--nocapture"])
            .env(NAME, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let orders = child.stdin.take().expect("it was piped");
        let answers = BufReader::new(child.stdout.take().expect("it was piped"));
        Self { child, orders, answers }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it answers to an order.
    pub(crate) fn does(&mut self, order: &str) -> String {
        self.begins(order);
        self.answers()
    }

    /// Has it begin with an order that takes long.
    pub(crate) fn begins(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it reads");
    }

    /// What it answers to that.
    pub(crate) fn answers(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.answers.read_line(&mut line).expect("its answers are text");
            assert_ne!(read, 0, "the process has ended");
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.trim().to_owned();
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "run by Actor, as a process of its own"]
#[expect(clippy::print_stdout, reason = "the test reads it")]
fn act() {
    let name = env::var(NAME).expect("a name");
    for order in std::io::stdin().lines() {
        let order = order.expect("orders are text");
        let (what, rest) = order.split_once(' ').expect("what, and where");
        let (address, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let address: SocketAddr = address.parse().expect("an address");
        let answer = match what {
            "listens" => listens(address, name.clone()),
            "binds" => {
                TcpListener::bind(address).and_then(|it| it.local_addr()).map(|it| it.to_string())
            }
            "binds-again-and-again" => Ok(binds_for(address, text.parse().expect("milliseconds"))),
            "reserves" => reserves(address, text),
            "receives" => receives(address, name.clone()),
            "connects" => connects(address),
            "asks" => asks(address, text),
            "binds-sctp" => binds_sctp(address),
            "times-bind" => times(|| UdpSocket::bind(address).map(drop)),
            "times-connect" => {
                unspecified(&address).and_then(|socket| times(|| socket.connect(address)))
            }
            "swallows" => swallows(address),
            "floods" => floods(address),
            "sends" => sends(address),
            "sends-connected" => sends_connected(address),
            "listens-elsewhere" => elsewhere(address, name.clone()),
            _ => panic!("unknown order {order}"),
        };
        println!("{MARK}{}", answer.unwrap_or_else(|error| error.kind().to_string()));
    }
}

fn told(name: &str, peer: impl Display) -> Vec<u8> {
    format!("{name} to {peer}").into_bytes()
}

/// Answers each client with its name and the client's address.
fn listens(address: SocketAddr, name: String) -> std::io::Result<String> {
    let listener = TcpListener::bind(address)?;
    let own = listener.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(&told(&name, peer.ip()));
        }
    });
    Ok(own.to_string())
}

fn receives(address: SocketAddr, name: String) -> std::io::Result<String> {
    let socket = UdpSocket::bind(address)?;
    let own = socket.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((_, peer)) = socket.recv_from(&mut [0; 16]) {
            let _ = socket.send_to(&told(&name, peer.ip()), peer);
        }
    });
    Ok(own.to_string())
}

/// Binds the port for so many milliseconds; gives how often it has tried, and how often it got it.
fn binds_for(address: SocketAddr, milliseconds: u64) -> String {
    let (begun, mut tried, mut got) = (Instant::now(), 0, 0);
    while begun.elapsed() < Duration::from_millis(milliseconds) {
        tried += 1;
        got += usize::from(TcpListener::bind(address).is_ok());
    }
    format!("{tried} {got}")
}

fn elsewhere(address: SocketAddr, name: String) -> std::io::Result<String> {
    let listens = move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
        listens(address, name)
    };
    std::thread::spawn(listens).join().expect("it does not panic")
}

/// Reserves the port on the node, whose state directory this is.
fn reserves(address: SocketAddr, state: &str) -> std::io::Result<String> {
    let port = NonZeroU16::new(address.port()).expect("a port");
    let hosts = vec![HostPort { protocol: Protocol::Tcp, address: address.ip(), port }];
    let mut reserved = Reservation { name: "daemon".into(), hosts, created: 1, persistent: false };
    let done = app::reserve(&Store::at(state.as_ref()), &mut reserved, &mut Silent);
    done.map(|_| String::new()).map_err(std::io::Error::other)
}

/// The answer of a server.
pub(crate) fn connects(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = vec![0; 128];
    let length = stream.read(&mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// How many nanoseconds a call takes: the median of 50 times a hundred.
fn times(call: impl Fn() -> std::io::Result<()>) -> std::io::Result<String> {
    let mut all = Vec::new();
    for _ in 0..50 {
        let begun = Instant::now();
        for _ in 0..100 {
            call()?;
        }
        all.push(begun.elapsed().as_nanos() / 100);
    }
    all.sort_unstable();
    Ok(all[all.len() / 2].to_string())
}

fn binds_sctp(address: SocketAddr) -> std::io::Result<String> {
    let (stream, flags) = (SockType::Stream, SockFlag::empty());
    let socket = socket(AddressFamily::Inet, stream, flags, SockProtocol::Sctp)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    let own: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    Ok(own.to_string())
}

/// Reads what clients send.
fn swallows(address: SocketAddr) -> std::io::Result<String> {
    let listener = TcpListener::bind(address)?;
    let own = listener.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    Ok(own.to_string())
}

/// Sends for a second; gives how many megabytes it was.
fn floods(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let (begun, bytes, mut sent) = (Instant::now(), vec![0; 128 * 1024], 0_usize);
    while begun.elapsed() < Duration::from_secs(1) {
        sent += stream.write(&bytes)?;
    }
    Ok((sent / 1_000_000).to_string())
}

/// The whole answer of a server to a line of text, in one line.
fn asks(address: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.replace('|', "\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).replace(['\r', '\n'], " "))
}

fn unspecified(address: &SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((if address.is_ipv4() { "0.0.0.0" } else { "::" }, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The answer of a server, and the address that it comes from as the client sees it.
pub(crate) fn sends(address: SocketAddr) -> std::io::Result<String> {
    let socket = unspecified(&address)?;
    socket.send_to(b"?", address)?;
    let mut text = [0; 128];
    let (length, from) = socket.recv_from(&mut text)?;
    Ok(format!("{} from {from}", String::from_utf8_lossy(&text[..length])))
}

fn sends_connected(address: SocketAddr) -> std::io::Result<String> {
    let socket = unspecified(&address)?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut text = [0; 128];
    let (length, from) = socket.recv_from(&mut text)?;
    Ok(format!("{} from {from}", String::from_utf8_lossy(&text[..length])))
}
