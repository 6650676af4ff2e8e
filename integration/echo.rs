//! Servers that answer with their name and with the address they were asked from.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, listen, socket,
};

use crate::netns::Netns;

/// A running server. It ends when this is dropped.
pub(crate) struct Echo {
    _alive: io::PipeWriter,
}

impl Echo {
    /// Answers as `name` on every address in `listen`, TCP and UDP, inside `place`.
    pub(crate) fn start(name: &str, place: &Netns, listen: &[SocketAddr]) -> Self {
        Self::serving(name, place.run(|| listen.iter().copied().flat_map(bind).collect()))
    }

    /// Answers as `name` on `listen` over SCTP, inside `place`.
    pub(crate) fn over_sctp(name: &str, place: &Netns, listen: SocketAddr) -> Self {
        Self::serving(name, vec![place.run(|| bind_sctp(listen))])
    }

    fn serving(name: &str, sockets: Vec<Server>) -> Self {
        let (ends, alive) = io::pipe().expect("a pipe can be made");
        let name = name.to_owned();
        thread::spawn(move || serve(&name, &sockets, ends));
        Self { _alive: alive }
    }
}

/// A socket that clients ask.
enum Server {
    /// TCP or SCTP: std does not care which.
    Stream(TcpListener),
    Udp(UdpSocket),
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

fn bind(address: SocketAddr) -> [Server; 2] {
    let tcp = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}/tcp: {error}"));
    let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}/udp: {error}"));
    tcp.set_nonblocking(true).expect("a listener can be non-blocking");
    udp.set_nonblocking(true).expect("a socket can be non-blocking");
    [Server::Stream(tcp), Server::Udp(udp)]
}

fn bind_sctp(address: SocketAddr) -> Server {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, SockProtocol::Sctp)
        .unwrap_or_else(|error| panic!("this kernel has no SCTP: {error}"));
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
        .unwrap_or_else(|error| panic!("{address}/sctp: {error}"));
    listen(&socket, Backlog::MAXCONN).expect("a bound socket can listen");
    Server::Stream(TcpListener::from(socket))
}

/// Runs until the other end of `ends` is closed.
fn serve(name: &str, sockets: &[Server], mut ends: io::PipeReader) {
    loop {
        let mut watched = vec![PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
        watched.extend(sockets.iter().map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            Err(error) => panic!("the echo server {name} cannot wait: {error}"),
            Ok(_) => {}
        }
        if watched[0].any().unwrap_or(true) {
            let _ = ends.read(&mut [0]);
            return;
        }
        for socket in sockets {
            match socket {
                Server::Stream(listener) => answer_stream(name, listener),
                Server::Udp(socket) => answer_udp(name, socket),
            }
        }
    }
}

/// Answers without waiting for a question, so that a silent client cannot hold the server up.
fn answer_stream(name: &str, listener: &TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept() {
        // A client that is gone already does not want the answer.
        let _ = stream.write_all(answer(name, peer).as_bytes());
    }
}

fn answer_udp(name: &str, socket: &UdpSocket) {
    let mut question = [0; 64];
    while let Ok((_, peer)) = socket.recv_from(&mut question) {
        let _ = socket.send_to(answer(name, peer).as_bytes(), peer);
    }
}

fn answer(name: &str, peer: SocketAddr) -> String {
    format!("{name} {}", peer.ip().to_canonical())
}

/// Takes an answer apart again.
pub(crate) fn parse(text: &str) -> Option<(String, IpAddr)> {
    let (name, source) = text.split_once(' ')?;
    Some((name.to_owned(), source.parse().ok()?))
}
