//! One connection to the runtime, from registration to its end.

use std::future::pending;
use std::io;
use std::path::Path;
use std::time::Duration;

use autoport::diagnosis::NO_NRI_SOCKET;
use futures_util::FutureExt as _;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::call::{self, Answer, Call, Event, Failure};
use super::frame::{Decoder, Kind, Message, Service, TooLarge};
use super::message::{Configure, Container, Pod, Request};

/// The pause between two attempts to connect. Constant and short: kubelet starts pods as soon as a
/// restarted runtime answers.
pub const RETRY: Duration = Duration::from_millis(100);

/// What a runtime allows for an event where it does not say.
const USUAL_LIMIT: Duration = Duration::from_secs(2);

/// The most that the agent takes for an event.
const LONGEST: Duration = Duration::from_secs(1);

/// How long the runtime may take to accept bytes. It reads all the time, so this is a runtime that is
/// stopped, or no runtime.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// The most bytes of pods and containers that the agent takes when it connects: those of 256 pods with as many
/// annotations as Kubernetes permits, 256 KiB each.
pub const LIST_MAX: usize = 64 << 20;

/// The stream ID of the registration; the agent makes no other call.
const REGISTRATION: u32 = 1;

const BUFFER: usize = 64 << 10;

/// Under which name and index the agent registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    name: String,
    index: u8,
}

impl Identity {
    /// # Errors
    /// When the index has more than two digits. Plugins are called in ascending order of their indices.
    pub fn new(name: &str, index: u8) -> Result<Self, IndexTooLarge> {
        if index > 99 {
            return Err(IndexTooLarge(index));
        }
        Ok(Self { name: name.to_owned(), index })
    }

    /// The same under another name, for [`Session::list`].
    #[must_use]
    pub fn listing(&self) -> Self {
        Self { name: format!("{}-list", self.name), index: self.index }
    }

    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// Exactly two digits, as runtimes demand.
    fn digits(&self) -> String {
        format!("{:02}", self.index)
    }
}

/// An index that no runtime accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the NRI index {0} is too large: it must be 0 to 99")]
pub struct IndexTooLarge(pub u8);

/// Why there is no session, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to the runtime")]
    Connect { source: io::Error },
    #[error("the socket does not exist: {NO_NRI_SOCKET}")]
    NoSocket,
    #[error("the connection to the runtime failed")]
    Io {
        #[from]
        source: io::Error,
    },
    #[error("the runtime closed the connection")]
    Closed,
    #[error("the runtime does not read the agent's answer; it may be stopped")]
    Stuck,
    #[error("the runtime rejected the registration: {0}")]
    Rejected(String),
    #[error("the runtime sent bytes that are not NRI")]
    Frame {
        #[from]
        source: TooLarge,
    },
    #[error(
        "the runtime lists more than {} MiB of pods and containers; delete pods with large annotations \
         from this node", LIST_MAX >> 20
    )]
    ListTooLong,
    #[error("the runtime's answer to the registration cannot be decoded")]
    Response { source: prost::DecodeError },
}

/// An event, and what its answer needs.
#[derive(Debug)]
pub struct Asked {
    pub event: Event,
    /// By then the agent must have answered. The runtime waits for twice as long at least; then it
    /// drops the agent and goes on without it.
    pub limit: Duration,
    /// The number of the call, for [`Session::answer`].
    pub stream: u32,
}

/// A connection to the runtime.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    decoder: Decoder,
    buffer: Box<[u8]>,
    runtime: Configure,
    /// The events that the runtime sends, a bit for each.
    events: i32,
    /// The parts of Synchronize so far, and their size.
    listed: usize,
    pods: Vec<Pod>,
    containers: Vec<Container>,
}

impl Session {
    /// Connects and registers. Both at once: the runtime accepts one connection after the other, and
    /// all others wait for one that does not register.
    ///
    /// # Errors
    /// When nothing listens on `socket`.
    pub async fn open(socket: &Path, identity: &Identity) -> Result<Self, Error> {
        let connect = |source: io::Error| {
            let is_missing = source.kind() == io::ErrorKind::NotFound;
            if is_missing { Error::NoSocket } else { Error::Connect { source } }
        };
        let stream = UnixStream::connect(socket).await.map_err(connect)?;
        let mut session = Self {
            stream,
            decoder: Decoder::default(),
            buffer: vec![0; BUFFER].into(),
            runtime: Configure::default(),
            events: call::EVENTS,
            listed: 0,
            pods: Vec::new(),
            containers: Vec::new(),
        };
        let (name, index) = (&identity.name, identity.digits());
        session.send(&call::registration(REGISTRATION, name, &index)).await?;
        Ok(session)
    }

    /// Asks the runtime for its sandboxes, by a registration that lasts for that time only.
    ///
    /// # Errors
    /// When the runtime does not list them.
    pub async fn list(socket: &Path, identity: &Identity) -> Result<Vec<Pod>, Error> {
        let mut session = Self::open(socket, identity).await?;
        session.events = call::FEWEST_EVENTS;
        loop {
            let Asked { event, stream, .. } = session.next().await?;
            session.answer(stream, Ok(Answer::Done)).await?;
            if let Event::Synchronized { pods, .. } = event {
                return Ok(pods);
            }
        }
    }

    /// The next event. Its answer is due before this is called again.
    ///
    /// # Errors
    /// When the session is over, although an event may be unread: the runtime has asked the next agent already. A
    /// new session is to be opened after [`RETRY`].
    pub async fn next(&mut self) -> Result<Asked, Error> {
        loop {
            while let Some(message) = self.decoder.pop() {
                if let Some(asked) = self.receive(message).await? {
                    return self.over().now_or_never().map_or(Ok(asked), Err);
                }
            }
            self.read().await?;
        }
    }

    /// Waits for the end of the session while an event is answered.
    pub async fn over(&mut self) -> Error {
        // The runtime has one call in work. What it sends all the same is left unread, so that it does not pile up.
        while self.decoder.is_empty() {
            if let Err(error) = self.read().await {
                return error;
            }
        }
        pending().await
    }

    async fn read(&mut self) -> Result<(), Error> {
        let read = self.stream.read(&mut self.buffer).await?;
        if read == 0 {
            return Err(Error::Closed);
        }
        Ok(self.decoder.feed(&self.buffer[..read])?)
    }

    /// Answers an event.
    ///
    /// # Errors
    /// When the session is over: the runtime may not know of the answer.
    pub async fn answer(
        &mut self,
        stream: u32,
        answer: Result<Answer, Failure>,
    ) -> Result<(), Error> {
        self.send(&call::answer(stream, answer)).await
    }

    /// The name and version of the runtime, for people: distributions write what they like.
    #[must_use]
    pub fn runtime(&self) -> (&str, &str) {
        (&self.runtime.runtime_name, &self.runtime.runtime_version)
    }

    async fn receive(&mut self, message: Message) -> Result<Option<Asked>, Error> {
        let stream = message.stream;
        match (message.service, message.kind) {
            (Service::Plugin, Kind::Request) => {}
            (Service::Runtime, Kind::Response) if stream == REGISTRATION => {
                let rejection = call::rejection(&message.body);
                let rejection = rejection.map_err(|source| Error::Response { source })?;
                return rejection.map_or(Ok(None), |reason| Err(Error::Rejected(reason)));
            }
            _ => return Ok(None),
        }
        let request = Request::decode(message.body.as_slice());
        let call = request.and_then(|request| Ok((Call::of(&request)?, request)));
        let (call, request) = match call {
            Ok(decoded) => decoded,
            Err(error) => {
                self.send(&call::undecodable(stream, &error)).await?;
                return Ok(None);
            }
        };
        let limit = self.limit(request.timeout_nano);
        let reply = match call {
            Call::Event(event) => return Ok(Some(Asked { event: *event, limit, stream })),
            Call::Synchronize(mut part) => {
                self.listed += request.payload.len();
                if self.listed > LIST_MAX {
                    return Err(Error::ListTooLong);
                }
                self.pods.append(&mut part.pods);
                self.containers.append(&mut part.containers);
                if !part.more {
                    self.listed = 0;
                    let pods = std::mem::take(&mut self.pods);
                    let containers = std::mem::take(&mut self.containers);
                    let event = Event::Synchronized { pods, containers };
                    return Ok(Some(Asked { event, limit, stream }));
                }
                call::part_taken(stream)
            }
            Call::Configure(runtime) => {
                self.runtime = runtime;
                call::configured(stream, self.events)
            }
            Call::Ignored => call::nothing(stream),
            Call::Unknown => call::unknown(stream, &request.method),
        };
        self.send(&reply).await?;
        Ok(None)
    }

    /// How long the agent may take: half of what the runtime allows, and never more than [`LONGEST`].
    fn limit(&self, timeout_nano: i64) -> Duration {
        let given = |number: i64, unit: fn(u64) -> Duration| {
            u64::try_from(number).ok().filter(|number| *number > 0).map(unit)
        };
        let configured = given(self.runtime.request_timeout, Duration::from_millis);
        let left = given(timeout_nano, Duration::from_nanos);
        let allowed = configured.unwrap_or(USUAL_LIMIT);
        (left.unwrap_or(allowed).min(allowed) / 2).min(LONGEST)
    }

    async fn send(&mut self, message: &Message) -> Result<(), Error> {
        let bytes = message.encode()?;
        let sent = timeout(WRITE_LIMIT, self.stream.write_all(&bytes)).await;
        Ok(sent.map_err(|_| Error::Stuck)??)
    }
}
