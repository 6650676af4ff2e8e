//! What each system call of an ADD is for.

/// Some calls in a row that serve one end.
pub(super) struct Step {
    pub(super) phase: &'static str,
    pub(super) purpose: &'static str,
    /// Names of calls, each with something that strace shows of it.
    calls: &'static [(&'static str, &'static str)],
}

const fn step(
    phase: &'static str,
    purpose: &'static str,
    calls: &'static [(&'static str, &'static str)],
) -> Step {
    Step { phase, purpose, calls }
}

pub(super) const PARSE: &str = "parse";
pub(super) const EXEC: &str = "exec";
pub(super) const START: &str = "runtime start";
pub(super) const EXIT: &str = "exit";

/// An ADD on a node that has the table, in order. `brk` is memory for whatever is being done.
pub(super) const STEPS: [Step; 26] = [
    step(
        START,
        "the C library's start, in every static program: heap, thread, stack guard; what is constant \
         from now on becomes read-only",
        &[
            ("arch_prctl", ""),
            ("set_tid_address", ""),
            ("set_robust_list", ""),
            ("rseq", ""),
            ("prlimit64", ""),
            ("readlink", ""),
            ("getrandom", ""),
            ("mprotect", ""),
        ],
    ),
    step(
        START,
        "a runtime that hangs up must not end us in the middle; streams that are closed must not \
         become files of the store",
        &[("rt_sigprocmask", ""), ("poll", "}], 3, 0)")],
    ),
    step(
        PARSE,
        "stdin: no terminal; the configuration, and its end",
        &[("ioctl", "TCGETS"), ("read", "(0, ")],
    ),
    step(
        PARSE,
        "what the operator sets for this node and for the cluster, mostly absent",
        &[("openat", "autoport.json"), ("openat", "autoport.cluster.json")],
    ),
    step(
        "gather",
        "the way to nf_tables, before anything is recorded, and this boot, which the table names",
        &[
            ("openat", "boot_id"),
            ("read", ""),
            ("close", ""),
            ("socket", "NETFILTER"),
            ("setsockopt", ""),
            ("getpid", ""),
            ("bind", ""),
        ],
    ),
    step(
        "gather",
        "who listens on the port, IPv4 and IPv6: a question, an answer, its end",
        &[
            ("socket", "SOCK_DIAG"),
            ("setsockopt", ""),
            // strace knows the name of the second question only.
            ("sendto", "nlmsg_type=0x14"),
            ("sendto", "SOCK_DIAG"),
            ("recvfrom", ""),
            ("close", ""),
        ],
    ),
    step(
        "gather",
        "whether portmap has rules here, which would come before ours",
        &[("sendto", "nlmsg_type=0xa04"), ("sendto", "GETCHAIN"), ("recvfrom", "")],
    ),
    step(
        "gather",
        "whether 127.0.0.0/8 is let in by the interface that the bridge plugin named",
        &[("openat", "route_localnet"), ("statx", ""), ("read", ""), ("close", "")],
    ),
    step(
        "lock",
        "the state directory: ours, nobody else's to write, and in memory, so that nothing needs a sync",
        &[("openat", "O_DIRECTORY"), ("statx", "S_IFDIR"), ("geteuid", ""), ("fstatfs", "TMPFS")],
    ),
    step(
        "lock",
        "the lock, for which this thread runs before normal ones, and that it is still the file of this name",
        &[
            ("openat", "\"lock\""),
            ("sched_getscheduler", ""),
            ("sched_setscheduler", "SCHED_RR"),
            ("flock", "LOCK_EX"),
            ("statx", "S_IFREG"),
        ],
    ),
    step(
        "store",
        "the instance: which table and which network namespace this store belongs to",
        &[("openat", "\"instance\""), ("statx", "S_IFREG"), ("read", ""), ("close", "")],
    ),
    step("store", "our network namespace", &[("newfstatat", "/proc/self/ns/net")]),
    step("store", "what this attachment holds already", &[("openat", "\"attachments/")]),
    step(
        "store",
        "the pod's network namespace, and our mount namespace: the evidence by which it is known \
         later that it is gone",
        &[
            ("openat", "O_PATH"),
            ("fstatfs", ""),
            ("newfstatat", "AT_EMPTY_PATH"),
            ("close", ""),
            ("newfstatat", "/proc/self/ns/mnt"),
        ],
    ),
    step("store", "who holds the port", &[("openat", "/ports/")]),
    step(
        "store",
        "what it gave back in the last ten to twenty minutes",
        &[("openat", "\"released/")],
    ),
    step("store", "whether the runtime still waits for the reply", &[("poll", "fd=1")]),
    step(
        "store",
        "by which interface 127.0.0.0/8 was let in, and that it still is",
        &[
            ("readlinkat", "\"loopback/"),
            ("openat", "route_localnet"),
            ("statx", ""),
            ("read", ""),
            ("close", ""),
        ],
    ),
    step(
        "store",
        "whether a command that was killed has left connections of this container to end",
        &[("openat", "/containers/")],
    ),
    step(
        "store",
        "what the record replaces; the entries of the port and of the container: each first try finds that \
         the directory is not there",
        &[("openat", "\"attachments/"), ("symlinkat", ""), ("mkdirat", ""), ("fchmodat", "")],
    ),
    step(
        "store",
        "the record, complete or not at all; fchmod, because a umask may take rights away",
        &[
            ("openat", "\".new\""),
            ("fchmod", ""),
            ("write", ""),
            ("close", ""),
            ("renameat", "\".new\""),
        ],
    ),
    step(
        "netlink",
        "the table",
        &[("sendto", "nlmsg_type=0xa01"), ("sendto", "GETTABLE"), ("recvfrom", "")],
    ),
    step("netlink", "its chains", &[("sendto", "GETCHAIN"), ("recvfrom", "")]),
    step("netlink", "its rules", &[("sendto", "GETRULE"), ("recvfrom", "")]),
    step(
        "netlink",
        "the elements of the port; the transaction, and its acknowledgement",
        &[("sendto", "GETSETELEM"), ("sendto", "BATCH_BEGIN"), ("recvfrom", "")],
    ),
    step(
        "reply",
        "the lock is let go, and the thread is a normal one again; the reply",
        &[("close", ""), ("sched_setscheduler", "SCHED_OTHER"), ("write", "(1, ")],
    ),
];

/// What no step is for.
pub(super) const UNKNOWN: &str = "not assigned";

/// To which step each line of strace belongs.
pub(super) fn assign(words: &[String]) -> Vec<usize> {
    let (unknown, exit, exec) = (STEPS.len(), STEPS.len() + 1, STEPS.len() + 2);
    let mut now = 0;
    let mut assigned = Vec::new();
    for line in words {
        let name = name_of(line);
        let fits = |step: &Step| {
            step.calls.iter().any(|(call, shown)| *call == name && line.contains(shown))
        };
        let step = match name {
            "execve" => exec,
            "exit_group" => exit,
            // A debug build asks whether a file is open before it closes it.
            "brk" | "fcntl" => now,
            _ => match STEPS[now..].iter().position(fits) {
                Some(further) => {
                    now += further;
                    now
                }
                None => unknown,
            },
        };
        if step == unknown {
            eprintln!("bench: what is this call for? {line:.100}");
        }
        assigned.push(step);
    }
    assigned
}

pub(super) fn name_of(line: &str) -> &str {
    line.split_once('(').map_or(line, |(name, _)| name)
}

/// `openat`, `read` ×2.
pub(super) fn tally<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    let shown = counts.into_iter().map(|(name, count)| match count {
        1 => format!("`{name}`"),
        more => format!("`{name}` ×{more}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_nobody_expects_is_seen() {
        let lines = ["execve(", "reboot("].map(str::to_owned);
        assert_eq!(assign(&lines), [STEPS.len() + 2, STEPS.len()]);
    }
}
