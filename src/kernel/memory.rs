//! Giving memory back.

/// Gives the kernel the memory back that this process has freed. The C library keeps it otherwise: after a look
/// at 5,000 records some 25 MB, in a process that may not need them again for months.
#[expect(unsafe_code, reason = "no crate has it")]
#[cfg(target_env = "gnu")]
pub fn give_back_memory() {
    // SAFETY: it takes a number of bytes to keep, and locks what other threads allocate from.
    unsafe { nix::libc::malloc_trim(0) };
}

/// musl gives it back by itself.
#[cfg(not(target_env = "gnu"))]
pub fn give_back_memory() {}
