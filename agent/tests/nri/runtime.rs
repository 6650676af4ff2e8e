//! A container runtime as the agent sees it, on a real Unix socket: as strict as containerd where it matters,
//! and as slow or hostile as a test wants. It writes and reads the frames with code of its own.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use tempfile::TempDir;

use autoport_agent::nri::message::{
    Configure, Configured, Container, Pod, RegisterPlugin, Request, Response, Status, Synchronize,
    Synchronized,
};

/// The connection on which the agent serves, and the one on which the runtime does.
pub(crate) const PLUGIN: u32 = 1;
pub(crate) const RUNTIME: u32 = 2;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Listens where a runtime would.
pub(crate) struct Runtime {
    listener: UnixListener,
    dir: TempDir,
}

impl Runtime {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the socket");
        let listener = UnixListener::bind(dir.path().join("nri.sock")).expect("a socket");
        Self { listener, dir }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("nri.sock")
    }

    pub(crate) fn accept(&self) -> Connection {
        let (stream, _) = self.listener.accept().expect("the agent connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        Connection { stream, frame: usize::MAX, calls: 0, held: Vec::new() }
    }

    /// Accepts an agent that has connected, and synchronizes it; none where there is none, or one that ends
    /// or is stopped meanwhile.
    pub(crate) fn connect_if_any(&self) -> Option<(String, Connection)> {
        let (registration, connection) = self.connect_with(Vec::new())?;
        Some((registration.plugin_idx, connection))
    }

    /// The same with these Pods; tells who it is.
    pub(crate) fn connect_with(&self, pods: Vec<Pod>) -> Option<(RegisterPlugin, Connection)> {
        self.listener.set_nonblocking(true).expect("a listener");
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).expect("a listener");
        let (stream, _) = accepted.ok()?;
        stream.set_nonblocking(false).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a time limit");
        let mut connection = Connection { stream, frame: usize::MAX, calls: 0, held: Vec::new() };
        let (stream, _, body) = connection.try_receive(RUNTIME).ok()?;
        let request = Request::decode(body.as_slice()).expect("a request");
        let registration = RegisterPlugin::decode(request.payload.as_slice()).expect("its payload");
        connection
            .try_send(RUNTIME, stream, RESPONSE, &Response::default().encode_to_vec())
            .ok()?;
        connection.call_if_alive("Configure", &Configure::default())?.ok()?;
        let synchronize = Synchronize { pods, ..Synchronize::default() };
        connection.call_if_alive("Synchronize", &synchronize)?.ok()?;
        Some((registration, connection))
    }

    /// Accepts, and does everything up to the first event.
    pub(crate) fn connect(&self, pods: Vec<Pod>, containers: Vec<Container>) -> Connection {
        let mut connection = self.accept();
        connection.register();
        connection.configure(2000);
        connection.synchronize(pods, containers, false).expect("it is synchronized");
        connection
    }
}

/// One agent's connection.
pub(crate) struct Connection {
    stream: UnixStream,
    /// How many bytes go into one frame, and into one write.
    pub(crate) frame: usize,
    calls: u32,
    /// What has arrived of the next message.
    held: Vec<u8>,
}

impl Connection {
    /// Reads the registration and accepts it.
    pub(crate) fn register(&mut self) -> RegisterPlugin {
        let (stream, registration) = self.registration();
        self.send(RUNTIME, stream, RESPONSE, &Response::default().encode_to_vec());
        registration
    }

    /// Reads the registration.
    pub(crate) fn registration(&mut self) -> (u32, RegisterPlugin) {
        let (stream, kind, body) = self.receive(RUNTIME);
        assert_eq!(kind, REQUEST);
        let request = Request::decode(body.as_slice()).expect("a request");
        assert_eq!(request.service, "nri.pkg.api.v1alpha1.Runtime");
        assert_eq!(request.method, "RegisterPlugin");
        (stream, RegisterPlugin::decode(request.payload.as_slice()).expect("a registration"))
    }

    /// Rejects the registration.
    pub(crate) fn reject(&mut self, stream: u32, message: &str) {
        let status = Some(Status { code: 2, message: message.to_owned() });
        let response = Response { status, payload: Vec::new() };
        self.send(RUNTIME, stream, RESPONSE, &response.encode_to_vec());
    }

    /// Gives the events that the agent asks for.
    pub(crate) fn configure(&mut self, request_timeout: i64) -> i32 {
        let configure = Configure { request_timeout, ..Configure::default() };
        let payload = self.call("Configure", &configure).expect("it can be configured");
        Configured::decode(payload.as_slice()).expect("an answer").events
    }

    /// Gives whether the agent takes another part.
    pub(crate) fn synchronize(
        &mut self,
        pods: Vec<Pod>,
        containers: Vec<Container>,
        more: bool,
    ) -> Result<bool, Status> {
        let payload = self.call("Synchronize", &Synchronize { pods, containers, more })?;
        Ok(Synchronized::decode(payload.as_slice()).expect("an answer").more)
    }

    /// Calls a method of the agent, and gives the payload of the response.
    pub(crate) fn call(&mut self, method: &str, payload: &impl Message) -> Result<Vec<u8>, Status> {
        self.call_within(method, payload, Duration::from_secs(2))
    }

    pub(crate) fn call_within(
        &mut self,
        method: &str,
        payload: &impl Message,
        limit: Duration,
    ) -> Result<Vec<u8>, Status> {
        let stream = self.ask(method, payload.encode_to_vec(), limit);
        self.response(stream)
    }

    /// The same for an agent that may have ended, or be stopped: none if it does not answer in 2 s.
    pub(crate) fn call_if_alive(
        &mut self,
        method: &str,
        payload: &impl Message,
    ) -> Option<Result<Vec<u8>, Status>> {
        let limit = Duration::from_secs(2);
        self.stream.set_read_timeout(Some(limit)).expect("a time limit");
        let (stream, body) = self.request(method, payload.encode_to_vec(), limit);
        self.try_send(PLUGIN, stream, REQUEST, &body).ok()?;
        let (answered, _, body) = self.try_receive(PLUGIN).ok()?;
        assert_eq!(answered, stream);
        Some(result(&body))
    }

    /// Sends a request, and gives the number of its stream.
    pub(crate) fn ask(&mut self, method: &str, payload: Vec<u8>, limit: Duration) -> u32 {
        let (stream, body) = self.request(method, payload, limit);
        self.send(PLUGIN, stream, REQUEST, &body);
        stream
    }

    fn request(&mut self, method: &str, payload: Vec<u8>, limit: Duration) -> (u32, Vec<u8>) {
        self.calls += 1;
        let request = Request {
            service: "nri.pkg.api.v1alpha1.Plugin".to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: limit.as_nanos().try_into().expect("a short time"),
        };
        (self.calls * 2 - 1, request.encode_to_vec())
    }

    pub(crate) fn response(&mut self, expected: u32) -> Result<Vec<u8>, Status> {
        let (stream, kind, body) = self.receive(PLUGIN);
        assert_eq!((stream, kind), (expected, RESPONSE));
        result(&body)
    }

    /// Reads until the agent has closed the session.
    pub(crate) fn wait_for_end(&mut self) {
        while !matches!(self.stream.read(&mut [0; 4096]), Ok(0)) {}
    }

    /// Sends one ttrpc message, in frames of the size that the test wants.
    pub(crate) fn send(&mut self, connection: u32, stream: u32, kind: u8, body: &[u8]) {
        self.try_send(connection, stream, kind, body).expect("the agent reads");
    }

    fn try_send(&mut self, connection: u32, stream: u32, kind: u8, body: &[u8]) -> io::Result<()> {
        let mut message = (body.len() as u32).to_be_bytes().to_vec();
        message.extend(stream.to_be_bytes());
        message.extend([kind, 0]);
        message.extend(body);
        for payload in message.chunks(self.frame) {
            let mut frame = connection.to_be_bytes().to_vec();
            frame.extend((payload.len() as u32).to_be_bytes());
            frame.extend(payload);
            self.try_write(&frame)?;
        }
        Ok(())
    }

    /// Sends bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).expect("the agent reads");
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(self.frame).try_for_each(|piece| self.stream.write_all(piece))
    }

    /// Reads one ttrpc message. A frame that containerd would not accept fails the test.
    fn receive(&mut self, connection: u32) -> (u32, u8, Vec<u8>) {
        self.try_receive(connection).expect("the agent answers")
    }

    fn try_receive(&mut self, connection: u32) -> io::Result<(u32, u8, Vec<u8>)> {
        loop {
            if let Some(message) = whole(&mut self.held) {
                return Ok(message);
            }
            let mut header = [0; 8];
            self.stream.read_exact(&mut header)?;
            assert_eq!(number(&header), connection);
            let length = number(&header[4..]) as usize;
            assert!(
                length <= 4096,
                "containerd drops an agent that sends a frame of {length} bytes"
            );
            let begin = self.held.len();
            self.held.resize(begin + length, 0);
            self.stream.read_exact(&mut self.held[begin..])?;
        }
    }
}

/// What a response says.
fn result(body: &[u8]) -> Result<Vec<u8>, Status> {
    let response = Response::decode(body).expect("a response");
    let failed = response.status.filter(|status| status.code != 0);
    failed.map_or(Ok(response.payload), Err)
}

/// Takes a message off the front, if it is complete.
fn whole(held: &mut Vec<u8>) -> Option<(u32, u8, Vec<u8>)> {
    let end = 10 + number(held.get(..10)?) as usize;
    let rest = (held.len() >= end).then(|| held.split_off(end))?;
    let message = std::mem::replace(held, rest);
    Some((number(&message[4..]), message[8], message[10..].to_vec()))
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}
