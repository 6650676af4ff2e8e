//! What a runtime is told when something fails: the error and its number.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use crate::model::HostPort;
use crate::{cni, kernel, netns, plan, store};

/// What to do when the kernel answers a question or a change with EPERM.
const NO_PRIVILEGE: &str = "autoport needs the capability CAP_NET_ADMIN over the network namespace \
                            it runs in";

/// How long the process behind a listener is looked for.
const NAMING: Duration = Duration::from_millis(100);

/// Any failure of a command.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "a field is named for what it is")]
pub enum Error {
    /// Standard input could not be read.
    #[error("cannot read the network configuration on stdin")]
    Stdin { source: io::Error },
    /// The request was not understood.
    #[error(transparent)]
    Request(#[from] cni::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The kernel failed.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// A namespace of this process could not be examined.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The sandbox that asks does not exist any more.
    #[error(
        "CNI_NETNS {0}: its sandbox no longer exists, so no host port was assigned; create the sandbox again"
    )]
    NoNamespace(netns::Missing),
    /// The runtime that asked has ended, so it would never release the host ports.
    #[error(
        "the runtime no longer waits for the reply, so no host port was assigned; send the request again"
    )]
    NotAwaited,
    /// Another holder has a host port that overlaps the wanted one.
    #[error("host port {wanted} is held by {holder}{}; free it there or ask for another port",
        if wanted == held { String::new() } else { format!(" as {held}") })]
    Taken { wanted: HostPort, held: HostPort, holder: String },
    /// The operator forbids it.
    #[error(transparent)]
    Forbidden(#[from] plan::Forbidden),
    /// A process of the host has the port.
    #[error(
        "host port {wanted} is in use on the host: {}{listener} listens there; stop it, ask for \
         another port, {}or set hostListeners to \"ignore\"",
        process.as_ref().map_or(String::new(), |process| format!("{process}, ")),
        if wanted.is_wildcard() && !listener.address.is_unspecified() {
            "leave out its address (a host IP for the port, or hostAddresses for the network), "
        } else { "" },
    )]
    Listening {
        wanted: HostPort,
        listener: Box<kernel::Listener>,
        /// The process, where it was looked for and found.
        process: Option<kernel::Process>,
    },
    /// No number was left to choose.
    #[error(transparent)]
    Exhausted(#[from] plan::Exhausted),
    /// Something that is asked for is in a record that cannot be read.
    #[error("{what} is in a record that cannot be read")]
    Unreadable { what: String, source: store::Unreadable },
    /// CHECK found something that is not as ADD left it.
    #[error(
        "{attachment} differs from what ADD made: {difference}; ADD it again, or run `autoport repair`"
    )]
    Different { attachment: String, difference: String },
    /// STATUS: ADD could not work.
    #[error("host ports cannot be mapped on this node")]
    Unavailable { source: Box<Error> },
}

impl Error {
    /// The `code` of the reply: below 100 the specification's, from 100 ours. The table for people
    /// is docs/errors.md.
    ///
    /// There is no wildcard arm, so a new failure does not compile until someone has decided what
    /// the runtime is told.
    pub fn code(&self) -> u32 {
        match self {
            Self::Request(error) => request_code(error),
            Self::Store(error) => store_code(error),
            Self::Kernel(error) => kernel_code(error),
            Self::Stdin { .. } | Self::Netns(_) | Self::NotAwaited => 5,
            Self::NoNamespace(_) => 4,
            Self::Taken { .. } => 100,
            Self::Exhausted(exhausted) if exhausted.never => 104,
            Self::Exhausted(_) => 101,
            Self::Unreadable { .. } => 102,
            Self::Listening { .. } => 103,
            Self::Forbidden(_) => 104,
            Self::Different { .. } => 120,
            Self::Unavailable { .. } => 50,
        }
    }

    /// This error with the process behind a listener. That is looked for among all processes of the
    /// node, so this is for after the lock, and gives up in time.
    pub fn with_process(mut self) -> Self {
        if let Self::Listening { listener, process, .. } = &mut self {
            *process = kernel::Process::of(listener, NAMING);
        }
        self
    }

    /// Whether it is the kernel that refused something.
    fn is_the_kernels(&self) -> bool {
        matches!(self, Self::Kernel(_))
            || matches!(self, Self::Unavailable { source } if source.is_the_kernels())
    }

    /// This error with its causes, for a line of text.
    pub fn in_one_line(&self) -> String {
        let details = self.details();
        let separator = if details.is_empty() { "" } else { ": " };
        format!("{self}{separator}{details}")
    }

    /// The causes, outermost first, for the reply's `details`.
    pub fn details(&self) -> String {
        let mut told = causes(self);
        if self.is_the_kernels() && is_denied(self) {
            told = format!("{told}: {NO_PRIVILEGE}");
        }
        told
    }
}

/// What [`StdError::source`] gives.
pub type Cause = dyn StdError + 'static;

/// The causes of an error, outermost first.
pub fn causes(error: &Cause) -> String {
    chain(error).skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// An error with its causes, but not those that it has in its own words.
pub fn in_one_line(error: &Cause) -> String {
    chain(error).map(ToString::to_string).fold(String::new(), |told, cause| {
        match (told.is_empty(), told.contains(&cause)) {
            (true, _) => cause,
            (_, true) => told,
            _ => format!("{told}: {cause}"),
        }
    })
}

/// Whether a lack of privilege is among an error and its causes.
pub fn is_denied(error: &Cause) -> bool {
    chain(error).any(|error| {
        let io = error.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied)
    })
}

/// An error and its causes, outermost first.
fn chain(error: &Cause) -> impl Iterator<Item = &Cause> {
    std::iter::successors(Some(error), |error| (**error).source())
}

const fn request_code(error: &cni::Error) -> u32 {
    match error {
        cni::Error::IncompatibleVersion { .. } => 1,
        cni::Error::Unsupported { .. } => 2,
        cni::Error::Environment { .. } => 4,
        cni::Error::NodeFile { .. } => 5,
        cni::Error::Decode { .. } | cni::Error::WrongType { .. } => 6,
        cni::Error::Invalid { .. } | cni::Error::NeedsSpec { .. } => 7,
        cni::Error::TooMany { .. } => 104,
    }
}

const fn store_code(error: &store::Error) -> u32 {
    match error {
        store::Error::Io { .. } | store::Error::Netns(_) => 5,
        store::Error::NotADirectory { .. }
        | store::Error::ForeignOwner { .. }
        | store::Error::WritableByOthers { .. }
        | store::Error::OtherNetns { .. }
        | store::Error::Name(_)
        | store::Error::NotPersistent { .. } => 7,
        store::Error::LockTaken { .. }
        | store::Error::NoAgent { .. }
        | store::Error::NoSpec { .. } => 11,
        store::Error::NewerLayout { .. } | store::Error::Unreadable(_) => 102,
        store::Error::Declares { .. } => 104,
    }
}

const fn kernel_code(error: &kernel::Error) -> u32 {
    match error {
        kernel::Error::OtherInstance { .. } => 7,
        kernel::Error::Unrecorded { .. } => 100,
        kernel::Error::Socket { .. }
        | kernel::Error::Question { .. }
        | kernel::Error::NoTables
        | kernel::Error::Refused { .. }
        | kernel::Error::Restless
        | kernel::Error::NewerLayout { .. }
        | kernel::Error::Route { .. }
        | kernel::Error::Sysctl { .. } => 110,
        kernel::Error::Unanswered => 111,
    }
}
