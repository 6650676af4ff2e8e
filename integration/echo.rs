//! Servers that answer with their name and with the address they were asked from.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Netns;

/// A running server. It ends when this is dropped.
pub(crate) struct Echo {
    _alive: io::PipeWriter,
}

impl Echo {
    /// Answers as `name` on every address in `listen`, TCP and UDP, inside `place`.
    pub(crate) fn start(name: &str, place: &Netns, listen: &[SocketAddr]) -> Self {
        let sockets = place.run(|| listen.iter().map(|address| bind(*address)).collect::<Vec<_>>());
        let (ends, alive) = io::pipe().expect("a pipe can be made");
        let name = name.to_owned();
        thread::spawn(move || serve(&name, &sockets, ends));
        Self { _alive: alive }
    }
}

fn bind(address: SocketAddr) -> (TcpListener, UdpSocket) {
    let tcp = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}/tcp: {error}"));
    let udp = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}/udp: {error}"));
    tcp.set_nonblocking(true).expect("a listener can be non-blocking");
    udp.set_nonblocking(true).expect("a socket can be non-blocking");
    (tcp, udp)
}

/// Runs until the other end of `ends` is closed.
fn serve(name: &str, sockets: &[(TcpListener, UdpSocket)], mut ends: io::PipeReader) {
    loop {
        let mut watched = vec![PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
        for (tcp, udp) in sockets {
            watched.push(PollFd::new(tcp.as_fd(), PollFlags::POLLIN));
            watched.push(PollFd::new(udp.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            Err(error) => panic!("the echo server {name} cannot wait: {error}"),
            Ok(_) => {}
        }
        if watched[0].any().unwrap_or(true) {
            let _ = ends.read(&mut [0]);
            return;
        }
        for (tcp, udp) in sockets {
            answer_tcp(name, tcp);
            answer_udp(name, udp);
        }
    }
}

/// Answers without waiting for a question, so that a silent client cannot hold the server up.
fn answer_tcp(name: &str, listener: &TcpListener) {
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
