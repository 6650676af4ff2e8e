//! The only door to bpf(2), to the attributes of a cgroup's directory, and to the cookie of a network namespace.
//! No crate has them without an ELF loader or a compiler.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;

use nix::libc::{self, SOL_SOCKET, SYS_bpf, c_int, c_uint, c_void};

use super::assembler::{Point, Program};
use super::instruction::SLOT;

/// `enum bpf_cmd`.
const PROG_LOAD: c_int = 5;
const PROG_ATTACH: c_int = 8;
const PROG_DETACH: c_int = 9;
const OBJ_GET_INFO_BY_FD: c_int = 15;
const PROG_QUERY: c_int = 16;

/// There is one program at the cgroup. Another that is attached replaces it, and one at a cgroup below is run in
/// its place.
pub(super) const ALLOW_OVERRIDE: u32 = 1;

/// Programs of several owners may be attached to the cgroup, and to those below.
pub(super) const ALLOW_MULTI: u32 = 2;

/// A descriptor that is none.
const NONE: u32 = u32::MAX;

/// `SO_NETNS_COOKIE`, of Linux 5.14.
const NETNS_COOKIE: c_int = 71;

/// The kernel attaches no more of a kind to one cgroup.
const ATTACHED_MOST: usize = 64;

const LICENCE: &[u8] = b"Apache-2.0\0";

/// The last of the verifier's words.
const LOG: usize = 64 * 1024;

/// `union bpf_attr` of `PROG_LOAD`, as far as it is needed; the kernel takes the rest for zeros.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    slots: u32,
    code: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected: u32,
}

/// The same of `PROG_ATTACH` and `PROG_DETACH`.
#[repr(C)]
struct Attach {
    cgroup: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// The same of `PROG_QUERY`.
#[repr(C)]
struct Query {
    cgroup: u32,
    kind: u32,
    options: u32,
    flags: u32,
    ids: u64,
    count: u32,
    _pad: u32,
}

/// The same of `OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Described {
    program: u32,
    length: u32,
    to: u64,
}

/// What is attached to a cgroup for one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attached {
    /// [`ALLOW_MULTI`], [`ALLOW_OVERRIDE`] or another; 0 where nothing is attached.
    pub(super) flags: u32,
    /// The numbers of the programs.
    pub(super) ids: Vec<u32>,
}

#[expect(unsafe_code, reason = "no crate has it")]
fn bpf<A>(command: c_int, attributes: &mut A) -> io::Result<c_int> {
    // SAFETY: the attributes are a `repr(C)` structure of the size that is given, laid out as linux/bpf.h has it
    // for this command. The addresses in it are of memory that its caller borrows until this returns, with the
    // lengths beside them. The kernel writes to no other.
    let done = unsafe {
        libc::syscall(SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>() as c_uint)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as c_int) }
}

/// Loads a program, which the kernel verifies. It is gone with the descriptor, unless it is attached.
///
/// # Errors
/// Why the kernel does not take it, with the verifier's last line where there is one.
pub(super) fn load(point: impl Into<Point>, program: &Program) -> io::Result<OwnedFd> {
    let (point, code) = (point.into(), program.bytes());
    load_logged(point, &code, &mut []).or_else(|error| {
        let mut log = vec![0; LOG];
        match load_logged(point, &code, &mut log) {
            Ok(loaded) => Ok(loaded),
            Err(_) => Err(with_last_line(error, &log)),
        }
    })
}

fn with_last_line(error: io::Error, log: &[u8]) -> io::Error {
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().filter(|line| !line.starts_with("processed "));
    let last = lines.next_back().unwrap_or_default();
    if last.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}: {last}")) }
}

#[expect(unsafe_code, reason = "a descriptor that the kernel has just made")]
fn load_logged(point: Point, code: &[u8], log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..point.name.len()].copy_from_slice(point.name.as_bytes());
    let mut load = Load {
        kind: point.kind,
        slots: (code.len() / SLOT) as u32,
        code: code.as_ptr().addr() as u64,
        licence: LICENCE.as_ptr().addr() as u64,
        name,
        expected: point.at,
        ..Load::default()
    };
    if !log.is_empty() {
        load.log_level = 1;
        load.log_size = log.len() as u32;
        load.log = log.as_mut_ptr().expose_provenance() as u64;
    }
    let loaded = bpf(PROG_LOAD, &mut load)?;
    // SAFETY: the kernel has just opened it for this call, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(loaded) })
}

fn number(descriptor: &impl AsRawFd) -> u32 {
    descriptor.as_raw_fd() as u32
}

/// Attaches a program to a cgroup; with [`ALLOW_MULTI`], after those that are attached to it.
///
/// # Errors
/// Why the kernel does not.
pub(super) fn attach(
    cgroup: BorrowedFd<'_>,
    point: impl Into<Point>,
    program: &OwnedFd,
    flags: u32,
) -> io::Result<()> {
    let (cgroup, program) = (number(&cgroup), number(program));
    let mut attach = Attach { cgroup, program, kind: point.into().at, flags };
    bpf(PROG_ATTACH, &mut attach).map(drop)
}

/// Detaches a program that this process has loaded.
///
/// # Errors
/// Why the kernel does not.
pub(super) fn detach(
    cgroup: BorrowedFd<'_>,
    point: impl Into<Point>,
    program: &OwnedFd,
) -> io::Result<()> {
    let (cgroup, program) = (number(&cgroup), number(program));
    let mut detach = Attach { cgroup, program, kind: point.into().at, flags: 0 };
    bpf(PROG_DETACH, &mut detach).map(drop)
}

/// Detaches the program that alone is attached with [`ALLOW_OVERRIDE`], whichever process has loaded it.
///
/// # Errors
/// Why the kernel does not.
pub(super) fn detach_only(cgroup: BorrowedFd<'_>, point: impl Into<Point>) -> io::Result<()> {
    let cgroup = number(&cgroup);
    let mut detach = Attach { cgroup, program: NONE, kind: point.into().at, flags: 0 };
    bpf(PROG_DETACH, &mut detach).map(drop)
}

/// What is attached to a cgroup itself.
///
/// # Errors
/// Why the kernel does not say.
pub(super) fn attached(cgroup: BorrowedFd<'_>, point: impl Into<Point>) -> io::Result<Attached> {
    let mut ids = vec![0_u32; ATTACHED_MOST];
    let mut query = Query {
        cgroup: number(&cgroup),
        kind: point.into().at,
        options: 0,
        flags: 0,
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: ids.len() as u32,
        _pad: 0,
    };
    bpf(PROG_QUERY, &mut query)?;
    ids.truncate(query.count as usize);
    Ok(Attached { flags: query.flags, ids })
}

/// The number of a program, which no other has while the node runs.
///
/// # Errors
/// Why the kernel does not say.
pub(super) fn id(program: &OwnedFd) -> io::Result<u32> {
    // The first fields of `struct bpf_prog_info`: type and number.
    let mut head = [0_u32; 2];
    let length = size_of_val(&head) as u32;
    let to = head.as_mut_ptr().expose_provenance() as u64;
    bpf(OBJ_GET_INFO_BY_FD, &mut Described { program: number(program), length, to })?;
    Ok(head[1])
}

/// The cookie of this thread's network namespace, which no other has while the node runs.
///
/// # Errors
/// Why the kernel does not say: before Linux 5.14 it cannot.
#[expect(unsafe_code, reason = "no crate has this option")]
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = size_of_val(&cookie) as u32;
    let to = (&raw mut cookie).cast::<c_void>();
    // SAFETY: the kernel writes no more than `length` bytes to `cookie`, and four to `length`.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), SOL_SOCKET, NETNS_COOKIE, to, &raw mut length)
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// An attribute of a cgroup's directory.
const ATTRIBUTE: &std::ffi::CStr = c"user.autoport";

/// What was noted at a cgroup; `None` if nothing.
///
/// # Errors
/// Why it cannot be read.
#[expect(unsafe_code, reason = "nix has no extended attributes")]
pub(super) fn note(cgroup: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    // The kernel keeps no longer attribute.
    let mut value = vec![0_u8; 64 * 1024];
    let (to, most) = (value.as_mut_ptr().cast::<c_void>(), value.len());
    // SAFETY: the name ends with a zero byte, and the kernel writes no more than `most` bytes to `value`.
    let length = unsafe { libc::fgetxattr(cgroup.as_raw_fd(), ATTRIBUTE.as_ptr(), to, most) };
    match usize::try_from(length) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            error => Err(error),
        },
    }
}

/// Notes something at a cgroup, in place of what was noted. It is gone with the cgroup.
///
/// # Errors
/// Why it cannot be written.
#[expect(unsafe_code, reason = "nix has no extended attributes")]
pub(super) fn set_note(cgroup: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let (from, length) = (value.as_ptr().cast::<c_void>(), value.len());
    // SAFETY: the name ends with a zero byte, and the kernel reads `length` bytes of `value`.
    let done = unsafe { libc::fsetxattr(cgroup.as_raw_fd(), ATTRIBUTE.as_ptr(), from, length, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes what was noted.
///
/// # Errors
/// Why it cannot be removed.
#[expect(unsafe_code, reason = "nix has no extended attributes")]
pub(super) fn remove_note(cgroup: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the name ends with a zero byte.
    let done = unsafe { libc::fremovexattr(cgroup.as_raw_fd(), ATTRIBUTE.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
