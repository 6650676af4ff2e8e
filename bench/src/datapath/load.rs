//! What one node has to carry in its turn.
//!
//! The sockets of both ends belong to one thread, so that each packet is processed by its sender: nobody is woken
//! up. Every TCP connection ends in the client's reset, so that neither side keeps its port for a minute (TIME-WAIT).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::stats::median;

/// How many connections are made in a turn, and what goes to and fro by each.
const CONNECTIONS: usize = 25;
const ROUNDS: usize = 20;

/// How long a datagram may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where connections and datagrams arrive.
pub(super) struct Ends {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Ends {
    pub(super) fn open(own: SocketAddr) -> Self {
        let tcp = TcpListener::bind(own).expect("the pod's TCP port is free");
        Self { tcp, udp: datagrams(own) }
    }

    /// The medians of one turn in nanoseconds, for a client in the calling thread's namespace.
    pub(super) fn measure(&self, to: SocketAddr) -> [(&'static str, f64); 5] {
        let (connects, rounds) = (0..CONNECTIONS).map(|_| self.connection(to)).unzip();
        let wholes = (0..CONNECTIONS).map(|_| self.whole(to)).collect();
        let firsts = (0..CONNECTIONS).map(|_| self.echo(&client(to))).collect();
        let known = client(to);
        let datagrams = (0..CONNECTIONS).map(|_| self.datagram(&known)).collect();
        let all = [
            ("connect", connects),
            ("round_trip", rounds),
            ("whole", wholes),
            ("first", firsts),
            ("datagram", datagrams),
        ];
        all.map(|(name, values): (_, Vec<f64>)| (name, median(&values)))
    }

    /// Times connect(2), and a byte there and back when the connection is established.
    fn connection(&self, to: SocketAddr) -> (f64, f64) {
        let began = Instant::now();
        let mut client = connect(to);
        let took = nanoseconds(began);
        let (mut server, _) = self.tcp.accept().expect("it is connected");
        for socket in [&client, &server] {
            socket.set_nodelay(true).expect("TCP_NODELAY can be set");
        }
        round(&mut client, &mut server);
        // One by one: the median is without what a tick of the clock takes.
        let mut timed = || {
            let began = Instant::now();
            round(&mut client, &mut server);
            nanoseconds(began)
        };
        let rounds: Vec<f64> = (0..ROUNDS).map(|_| timed()).collect();
        reset(&client);
        (took, median(&rounds))
    }

    /// Times a connection with one request.
    fn whole(&self, to: SocketAddr) -> f64 {
        let began = Instant::now();
        let mut client = connect(to);
        let (mut server, _) = self.tcp.accept().expect("it is connected");
        round(&mut client, &mut server);
        reset(&client);
        drop(client);
        nanoseconds(began)
    }

    /// Times a datagram there and one back: the first ones, if the client is new.
    fn echo(&self, client: &UdpSocket) -> f64 {
        let mut byte = [0];
        let began = Instant::now();
        client.send(&[1]).expect("a datagram can be sent");
        let (_, from) = self.udp.recv_from(&mut byte).expect("it arrives");
        self.udp.send_to(&[2], from).expect("the answer can be sent");
        client.recv(&mut byte).expect("it arrives");
        nanoseconds(began)
    }

    /// Times one datagram after an echo.
    fn datagram(&self, client: &UdpSocket) -> f64 {
        self.echo(client);
        let began = Instant::now();
        client.send(&[1]).expect("a datagram can be sent");
        let took = nanoseconds(began);
        self.udp.recv(&mut [0]).expect("it arrives");
        took
    }
}

fn nanoseconds(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64
}

fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).unwrap_or_else(|error| panic!("{to}: {error}"))
}

fn round(client: &mut TcpStream, server: &mut TcpStream) {
    let mut byte = [0];
    let asked = client.write_all(&[1]).and_then(|()| server.read_exact(&mut byte));
    let answered = server.write_all(&[2]).and_then(|()| client.read_exact(&mut byte));
    asked.and(answered).expect("an established connection");
}

/// Has the connection end with one packet.
fn reset(client: &TcpStream) {
    let reset_on_close = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(client, sockopt::Linger, &reset_on_close).expect("SO_LINGER can be set");
}

fn datagrams(own: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(own).expect("the UDP port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

/// A new client of `to`.
fn client(to: SocketAddr) -> UdpSocket {
    let any: IpAddr =
        if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = datagrams((any, 0).into());
    socket.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"));
    socket
}
