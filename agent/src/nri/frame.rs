//! ttrpc messages in the frames of the multiplexer, to and from bytes. No I/O.
//!
//! A frame is the number of a connection and a length, each a big-endian `u32`, and as many bytes. The
//! bytes of one connection are ttrpc messages: length and stream ID as big-endian `u32`, type, flags, body.
//! Frames and messages need not begin or end together.

use std::collections::VecDeque;

/// The largest payload of a frame towards the runtime. The runtime reads frames through a buffer of
/// this size: a larger frame makes it drop the connection and create containers without the agent.
pub const FRAME_PAYLOAD_MAX: usize = 4096;

/// The largest body of a ttrpc message, in either direction.
pub const BODY_MAX: usize = 4 << 20;

const FRAME_HEADER: usize = 8;
const MESSAGE_HEADER: usize = 10;

/// A service on the connection. The side that serves it receives requests and sends responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Served by the agent: the runtime's events.
    Plugin,
    /// Served by the runtime: registration.
    Runtime,
}

impl Service {
    const fn connection(self) -> u32 {
        match self {
            Self::Plugin => 1,
            Self::Runtime => 2,
        }
    }

    const fn of(connection: u32) -> Option<Self> {
        match connection {
            1 => Some(Self::Plugin),
            2 => Some(Self::Runtime),
            _ => None,
        }
    }
}

/// The type of a ttrpc message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Response,
    /// Streams and whatever is added later; NRI uses none.
    Other(u8),
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Other(number) => number,
        }
    }

    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Response,
            other => Self::Other(other),
        }
    }
}

/// A ttrpc message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub service: Service,
    /// The number of the call: a response has that of its request.
    pub stream: u32,
    pub kind: Kind,
    pub body: Vec<u8>,
}

/// The bytes cannot be a connection of NRI, or a message does not fit into one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {bytes} bytes is larger than the {} MiB that the protocol permits", BODY_MAX >> 20)]
pub struct TooLarge {
    /// `a frame` or `a message`.
    pub what: &'static str,
    pub bytes: usize,
}

impl Message {
    /// The bytes to send, cut into frames of at most [`FRAME_PAYLOAD_MAX`].
    ///
    /// # Errors
    /// When the body exceeds [`BODY_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        let bytes = self.body.len();
        let too_large = TooLarge { what: "a message", bytes };
        let length = u32::try_from(bytes).ok().filter(|_| bytes <= BODY_MAX).ok_or(too_large)?;
        let mut message = Vec::with_capacity(MESSAGE_HEADER + bytes);
        message.extend(length.to_be_bytes());
        message.extend(self.stream.to_be_bytes());
        message.extend([self.kind.number(), 0]);
        message.extend(&self.body);
        let frames = message.len().div_ceil(FRAME_PAYLOAD_MAX);
        let mut out = Vec::with_capacity(message.len() + frames * FRAME_HEADER);
        for payload in message.chunks(FRAME_PAYLOAD_MAX) {
            out.extend(self.service.connection().to_be_bytes());
            out.extend((payload.len() as u32).to_be_bytes());
            out.extend(payload);
        }
        Ok(out)
    }
}

/// Puts messages together from the bytes of a connection, in whatever pieces they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    header: Vec<u8>,
    /// What is missing of the current frame, and whose it is; frames of unknown connections are skipped.
    frame: Option<(Option<Service>, usize)>,
    plugin: Vec<u8>,
    runtime: Vec<u8>,
    whole: VecDeque<Message>,
}

impl Decoder {
    /// Takes bytes in. Holds at most one incomplete message of each service afterwards.
    ///
    /// # Errors
    /// When a frame or message announces more than the protocol permits. Nothing after it can be read.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            let Some((service, missing)) = self.frame else {
                bytes = self.read_header(bytes)?;
                continue;
            };
            let (payload, rest) = bytes.split_at(missing.min(bytes.len()));
            bytes = rest;
            let missing = missing - payload.len();
            self.frame = (missing > 0).then_some((service, missing));
            if let Some(service) = service {
                self.take(service, payload)?;
            }
        }
        Ok(())
    }

    /// The next whole message.
    pub fn pop(&mut self) -> Option<Message> {
        self.whole.pop_front()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    fn read_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], TooLarge> {
        let missing = FRAME_HEADER - self.header.len();
        let (part, rest) = bytes.split_at(missing.min(bytes.len()));
        self.header.extend(part);
        if self.header.len() == FRAME_HEADER {
            let bytes = number(&self.header[4..]) as usize;
            if bytes > MESSAGE_HEADER + BODY_MAX {
                return Err(TooLarge { what: "a frame", bytes });
            }
            let service = Service::of(number(&self.header));
            self.frame = (bytes > 0).then_some((service, bytes));
            self.header.clear();
        }
        Ok(rest)
    }

    /// Adds bytes of one service, and moves every message that is complete by them.
    fn take(&mut self, service: Service, payload: &[u8]) -> Result<(), TooLarge> {
        let held = match service {
            Service::Plugin => &mut self.plugin,
            Service::Runtime => &mut self.runtime,
        };
        held.extend(payload);
        let mut begin = 0;
        while let Some(header) = held.get(begin..begin + MESSAGE_HEADER) {
            let bytes = number(header) as usize;
            if bytes > BODY_MAX {
                return Err(TooLarge { what: "a message", bytes });
            }
            let end = begin + MESSAGE_HEADER + bytes;
            let Some(body) = held.get(begin + MESSAGE_HEADER..end) else { break };
            let (stream, kind) = (number(&header[4..]), Kind::of(header[8]));
            self.whole.push_back(Message { service, stream, kind, body: body.to_vec() });
            begin = end;
        }
        held.drain(..begin);
        if held.is_empty() {
            // A large Synchronize comes once.
            *held = Vec::new();
        }
        Ok(())
    }
}

/// The big-endian number in the first four bytes.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Message {
        let body = (0..length).map(|at| at as u8).collect();
        Message { service: Service::Plugin, stream: 7, kind: Kind::Response, body }
    }

    /// The payload length of each frame.
    fn frames(mut bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !bytes.is_empty() {
            let length = number(&bytes[4..]) as usize;
            lengths.push(length);
            bytes = &bytes[FRAME_HEADER + length..];
        }
        lengths
    }

    #[test]
    fn no_frame_towards_the_runtime_is_larger_than_its_buffer() {
        for (body, expected) in [
            (0, vec![10]),
            (4086, vec![4096]),
            (4087, vec![4096, 1]),
            (8182, vec![4096, 4096]),
            (BODY_MAX, [vec![4096; 1024], vec![10]].concat()),
        ] {
            let bytes = message(body).encode().expect("it fits");
            assert_eq!(frames(&bytes), expected, "{body}");
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_not_sent() {
        let refused = message(BODY_MAX + 1).encode();
        assert_eq!(refused, Err(TooLarge { what: "a message", bytes: BODY_MAX + 1 }));
    }

    #[test]
    fn messages_are_put_together_from_pieces_of_any_size() {
        let sent = [message(0), message(5), message(10_000)];
        let bytes: Vec<u8> =
            sent.iter().flat_map(|message| message.encode().expect("it fits")).collect();
        for piece in [1, 2, 3, 7, 8, 9, 4096, 4104, 100_000] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(piece) {
                decoder.feed(piece).expect("a valid connection");
                seen.extend(std::iter::from_fn(|| decoder.pop()));
            }
            assert_eq!(seen, sent, "pieces of {piece}");
        }
    }

    #[test]
    fn the_largest_frame_of_a_runtime_is_read() {
        let mut bytes = vec![0, 0, 0, 2];
        bytes.extend(((BODY_MAX + MESSAGE_HEADER) as u32).to_be_bytes());
        bytes.extend((BODY_MAX as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 1, 2, 0]);
        bytes.resize(bytes.len() + BODY_MAX, b'x');
        let mut decoder = Decoder::default();
        decoder.feed(&bytes).expect("within the limit");
        let message = decoder.pop().expect("it is whole");
        assert_eq!((message.service, message.body.len()), (Service::Runtime, BODY_MAX));
    }

    #[test]
    fn frames_of_unknown_connections_and_empty_frames_are_skipped() {
        let mut bytes = vec![0, 0, 0, 9, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 1, 0, 0, 0, 0];
        bytes.extend(message(3).encode().expect("it fits"));
        let mut decoder = Decoder::default();
        decoder.feed(&bytes).expect("a valid connection");
        assert_eq!(decoder.pop(), Some(message(3)));
        assert_eq!(decoder.pop(), None);
    }

    #[test]
    fn more_than_the_protocol_permits_is_an_error_before_it_is_held() {
        let frame = [0, 0, 0, 1, 0x7f, 0, 0, 0];
        let refused = Decoder::default().feed(&frame).expect_err("a frame of 2 GiB");
        assert_eq!(refused.what, "a frame");
        let message = [0, 0, 0, 1, 0, 0, 0, 10, 0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0];
        let refused = Decoder::default().feed(&message).expect_err("a message of 4 GiB");
        assert_eq!(refused.what, "a message");
    }
}
