//! Runs the plugin under ptrace(2), counts its system calls that can change anything, and
//! interferes with one of them: kills the process, makes the call fail, or forges a reply of
//! netlink. It uses the registers of x86-64, so its users are limited to that.

mod syscalls;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use self::syscalls::{NAMES, changes};
use crate::stage::plugin::{Call, Outcome};

/// Longer than any wait that a command may have of its own: 30 s for the lock.
const STUCK: Duration = Duration::from_mins(1);

/// Which calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Among {
    /// Every call that can change anything, what is sent to the kernel included.
    Changes,
    /// What is sent to the kernel over netlink.
    Questions,
    /// Each datagram that netlink answers.
    Answers,
}

/// What happens at the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    KillBefore,
    KillAfter,
    /// The call is not made and fails.
    Fail(Errno),
    /// The call is made, and its result is lost.
    Lose(Errno),
    /// The kernel does nothing and answers with this.
    Answer(i32),
    /// The kernel does nothing and does not answer.
    Silence,
    /// The kernel does it, but lets nothing expire.
    Immortal,
}

/// Which of the calls, counted from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    Only(usize),
    /// This one and all that follow.
    From(usize),
}

/// Which call is struck, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    pub(crate) among: Among,
    pub(crate) which: Which,
    pub(crate) blow: Blow,
}

/// A command that ran under the tracer.
pub(crate) struct Traced {
    pub(crate) outcome: Outcome,
    /// The numbers of the calls that were counted as changes.
    pub(crate) changes: Vec<c_long>,
    /// The call that was struck last, if any was.
    pub(crate) struck: Option<Struck>,
}

/// A call that was struck.
#[derive(Clone, Debug)]
pub(crate) struct Struck {
    pub(crate) number: c_long,
    /// Its name, and the path it was about.
    pub(crate) text: String,
}

/// Where the tracee is between two stops.
struct Tracee {
    pid: Pid,
    /// The open netlink sockets.
    netlink: BTreeSet<u64>,
    /// Descriptors through which the process talks to itself.
    private: BTreeSet<u64>,
    changes: Vec<c_long>,
    questions: usize,
    answers: usize,
    strike: Option<Strike>,
    struck: Option<Struck>,
    /// The error that takes the place of the next answer on a socket.
    forged: Option<(u64, i32)>,
}

/// What is still to be done when the call returns.
#[derive(Clone, Copy)]
enum Exit {
    Nothing,
    Kill,
    Return(i64),
    /// What was in the tracee's memory before.
    Restore(u64, c_long),
}

/// Runs `call`, with the strike if there is one.
pub(crate) fn trace(call: &Call, strike: Option<Strike>) -> Traced {
    let waits = call.waits_for_input();
    let held = ["/bin/sh", "-c", "read -r go; exec \"$0\" \"$@\""];
    let call = if waits { call.clone() } else { call.clone().under(&held).stdin("\n") };
    let mut running = call.start();
    let pid = Pid::from_raw(running.id() as i32);
    let options =
        Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(pid, options).expect("the parent may trace its child");
    let (finished, watch) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let stuck = watch.recv_timeout(STUCK) == Err(mpsc::RecvTimeoutError::Timeout);
        if stuck {
            let _ = kill(pid, Signal::SIGKILL);
        }
        stuck
    });
    // The plugin changes nothing before it has read its standard input to the end; everybody else
    // is held by a shell until it is traced.
    if waits {
        ptrace::interrupt(pid).expect("a traced child stops");
    } else {
        running.feed();
    }
    assert!(matches!(wait(pid), WaitStatus::PtraceEvent(..)), "the tracee stops once");
    // The shell's own start may be seen as well.
    while !waits && !is_autoport(pid) {
        ptrace::cont(pid, None).expect("a stopped tracee can go on");
        assert!(matches!(wait(pid), WaitStatus::PtraceEvent(..)), "the shell starts the program");
    }
    if waits {
        running.feed();
    }
    let mut tracee = Tracee {
        pid,
        netlink: BTreeSet::new(),
        private: BTreeSet::new(),
        changes: Vec::new(),
        questions: 0,
        answers: 0,
        strike,
        struck: None,
        forged: None,
    };
    let status = tracee.run();
    drop(finished);
    let stuck = watchdog.join().expect("the watchdog ends");
    let outcome = running.outcome(status);
    assert!(!stuck, "stuck for {STUCK:?} after {strike:?} at {:?}: {outcome}", tracee.struck);
    Traced { outcome, changes: tracee.changes, struck: tracee.struck }
}

fn is_autoport(pid: Pid) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("a stopped process");
    name.trim_end() == "autoport"
}

fn wait(pid: Pid) -> WaitStatus {
    waitpid(pid, Some(WaitPidFlag::__WALL)).expect("a child can be waited for")
}

impl Tracee {
    /// Runs to the end.
    fn run(&mut self) -> ExitStatus {
        // The first stop may be at the return of a call that was under way.
        let mut inside = None;
        let mut exit = Exit::Nothing;
        let mut signal = None;
        loop {
            // A process that was killed meanwhile is found by waiting.
            let _ = ptrace::syscall(self.pid, signal.take());
            match wait(self.pid) {
                WaitStatus::PtraceSyscall(_) => {
                    if inside.unwrap_or_else(|| !self.is_at_entry()) {
                        inside = Some(false);
                        self.returns(std::mem::replace(&mut exit, Exit::Nothing));
                    } else {
                        inside = Some(true);
                        exit = self.enters();
                    }
                }
                WaitStatus::Stopped(_, delivered) => signal = Some(delivered),
                WaitStatus::Exited(_, code) => return ExitStatus::from_raw(code << 8),
                WaitStatus::Signaled(_, by, _) => return ExitStatus::from_raw(by as i32),
                WaitStatus::PtraceEvent(..) | WaitStatus::Continued(_) | WaitStatus::StillAlive => {
                }
            }
        }
    }

    /// The kernel puts this into the register of the result before it makes any call.
    fn is_at_entry(&self) -> bool {
        let result = self.registers().map(|registers| registers.rax as i64);
        result == Some(-i64::from(libc::ENOSYS))
    }

    fn registers(&self) -> Option<user_regs_struct> {
        ptrace::getregs(self.pid).ok()
    }

    fn set(&self, registers: user_regs_struct) {
        ptrace::setregs(self.pid, registers).expect("a stopped tracee has registers");
    }

    /// Whether this call is the one to strike at.
    fn counts(&mut self, registers: &user_regs_struct) -> bool {
        let on_netlink = self.netlink.contains(&registers.rdi);
        let number = registers.orig_rax as c_long;
        let sends = on_netlink && matches!(number, libc::SYS_sendto | libc::SYS_sendmsg);
        let receives = on_netlink && matches!(number, libc::SYS_recvfrom | libc::SYS_recvmsg);
        let private = number == libc::SYS_write && self.private.contains(&registers.rdi);
        let changes = changes(registers) && !private;
        let place = self.strike.map(|strike| match strike.among {
            Among::Changes => changes.then_some(self.changes.len()),
            Among::Questions => sends.then_some(self.questions),
            Among::Answers => receives.then_some(self.answers),
        });
        if changes {
            self.changes.push(number);
        }
        self.questions += usize::from(sends);
        self.answers += usize::from(receives);
        let Some((Some(place), strike)) = place.zip(self.strike) else { return false };
        match strike.which {
            Which::Only(nth) => place == nth,
            Which::From(first) => place >= first,
        }
    }

    fn enters(&mut self) -> Exit {
        let Some(registers) = self.registers() else { return Exit::Nothing };
        if !self.counts(&registers) {
            return Exit::Nothing;
        }
        let number = registers.orig_rax as c_long;
        let struck = Struck { number, text: self.describe(&registers) };
        let blow = self.strike.expect("only a strike counts").blow;
        let skipped = user_regs_struct { orig_rax: u64::MAX, ..registers };
        let exit = match blow {
            Blow::KillBefore => {
                self.set(skipped);
                self.kill();
                Exit::Nothing
            }
            Blow::KillAfter => Exit::Kill,
            Blow::Fail(errno) => {
                self.set(skipped);
                Exit::Return(-i64::from(errno as i32))
            }
            Blow::Lose(errno) => Exit::Return(-i64::from(errno as i32)),
            Blow::Silence => {
                self.set(skipped);
                Exit::Return(registers.rdx as i64)
            }
            Blow::Immortal => {
                self.take_timeouts_out(&registers);
                Exit::Nothing
            }
            // One message that asks for nothing but to be acknowledged (NLMSG_NOOP), as long as
            // everything that was to be sent: the kernel answers it as it answers anything.
            Blow::Answer(errno) => {
                const HEADER: u64 = 1 << 32 | (0x01 | 0x04) << 48;
                let at = registers.rsi;
                let before = self.read(at);
                self.write(at, (registers.rdx | HEADER) as c_long);
                self.forged = Some((registers.rdi, errno));
                Exit::Restore(at, before)
            }
        };
        self.struck = Some(struck);
        exit
    }

    fn returns(&mut self, exit: Exit) {
        let Some(mut registers) = self.registers() else { return };
        match exit {
            Exit::Nothing => {}
            Exit::Kill => self.kill(),
            Exit::Return(value) => {
                registers.rax = value as u64;
                self.set(registers);
            }
            Exit::Restore(at, before) => self.write(at, before),
        }
        match registers.orig_rax as c_long {
            libc::SYS_socket if registers.rdi == libc::AF_NETLINK as u64 => {
                self.netlink.insert(registers.rax);
            }
            libc::SYS_eventfd2 => {
                self.private.insert(registers.rax);
            }
            libc::SYS_close => {
                self.netlink.remove(&registers.rdi);
                self.private.remove(&registers.rdi);
            }
            // `struct nlmsgerr` begins behind the header.
            libc::SYS_recvfrom if registers.rax as i64 >= 20 => {
                if let Some((_, errno)) =
                    self.forged.take_if(|(socket, _)| *socket == registers.rdi)
                {
                    let at = registers.rsi + 16;
                    let word = self.read(at) as u64;
                    let forged = word & !0xffff_ffff | u64::from(-errno as u32);
                    self.write(at, forged as c_long);
                }
            }
            _ => {}
        }
    }

    fn kill(&self) {
        kill(self.pid, Signal::SIGKILL).expect("a stopped child can be killed");
    }

    fn read(&self, at: u64) -> c_long {
        ptrace::read(self.pid, at as ptrace::AddressType).expect("the tracee has this memory")
    }

    fn write(&self, at: u64, word: c_long) {
        let at = at as ptrace::AddressType;
        ptrace::write(self.pid, at, word).expect("the tracee has this memory");
    }

    /// Makes each `NFTA_SET_ELEM_TIMEOUT` of a millisecond an attribute that no kernel knows.
    fn take_timeouts_out(&self, registers: &user_regs_struct) {
        const TIMEOUT: [u8; 12] = [12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        const UNKNOWN: [u8; 2] = 0x3fff_u16.to_ne_bytes();
        let path = format!("/proc/{}/mem", self.pid);
        let memory = File::options().read(true).write(true).open(path).expect("it is traced");
        let mut bytes = vec![0; registers.rdx as usize];
        memory.read_exact_at(&mut bytes, registers.rsi).expect("what it sends");
        for at in 0..bytes.len().saturating_sub(TIMEOUT.len()) {
            if bytes[at..].starts_with(&TIMEOUT) {
                let kind = registers.rsi + at as u64 + 2;
                memory.write_all_at(&UNKNOWN, kind).expect("what it sends");
            }
        }
    }

    fn describe(&self, registers: &user_regs_struct) -> String {
        let number = registers.orig_rax as c_long;
        let Some((_, name, path)) = NAMES.iter().find(|(known, ..)| *known == number) else {
            return format!("system call {number}");
        };
        let Some(path) = path else { return (*name).to_owned() };
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        let mut bytes = [0; 160];
        let memory = File::open(format!("/proc/{}/mem", self.pid));
        let read = memory.and_then(|memory| memory.read_at(&mut bytes, arguments[*path]));
        let text = &bytes[..read.unwrap_or(0)];
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        format!("{name} {}", String::from_utf8_lossy(text))
    }
}
