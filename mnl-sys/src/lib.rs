//! The part of libmnl that libnftnl needs to *encode* messages, under libmnl's symbol names.
//!
//! Debian ships `libnftnl.a` but no `libmnl.a`, so a static executable cannot take libmnl from
//! the distribution. libnftnl touches libmnl only through the functions below. `autoport` asks
//! libnftnl for bytes and does the talking to the kernel itself: the decoding, batching and
//! socket functions are never called, and end the process if they ever are
//! (docs/decisions/0001-static-libmnl.md).
//!
//! Layout and alignment follow `struct nlattr` and `struct nlmsghdr` in `linux/netlink.h`.

#![no_std]
#![expect(unsafe_code, reason = "a C ABI is all this crate offers")]
#![expect(clippy::missing_safety_doc, reason = "the contracts are those of libmnl(7)")]

use core::ffi::{CStr, c_char, c_void};
use core::mem::size_of;

use libc::{NLA_F_NESTED, nlattr, nlmsghdr};

/// `NLMSG_ALIGNTO` and `NLA_ALIGNTO` of `linux/netlink.h`.
const ALIGN_TO: usize = 4;
const ATTR_HEADER: usize = size_of::<nlattr>();

const fn align(len: usize) -> usize {
    (len + ALIGN_TO - 1) & !(ALIGN_TO - 1)
}

/// Where the next attribute of `message` begins.
unsafe fn tail(message: *mut nlmsghdr) -> *mut c_void {
    // SAFETY: libnftnl hands over a message inside a buffer of at least the largest message
    // size, and its header is initialised by `mnl_nlmsg_put_header`.
    unsafe { message.byte_add(align((*message).nlmsg_len as usize)).cast() }
}

unsafe fn grow(message: *mut nlmsghdr, len: usize) {
    // SAFETY: as in `tail`.
    unsafe {
        let grown = align((*message).nlmsg_len as usize) + align(len);
        (*message).nlmsg_len = u32::try_from(grown).unwrap_or(u32::MAX);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_nlmsg_put_header(buffer: *mut c_void) -> *mut nlmsghdr {
    let message = buffer.cast::<nlmsghdr>();
    // SAFETY: the caller provides room for a header; `nlmsghdr` is plain numbers.
    unsafe {
        message.write_bytes(0, 1);
        (*message).nlmsg_len = align(size_of::<nlmsghdr>()) as u32;
    }
    message
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_nlmsg_put_extra_header(
    message: *mut nlmsghdr,
    size: usize,
) -> *mut c_void {
    // SAFETY: the caller provides room for `size` more bytes.
    unsafe {
        let header = tail(message);
        header.write_bytes(0, align(size));
        grow(message, size);
        header
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_nlmsg_get_payload(message: *const nlmsghdr) -> *mut c_void {
    // SAFETY: a message is at least its header long.
    unsafe { message.byte_add(align(size_of::<nlmsghdr>())).cast_mut().cast() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_put(
    message: *mut nlmsghdr,
    kind: u16,
    len: usize,
    data: *const c_void,
) {
    // SAFETY: `data` is `len` bytes long and the message has room for them; the bytes between
    // `len` and the next multiple of four are zeroed because the kernel compares set keys whole.
    unsafe {
        let attr = tail(message).cast::<nlattr>();
        let total = ATTR_HEADER + len;
        attr.byte_add(total).cast::<u8>().write_bytes(0, align(total) - total);
        (*attr).nla_type = kind;
        (*attr).nla_len = u16::try_from(total).unwrap_or(u16::MAX);
        attr.byte_add(ATTR_HEADER).cast::<u8>().copy_from_nonoverlapping(data.cast(), len);
        grow(message, total);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_put_u8(message: *mut nlmsghdr, kind: u16, value: u8) {
    // SAFETY: the contract of `mnl_attr_put`.
    unsafe { mnl_attr_put(message, kind, size_of::<u8>(), (&raw const value).cast()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_put_u16(message: *mut nlmsghdr, kind: u16, value: u16) {
    // SAFETY: the contract of `mnl_attr_put`.
    unsafe { mnl_attr_put(message, kind, size_of::<u16>(), (&raw const value).cast()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_put_u32(message: *mut nlmsghdr, kind: u16, value: u32) {
    // SAFETY: the contract of `mnl_attr_put`.
    unsafe { mnl_attr_put(message, kind, size_of::<u32>(), (&raw const value).cast()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_put_u64(message: *mut nlmsghdr, kind: u16, value: u64) {
    // SAFETY: the contract of `mnl_attr_put`.
    unsafe { mnl_attr_put(message, kind, size_of::<u64>(), (&raw const value).cast()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_put_str(message: *mut nlmsghdr, kind: u16, text: *const c_char) {
    // SAFETY: `text` is NUL-terminated; the terminator is not sent.
    unsafe { mnl_attr_put(message, kind, CStr::from_ptr(text).count_bytes(), text.cast()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_put_strz(message: *mut nlmsghdr, kind: u16, text: *const c_char) {
    // SAFETY: `text` is NUL-terminated; the terminator is sent.
    unsafe { mnl_attr_put(message, kind, CStr::from_ptr(text).count_bytes() + 1, text.cast()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_nest_start(message: *mut nlmsghdr, kind: u16) -> *mut nlattr {
    // SAFETY: the message has room for one more attribute header.
    unsafe {
        let nest = tail(message).cast::<nlattr>();
        (*nest).nla_type = kind | NLA_F_NESTED as u16;
        grow(message, ATTR_HEADER);
        nest
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn mnl_attr_nest_end(message: *mut nlmsghdr, nest: *mut nlattr) {
    // SAFETY: `nest` was returned by `mnl_attr_nest_start` for this message.
    unsafe {
        let len = tail(message).byte_offset_from(nest);
        (*nest).nla_len = u16::try_from(len).unwrap_or(u16::MAX);
    }
}

/// Defines what libnftnl names but `autoport` never reaches.
macro_rules! unreached {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> ! {
            // SAFETY: `abort` has no preconditions.
            unsafe { libc::abort() }
        }
    )*};
}

unreached! {
    mnl_attr_get_payload mnl_attr_get_payload_len mnl_attr_get_str mnl_attr_get_type
    mnl_attr_get_u8 mnl_attr_get_u16 mnl_attr_get_u32 mnl_attr_get_u64
    mnl_attr_next mnl_attr_ok mnl_attr_parse mnl_attr_parse_nested
    mnl_attr_type_valid mnl_attr_validate mnl_cb_run
    mnl_nlmsg_batch_current mnl_nlmsg_batch_head mnl_nlmsg_batch_is_empty
    mnl_nlmsg_batch_next mnl_nlmsg_batch_size mnl_nlmsg_batch_start mnl_nlmsg_batch_stop
    mnl_socket_bind mnl_socket_close mnl_socket_get_portid mnl_socket_open
    mnl_socket_recvfrom mnl_socket_sendto
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer as aligned as a header asks for, and no larger than what goes in: `make sanitize`
    /// has Miri see to it that nothing is touched beside it.
    #[test]
    fn messages_are_laid_out_as_netlink_has_them() {
        const EXPECTED: [u8; 64] = *b"\x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
            \x01\0\0\0\
            \x05\0\x02\0\x07\0\0\0\
            \x06\0\x03\0\x08\x09\0\0\
            \x1c\0\x04\x80\
            \x06\0\x05\0ab\0\0\
            \x07\0\x06\0ab\0\0\
            \x08\0\x07\0\x01\x02\x03\x04";
        let mut buffer = [u32::MAX; EXPECTED.len() / 4];
        // SAFETY: the buffer has the length of all that is put into it, and every text its NUL.
        unsafe {
            let message = mnl_nlmsg_put_header(buffer.as_mut_ptr().cast());
            assert!(core::ptr::eq(mnl_nlmsg_get_payload(message).cast(), &raw const buffer[4]));
            mnl_nlmsg_put_extra_header(message, 1).cast::<u8>().write(1);
            mnl_attr_put_u8(message, 2, 7);
            mnl_attr_put_u16(message, 3, u16::from_ne_bytes([8, 9]));
            let nest = mnl_attr_nest_start(message, 4);
            mnl_attr_put_str(message, 5, c"ab".as_ptr());
            mnl_attr_put_strz(message, 6, c"ab".as_ptr());
            mnl_attr_put_u32(message, 7, u32::from_ne_bytes([1, 2, 3, 4]));
            mnl_attr_nest_end(message, nest);
        }
        let bytes = buffer.iter().flat_map(|word| word.to_ne_bytes());
        assert!(bytes.eq(EXPECTED), "{buffer:x?}");
    }
}
