//! The policy by which the thread that has the lock is scheduled (sched(7)).
//!
//! On a busy node a normal thread waits tens of milliseconds for a processor, and while it has the lock every
//! other command waits with it: docs/decisions/0015 has the figures.

use std::marker::PhantomData;

use nix::libc::{
    SCHED_BATCH, SCHED_IDLE, SCHED_OTHER, SCHED_RR, SYS_sched_getscheduler, SYS_sched_setscheduler,
    syscall,
};

/// The lowest: before every normal thread, and after every real-time thread of others.
const PRIORITY: i32 = 1;

/// Has this thread run before all normal ones until it is dropped. Without `CAP_SYS_NICE` nothing changes.
#[derive(Debug)]
pub(super) struct RealTime {
    /// The policy to return to.
    normal: Option<i32>,
    /// It belongs to one thread.
    _thread: PhantomData<*const ()>,
}

impl RealTime {
    /// To be begun before the lock is taken: whom the kernel gives it has to wake up for it.
    #[expect(unsafe_code, reason = "no crate has it, and musl's functions refuse")]
    pub(super) fn begin() -> Self {
        // SAFETY: it takes a number, 0 for this thread.
        let policy = unsafe { syscall(SYS_sched_getscheduler, 0) } as i32;
        let is_normal = [SCHED_OTHER, SCHED_BATCH, SCHED_IDLE].contains(&policy);
        let normal = (is_normal && set(SCHED_RR, PRIORITY)).then_some(policy);
        Self { normal, _thread: PhantomData }
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        self.normal.map(|policy| set(policy, 0));
    }
}

#[expect(unsafe_code, reason = "no crate has it, and musl's functions refuse")]
fn set(policy: i32, priority: i32) -> bool {
    // SAFETY: the kernel reads one number at the address: its `sched_param` has no other field.
    unsafe { syscall(SYS_sched_setscheduler, 0, policy, &raw const priority) == 0 }
}
