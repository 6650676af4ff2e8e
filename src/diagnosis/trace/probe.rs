//! A real packet, from this node: what came of it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use serde::Serialize;

use super::Query;
use crate::model::{Family, Protocol};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of a packet.
#[derive(Serialize)]
pub struct Probe {
    pub answered: bool,
    /// In a few words.
    pub said: String,
}

/// Connects, or sends a datagram, to where `query` asks, whoever the client is there.
pub fn probe(query: &Query) -> Probe {
    let to = SocketAddr::new(query.host.address, query.host.port.get());
    let outcome = match query.host.protocol {
        Protocol::Tcp => TcpStream::connect_timeout(&to, PATIENCE).map(drop),
        Protocol::Udp => ask(to),
        Protocol::Sctp => Err(ErrorKind::Unsupported.into()),
    };
    let said = match &outcome {
        Ok(()) => "it answered".to_owned(),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "it was refused".to_owned(),
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
            format!("no answer within {} s", PATIENCE.as_secs())
        }
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            "nothing was sent: only tcp and udp can be probed".to_owned()
        }
        Err(error) => error.to_string(),
    };
    Probe { answered: outcome.is_ok(), said }
}

/// A program that does not understand the datagram may well stay silent.
fn ask(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind((Family::of(&to.ip()).wildcard(), 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"autoport trace")?;
    socket.recv(&mut [0; 1]).map(drop)
}
