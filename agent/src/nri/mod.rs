//! The Node Resource Interface (NRI) of containerd and CRI-O: what the runtime asks before it creates a
//! sandbox or a container, and the answers.
//!
//! One Unix socket carries two ttrpc services, each in a numbered connection of a small multiplexer.
//! [`frame`], [`message`] and [`call`] are the protocol without I/O; [`session`] is one connection to the
//! runtime.

pub mod call;
pub mod frame;
pub mod message;
pub mod session;

pub use call::{Answer, Event, Failure, Rejection};
pub use session::{Asked, Error, Identity, RETRY, Session};
