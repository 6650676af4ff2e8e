//! Which system calls count as changes, and their names.

use nix::libc::{self, c_long, user_regs_struct};

/// Calls that leave everything outside of the process as it is. Whatever is not here counts.
const HARMLESS: [c_long; 62] = [
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_lstat,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setsockopt,
    libc::SYS_sigaltstack,
    libc::SYS_stat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_uname,
];

/// The names of those that count, and which argument is a path.
pub(super) const NAMES: [(c_long, &str, Option<usize>); 28] = [
    (libc::SYS_bind, "bind", None),
    (libc::SYS_connect, "connect", None),
    (libc::SYS_fchmod, "fchmod", None),
    (libc::SYS_fchmodat, "fchmodat", Some(1)),
    (libc::SYS_fchmodat2, "fchmodat2", Some(1)),
    (libc::SYS_fdatasync, "fdatasync", None),
    (libc::SYS_flock, "flock", None),
    (libc::SYS_fsync, "fsync", None),
    (libc::SYS_ftruncate, "ftruncate", None),
    (libc::SYS_ioctl, "ioctl", None),
    (libc::SYS_linkat, "linkat", Some(3)),
    (libc::SYS_mkdir, "mkdir", Some(0)),
    (libc::SYS_mkdirat, "mkdirat", Some(1)),
    (libc::SYS_open, "open", Some(0)),
    (libc::SYS_openat, "openat", Some(1)),
    (libc::SYS_recvfrom, "recvfrom", None),
    (libc::SYS_rename, "rename", Some(1)),
    (libc::SYS_renameat, "renameat", Some(3)),
    (libc::SYS_renameat2, "renameat2", Some(3)),
    (libc::SYS_rmdir, "rmdir", Some(0)),
    (libc::SYS_sendmsg, "sendmsg", None),
    (libc::SYS_sendto, "sendto", None),
    (libc::SYS_socket, "socket", None),
    (libc::SYS_symlinkat, "symlinkat", Some(2)),
    (libc::SYS_syncfs, "syncfs", None),
    (libc::SYS_unlink, "unlink", Some(0)),
    (libc::SYS_unlinkat, "unlinkat", Some(1)),
    (libc::SYS_write, "write", None),
];

/// Whether a call can change anything outside of the process. What it prints is not asked about.
pub(super) fn changes(registers: &user_regs_struct) -> bool {
    const STDERR: u64 = libc::STDERR_FILENO as u64;
    let number = registers.orig_rax as c_long;
    match number {
        libc::SYS_write | libc::SYS_writev => registers.rdi > STDERR,
        // `isatty`.
        libc::SYS_ioctl => registers.rsi != libc::TCGETS,
        libc::SYS_open => creates(registers.rsi),
        libc::SYS_openat => creates(registers.rdx),
        _ => !HARMLESS.contains(&number),
    }
}

fn creates(flags: u64) -> bool {
    flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0
}
