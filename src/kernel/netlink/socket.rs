//! A netlink socket: questions that change nothing, and transactions that change all or
//! nothing.
//!
//! The kernel answers inside sendmsg(2), so after a send a receive that would block means that no
//! more is to come. Every answer is matched by the number of its request, because which messages
//! of a batch are acknowledged differs between kernels (the batch's own begin and end only since
//! 6.10): a transaction asks for exactly one acknowledgement, on its last message. No number is used
//! twice on a socket, so what an earlier request left unread answers no later one.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::libc::{ENODATA, ENOENT, MSG_DONTWAIT, MSG_TRUNC};
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket as NetlinkSocket, SocketAddr};

use super::message::{Answer, Attributes, Body, Messages, answers};
use super::{ATTEMPTS, Error, INET};
use crate::kernel::uapi;

/// `NLM_F_*` of `linux/netlink.h`.
pub(crate) const REQUEST: u16 = 0x01;
pub(crate) const ACK: u16 = 0x04;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const APPEND: u16 = 0x800;
pub(crate) const DUMP: u16 = 0x300;

/// `NFNL_SUBSYS_NFTABLES` of `linux/netfilter/nfnetlink.h`.
pub(crate) const NFTABLES: u8 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// More than any datagram: the largest attribute, and the headers around it.
const RECEIVE_BUFFER: usize = (1 << 16) + 4096;

/// What a netlink socket sends at most unless told otherwise (`net.core.wmem_default`).
const DEFAULT_SEND_BUFFER: usize = 200_000;

/// How many errors of a receive are passed over for the answers after them.
const MOST_ERRORS: u32 = 8;

/// The ports of this library's netfilter sockets: these bits, and 20 of the process ID. libnl takes such
/// a port for the 490th socket of a process; the kernel, by itself, never.
const OWN_PORTS: u32 = 0x7a70_0000;
const OWN_PORTS_MASK: u32 = 0xfff0_0000;

/// Whether a message is from a program that uses this library, whatever it is called.
pub(crate) const fn is_own_port(port: u32) -> bool {
    port & OWN_PORTS_MASK == OWN_PORTS
}

/// A question about objects of netfilter that are of `family`, to which attributes can be added.
pub(crate) fn question(kind: u16, flags: u16, family: u8) -> Messages {
    let mut question = Messages::default();
    question.begin(kind, REQUEST | flags, &[family, 0, 0, 0]);
    question
}

/// A netlink socket: of family `NETLINK_NETFILTER`, unless it says otherwise.
#[derive(Debug)]
pub(crate) struct Socket {
    netlink: NetlinkSocket,
    buffer: Vec<u8>,
    /// The numbers of the requests sent last.
    numbers: Range<u32>,
}

impl Socket {
    pub(crate) fn open() -> Result<Self, Error> {
        let mut socket = Self::open_for(NETLINK_NETFILTER)?;
        // Another socket of this process, or a process of the same number in another PID namespace,
        // may have the first.
        let ports = (std::process::id()..).step_by(4099).map(|id| id & !OWN_PORTS_MASK | OWN_PORTS);
        let mut bound = ports.take(64).map(|port| socket.netlink.bind(&SocketAddr::new(port, 0)));
        let taken = Some(nix::libc::EADDRINUSE);
        match bound.find(|bound| !matches!(bound, Err(error) if error.raw_os_error() == taken)) {
            // Without such a port it works as well, and a watch looks once more.
            Some(Ok(())) | None => Ok(socket),
            Some(Err(source)) => Err(Error::Socket { action: "bind", source }),
        }
    }

    pub(crate) fn open_for(protocol: isize) -> Result<Self, Error> {
        let open = || {
            let socket = NetlinkSocket::new(protocol)?;
            // A refusal otherwise carries the refused message, and a few large ones would fill the
            // receive buffer and hide why.
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let netlink = open().map_err(|source| Error::Socket { action: "open", source })?;
        Ok(Self { netlink, buffer: Vec::with_capacity(RECEIVE_BUFFER), numbers: 0..0 })
    }

    /// Has the kernel send what it tells the multicast `group`, with room for `room` bytes of it.
    pub(crate) fn subscribe(&mut self, group: u32, room: usize) -> Result<(), Error> {
        let subscribe = || {
            // Fails without CAP_NET_ADMIN in the first user namespace; there is less room then.
            let _ = setsockopt(&self.netlink, sockopt::RcvBufForce, &room);
            self.netlink.add_membership(group)
        };
        subscribe().map_err(|source| Error::Socket { action: "subscribe with", source })
    }

    /// Ends what [`Self::subscribe`] began.
    pub(crate) fn unsubscribe(&mut self, group: u32) -> Result<(), Error> {
        let left = self.netlink.drop_membership(group);
        left.map_err(|source| Error::Socket { action: "unsubscribe with", source })
    }

    /// For poll(2).
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }

    fn send(&mut self, messages: &Messages) -> Result<(), Error> {
        let first = if self.numbers.end > u32::MAX / 2 { 0 } else { self.numbers.end };
        let (bytes, next) = messages.numbered_from(first);
        self.numbers = first..next;
        if bytes.len() > DEFAULT_SEND_BUFFER {
            // Fails without CAP_NET_ADMIN in the first user namespace; the send then says EMSGSIZE.
            let _ = setsockopt(&self.netlink, sockopt::SndBufForce, &(bytes.len() + 4096));
        }
        loop {
            match self.netlink.send(&bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Socket { action: "send to", source }),
            }
        }
    }

    /// The next datagram; `None` when there is none.
    pub(crate) fn receive(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            self.buffer.clear();
            match self.netlink.recv(&mut self.buffer, MSG_DONTWAIT | MSG_TRUNC) {
                Ok(_) => return Ok(Some(&self.buffer)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Socket { action: "receive from", source }),
            }
        }
    }

    /// Hands every answer that there is to `each`; the end of the last one is the end of all. An error leaves
    /// none for the next question.
    fn receive_all(&mut self, mut each: impl FnMut(Answer<'_>)) -> Result<(), Error> {
        let (numbers, mut over) = (self.numbers.clone(), false);
        while !over {
            match self.receive() {
                Ok(Some(datagram)) => own_answers(datagram, &numbers).for_each(|answer| {
                    let is_end = !matches!(answer.body, Body::Object(_));
                    over |= is_end && answer.number as usize + 1 == numbers.len();
                    each(answer);
                }),
                Ok(None) => over = true,
                Err(error) => {
                    while let Ok(Some(_)) = self.receive() {}
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Sends `questions` and hands every answer to `each`.
    pub(crate) fn ask(
        &mut self,
        questions: &Messages,
        each: impl FnMut(Answer<'_>),
    ) -> Result<(), Error> {
        if questions.is_empty() {
            return Ok(());
        }
        self.send(questions)?;
        self.receive_all(each)
    }

    /// Sends a question about `what` that has one answer: an object, or an acknowledgement.
    ///
    /// # Errors
    /// [`Error::Question`] for a refusal, with `ENODATA` where nothing was said; [`Error::Socket`].
    pub(crate) fn ask_one<T>(
        &mut self,
        question: &Messages,
        what: &'static str,
        read: impl Fn(Attributes<'_>) -> T,
    ) -> Result<Option<T>, Error> {
        let mut answered = Err(ENODATA);
        self.ask(question, |answer| {
            answered = match answer.body {
                Body::Object(attributes) => Ok(Some(read(attributes))),
                Body::Done => Ok(None),
                Body::Refused(errno) => Err(errno),
            };
        })?;
        answered.map_err(|errno| Error::question(what, errno))
    }

    /// The generation of the node's tables, which each transaction raises by one; `None` where the kernel does
    /// not tell.
    pub(crate) fn generation(&mut self) -> Option<u32> {
        let question = question(uapi::NFT_MSG_GETGEN, 0, uapi::NFPROTO_UNSPEC);
        let read = |attributes: Attributes<'_>| attributes.u32(uapi::NFTA_GEN_ID);
        self.ask_one(&question, "the generation", read).ok()??
    }

    /// Asks for a listing of `what` until it shows one state, and gathers what `read` finds in each object.
    ///
    /// # Errors
    /// [`Error::Question`] where the kernel would not list; [`Error::Socket`], [`Error::Restless`].
    pub(crate) fn gather<T>(
        &mut self,
        question: &Messages,
        what: &'static str,
        mut read: impl FnMut(Answer<'_>, Attributes<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            self.send(question)?;
            let (mut found, mut end, mut interrupted) = (Vec::new(), None, false);
            // A listing is cut into datagrams, the later of which the kernel makes when the earlier are
            // received; its end is a message of its own.
            self.receive_all(|answer| {
                interrupted |= answer.interrupted;
                match answer.body {
                    Body::Done => end = Some(Ok(())),
                    Body::Refused(errno) => end = Some(Err(errno)),
                    Body::Object(attributes) => read(answer, attributes, &mut found),
                }
            })?;
            match end {
                Some(Err(errno)) => return Err(Error::question(what, errno)),
                Some(Ok(())) if !interrupted => return Ok(found),
                Some(Ok(())) | None => {}
            }
        }
        Err(Error::Restless)
    }

    /// The same, and nothing where there is no such thing.
    pub(crate) fn list<T>(
        &mut self,
        question: &Messages,
        what: &'static str,
        read: impl FnMut(Answer<'_>, Attributes<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        match self.gather(question, what, read) {
            Err(error) if error.refusal() == Some(ENOENT) => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Runs a transaction: all of it happens, or none.
    ///
    /// # Errors
    /// [`Error::Refused`] when none of it is in force; [`Error::Socket`], [`Error::Unanswered`].
    pub(crate) fn commit(&mut self, transaction: Transaction) -> Result<(), Error> {
        let tables = transaction.tables;
        let Some((messages, subjects)) = transaction.finish() else { return Ok(()) };
        self.send(&messages)?;
        let numbers = self.numbers.clone();
        let (mut is_done, mut refused) = (false, None);
        // An error (ENOBUFS) says that answers were lost; what is left of them still counts. The kernel
        // has none to add once the send has returned (nfnetlink_rcv_batch), so it says so once or twice.
        let mut errors = 0;
        while !is_done {
            let datagram = match self.receive() {
                Ok(Some(datagram)) => datagram,
                Err(_) if errors < MOST_ERRORS => {
                    errors += 1;
                    continue;
                }
                Ok(None) | Err(_) => break,
            };
            for Answer { body, number, .. } in own_answers(datagram, &numbers) {
                match body {
                    Body::Refused(errno) => refused = refused.or(Some((number, errno))),
                    Body::Done => is_done |= number as usize == subjects.len(),
                    Body::Object(_) => {}
                }
            }
        }
        match refused {
            None if is_done => Ok(()),
            None => Err(Error::Unanswered),
            Some((number, errno)) => {
                let subject =
                    (number as usize).checked_sub(1).and_then(|index| subjects.get(index));
                let subject =
                    subject.map_or("the transaction as a whole", String::as_str).to_owned();
                let source = io::Error::from_raw_os_error(errno);
                Err(Error::Refused { subject, tables, source })
            }
        }
    }
}

/// The answers in a datagram to the requests of these numbers, which are counted from 0 again.
fn own_answers<'a>(
    datagram: &'a [u8],
    numbers: &Range<u32>,
) -> impl Iterator<Item = Answer<'a>> + use<'a> {
    let numbers = numbers.clone();
    answers(datagram).filter_map(move |answer| {
        let is_own = numbers.contains(&answer.number);
        is_own.then(|| Answer { number: answer.number - numbers.start, ..answer })
    })
}

/// A transaction being put together.
#[derive(Debug)]
pub(crate) struct Transaction {
    messages: Messages,
    /// What each message is about, for the report when it is refused.
    subjects: Vec<String>,
    /// Which tables it changes, for that report.
    tables: &'static str,
}

impl Transaction {
    pub(crate) fn begin() -> Self {
        Self::begin_in("table inet autoport")
    }

    /// Begins one that changes these tables.
    pub(crate) fn begin_in(tables: &'static str) -> Self {
        let mut messages = Messages::default();
        messages.begin(BATCH_BEGIN, REQUEST, &[0, 0, 0, NFTABLES]);
        Self { messages, subjects: Vec::new(), tables }
    }

    /// Begins a message about `subject`.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, subject: String) -> &mut Messages {
        self.message_of(kind, flags, INET, subject)
    }

    /// The same, for a table of this family.
    pub(crate) fn message_of(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        subject: String,
    ) -> &mut Messages {
        self.subjects.push(subject);
        self.messages.begin(kind, REQUEST | flags, &[family, 0, 0, 0]);
        &mut self.messages
    }

    /// Appends a message about `subject` that libnftnl encoded.
    pub(crate) fn append(&mut self, message: &[u8], flags: u16, subject: String) {
        self.subjects.push(subject);
        self.messages.append(message, REQUEST | flags);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// The message begun last, to add attributes to.
    pub(crate) fn last(&mut self) -> &mut Messages {
        &mut self.messages
    }

    /// The bytes, and what each message is about; the last one will be acknowledged. `None` when
    /// there is nothing to do.
    pub(crate) fn finish(mut self) -> Option<(Messages, Vec<String>)> {
        if self.is_empty() {
            return None;
        }
        let flags = self.messages.flags() | ACK;
        self.messages.set_flags(flags);
        self.messages.begin(BATCH_END, REQUEST, &[0, 0, 0, NFTABLES]);
        Some((self.messages, self.subjects))
    }
}
