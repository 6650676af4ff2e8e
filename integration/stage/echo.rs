//! Servers that reply with their name and with the client's address.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::stage::netns::Netns;

/// A running server. It ends when this is dropped.
pub(crate) struct Echo {
    _alive: io::PipeWriter,
}

impl Echo {
    /// Answers as `name` on every address in `listen`, TCP and UDP, inside `place`.
    pub(crate) fn start(name: &str, place: &Netns, listen: &[SocketAddr]) -> Self {
        Self::serving(name, place.run(|| listen.iter().copied().flat_map(bind).collect()))
    }

    /// Answers on each of `sockets` as `name`. The sockets do not block.
    pub(crate) fn serving(name: &str, sockets: Vec<Server>) -> Self {
        let (ends, alive) = io::pipe().expect("a pipe can be made");
        let name = name.to_owned();
        thread::spawn(move || serve(&name, &sockets, ends));
        Self { _alive: alive }
    }
}

/// A socket that clients ask.
pub(crate) enum Server {
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
