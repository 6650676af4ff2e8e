//! A TCP connection through a host port that must survive changes of the rules.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::stage::node::{FIRST, Node, Pod, address};

/// A packet may have to be sent again, and the machine may be busy with something else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the pod listens.
pub(crate) const POD_PORT: u16 = 81;

/// The client's end. The other one sends back what it hears, for as long as this one is open.
pub(crate) struct Talk {
    stream: TcpStream,
    said: u8,
}

impl Talk {
    /// Connects the node's client to `port` of the node, which must lead to [`POD_PORT`] of `pod`.
    pub(crate) fn begin(node: &Node, pod: &Pod, port: u16) -> Self {
        let listener = pod.netns.run(|| TcpListener::bind(("::", POD_PORT)).expect("a free port"));
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                let _ = stream.write_all(&byte);
            }
        });
        let to = (address(FIRST[0]), port);
        let stream = node.client.run(|| TcpStream::connect(to).expect("a connection"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream, said: 0 }
    }

    /// Insists that a byte comes back that was not said before.
    pub(crate) fn goes_on(&mut self, what: &str) {
        self.said += 1;
        let mut heard = [0];
        let talked = self.stream.write_all(&[self.said]);
        let talked = talked.and_then(|()| self.stream.read_exact(&mut heard));
        assert!(talked.is_ok() && heard == [self.said], "{what}: {talked:?}, {heard:?}");
    }
}
