//! The client: connects to an address, and describes the result.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockopt,
    socket, sockopt,
};

use crate::stage::echo;
use crate::stage::node;

/// How long an answer that should come may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);

/// How long to listen where no answer should come.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// What the tests ask over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    /// Not every kernel has it.
    Sctp,
}

impl Transport {
    /// Those that every kernel has.
    pub(crate) const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As a port mapping spells it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The server `by` answered, and saw `source`.
    Reached { by: String, source: IpAddr },
    /// Refused at once (RST, ICMP port unreachable).
    Refused,
    /// Nothing came back in time.
    Silence,
    /// Something else, in words.
    Odd(String),
}

impl Answer {
    /// What a pod answers that saw `source`.
    pub(crate) fn reached(by: &str, source: &str) -> Self {
        Self::Reached { by: by.to_owned(), source: node::address(source) }
    }

    /// The name of the server that answered.
    pub(crate) fn by(&self) -> Option<&str> {
        match self {
            Self::Reached { by, .. } => Some(by),
            Self::Refused | Self::Silence | Self::Odd(_) => None,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached { by, source } => write!(out, "{by} answered and saw {source}"),
            Self::Refused => write!(out, "refused"),
            Self::Silence => write!(out, "silence"),
            Self::Odd(what) => write!(out, "{what}"),
        }
    }
}

/// The source address the kernel chooses towards `to`, in the calling thread's namespace.
pub(crate) fn source_towards(to: SocketAddr) -> IpAddr {
    let any = Probe::new(Transport::Udp, to).source();
    let socket = UdpSocket::bind(any).expect("a port is free");
    socket.connect(to).unwrap_or_else(|error| panic!("no route to {to}: {error}"));
    socket.local_addr().expect("a connected socket has an address").ip()
}

/// One question from the calling thread's namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) transport: Transport,
    pub(crate) to: SocketAddr,
    /// The source, where the kernel should not choose it; its port may be 0.
    pub(crate) from: Option<SocketAddr>,
    pub(crate) patience: Duration,
}

impl Probe {
    /// A question that expects an answer.
    pub(crate) fn new(transport: Transport, to: impl Into<SocketAddr>) -> Self {
        Self { transport, to: to.into(), from: None, patience: PATIENCE }
    }

    /// The same over TCP, with the address as the tests write it.
    pub(crate) fn tcp(address: &str, port: u16) -> Self {
        Self::new(Transport::Tcp, (node::address(address), port))
    }

    /// The same over UDP.
    pub(crate) fn udp(address: &str, port: u16) -> Self {
        Self::new(Transport::Udp, (node::address(address), port))
    }

    /// The same over SCTP.
    pub(crate) fn sctp(address: &str, port: u16) -> Self {
        Self::new(Transport::Sctp, (node::address(address), port))
    }

    /// Sends from this address, and from this port unless it is 0.
    pub(crate) fn from(mut self, address: &str, port: u16) -> Self {
        self.from = Some(SocketAddr::new(node::address(address), port));
        self
    }

    /// Expects no answer.
    pub(crate) fn in_vain(mut self) -> Self {
        self.patience = SILENCE;
        self
    }

    /// Asks, once.
    pub(crate) fn ask(&self) -> Answer {
        let outcome = match self.transport {
            Transport::Tcp | Transport::Sctp => self.ask_stream(),
            Transport::Udp => self.ask_udp(),
        };
        match outcome {
            Ok(text) => match echo::parse(&text) {
                Some((by, source)) => Answer::Reached { by, source },
                None => Answer::Odd(format!("somebody else answered: {text:?}")),
            },
            Err(error) => {
                let is = |kinds: &[io::ErrorKind]| kinds.contains(&error.kind());
                if is(&[io::ErrorKind::ConnectionRefused]) {
                    Answer::Refused
                } else if is(&[io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut]) {
                    Answer::Silence
                } else {
                    Answer::Odd(error.to_string())
                }
            }
        }
    }

    /// Where the socket is bound to before it connects.
    fn source(&self) -> SocketAddr {
        let any = match self.to {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        self.from.unwrap_or(SocketAddr::new(any, 0))
    }

    fn ask_stream(&self) -> io::Result<String> {
        let mut stream = self.connect()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(self.patience))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// `TcpStream::connect_timeout` with a choice of source address, and of SCTP.
    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let family = if self.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let protocol = match self.transport {
            Transport::Tcp => SockProtocol::Tcp,
            Transport::Udp => SockProtocol::Udp,
            Transport::Sctp => SockProtocol::Sctp,
        };
        let socket = socket(family, SockType::Stream, flags, protocol)?;
        let source = SockaddrStorage::from(self.source());
        once_free(|| Ok(bind(socket.as_raw_fd(), &source)?))?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(self.to)) {
            Ok(()) => return Ok(socket.into()),
            Err(nix::Error::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let patience = PollTimeout::try_from(self.patience).map_err(io::Error::other)?;
        let ready = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], patience)?;
        match (ready, getsockopt(&socket, sockopt::SocketError)?) {
            (0, _) => Err(io::ErrorKind::TimedOut.into()),
            (_, 0) => Ok(socket.into()),
            (_, errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn ask_udp(&self) -> io::Result<String> {
        let socket = once_free(|| UdpSocket::bind(self.source()))?;
        socket.connect(self.to)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.send(b"?")?;
        let mut answer = [0; 128];
        let length = socket.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

/// Binds a socket, and again while the port is taken: a process that another test is starting has our
/// sockets until its exec(2), those too that are closed here.
fn once_free<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}
