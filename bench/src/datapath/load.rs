//! The load: a server in the pod, and clients that connect to it from wherever they are started.
//!
//! Every connection ends in the client's reset, so that neither side keeps its port for a minute
//! (TIME-WAIT) and nobody runs out of them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, getsockopt, listen,
    setsockopt, socket, sockopt,
};

use crate::measure::micros;
use crate::node::Space;

/// The port on which every pod answers.
pub(super) const POD_PORT: u16 = 80;

/// How long a packet may take.
const PATIENCE: u16 = 4_000; // milliseconds

pub(super) const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// How much is written and read at once.
const CHUNK: usize = 128 << 10;

/// A TCP server that hangs up, or counts what it is sent; and a UDP server that echoes.
pub(super) struct Server {
    counting: Arc<AtomicBool>,
}

impl Server {
    /// Starts it in `pod`. It lives as long as this process.
    pub(super) fn start(pod: &Space) -> Self {
        let (tcp, udp) = pod.run(|| {
            let tcp = TcpListener::bind((ANY, POD_PORT)).expect("the pod's TCP port is free");
            // More than are ever made in one go: a full queue is no matter of the way there.
            let backlog = Backlog::new(4096).expect("a backlog");
            listen(&tcp, backlog).expect("a listening socket can be told again");
            let udp = UdpSocket::bind((ANY, POD_PORT)).expect("the pod's UDP port is free");
            (tcp, udp)
        });
        let server = Self { counting: Arc::default() };
        for _ in 0..2 {
            let tcp = tcp.try_clone().expect("a descriptor can be duplicated");
            let counting = Arc::clone(&server.counting);
            thread::spawn(move || {
                for stream in tcp.incoming().filter(|_| counting.load(Ordering::Relaxed)).flatten()
                {
                    count(stream);
                }
            });
        }
        thread::spawn(move || {
            let mut datagram = [0; 64];
            while let Ok((len, from)) = udp.recv_from(&mut datagram) {
                // Somebody who went away misses nothing.
                let _ = udp.send_to(&datagram[..len], from);
            }
        });
        server
    }

    /// Sends to `to` for a while, over one connection, and tells how many Gbit/s arrived.
    pub(super) fn throughput(&self, to: SocketAddr, during: Duration) -> f64 {
        self.counting.store(true, Ordering::Relaxed);
        let mut stream = TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        let chunk = vec![0; CHUNK];
        let start = Instant::now();
        while start.elapsed() < during {
            stream.write_all(&chunk).unwrap_or_else(|error| panic!("sending to {to}: {error}"));
        }
        stream.shutdown(Shutdown::Write).expect("a connected socket can be shut down");
        let mut arrived = [0; 8];
        stream.read_exact(&mut arrived).unwrap_or_else(|error| panic!("asking {to}: {error}"));
        let took = start.elapsed();
        self.counting.store(false, Ordering::Relaxed);
        u64::from_be_bytes(arrived) as f64 * 8.0 / took.as_secs_f64() / 1e9
    }
}

/// Reads until nothing more comes, and answers how much that was.
fn count(mut stream: TcpStream) {
    let mut chunk = vec![0; CHUNK];
    let mut arrived = 0_u64;
    while let Ok(len @ 1..) = stream.read(&mut chunk) {
        arrived += len as u64;
    }
    // A client that was still hanging up when counting began does not want to know.
    let _ = stream.write_all(&arrived.to_be_bytes());
}

/// A connection that is being made.
struct Attempt {
    socket: OwnedFd,
    began: Instant,
}

impl Attempt {
    fn begin(to: SocketAddr) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)
            .expect("a socket can be made");
        let reset_on_close = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&socket, sockopt::Linger, &reset_on_close).expect("SO_LINGER can be set");
        let to = SockaddrStorage::from(to);
        let began = Instant::now();
        match connect(socket.as_raw_fd(), &to) {
            Ok(()) | Err(Errno::EINPROGRESS) => Self { socket, began },
            Err(error) => panic!("{to}: {error}"),
        }
    }
}

/// Makes `crowd` connections at once and tells how long each took, in microseconds.
fn connect_crowd(to: SocketAddr, crowd: usize) -> Vec<f64> {
    let attempts: Vec<Attempt> = (0..crowd).map(|_| Attempt::begin(to)).collect();
    let mut waiting: Vec<&Attempt> = attempts.iter().collect();
    let mut latencies = Vec::with_capacity(crowd);
    while !waiting.is_empty() {
        let mut polled: Vec<PollFd<'_>> =
            waiting.iter().map(|one| PollFd::new(one.socket.as_fd(), PollFlags::POLLOUT)).collect();
        let ready = poll(&mut polled, PATIENCE).expect("sockets can be polled");
        assert_ne!(ready, 0, "{to} does not answer");
        let ready: Vec<bool> = polled.iter().map(|one| one.any() == Some(true)).collect();
        let mut ready = ready.into_iter();
        waiting.retain(|attempt| {
            let is_ready = ready.next() == Some(true);
            if is_ready {
                latencies.push(micros(attempt.began.elapsed()));
                let errno = getsockopt(&attempt.socket, sockopt::SocketError);
                assert_eq!(errno, Ok(0), "connecting to {to}");
            }
            !is_ready
        });
    }
    latencies
}

/// Makes `count` connections, `crowd` at a time: microseconds each, and how many per second.
pub(super) fn connect_all(to: SocketAddr, count: usize, crowd: usize) -> (Vec<f64>, f64) {
    let start = Instant::now();
    let latencies: Vec<f64> = (0..count / crowd).flat_map(|_| connect_crowd(to, crowd)).collect();
    let per_second = latencies.len() as f64 / start.elapsed().as_secs_f64();
    (latencies, per_second)
}

/// Sends one datagram from each of `count` new sockets and waits for its echo: microseconds each.
pub(super) fn first_datagrams(to: SocketAddr, count: usize) -> Vec<f64> {
    let once = || {
        let socket = UdpSocket::bind((ANY, 0)).expect("a port is free");
        socket
            .set_read_timeout(Some(Duration::from_millis(PATIENCE.into())))
            .expect("a timeout can be set");
        socket.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        let start = Instant::now();
        socket.send(b"?").unwrap_or_else(|error| panic!("{to}: {error}"));
        socket.recv(&mut [0; 64]).unwrap_or_else(|error| panic!("no echo from {to}: {error}"));
        micros(start.elapsed())
    };
    (0..count).map(|_| once()).collect()
}
