//! Failures: commands that are killed or fail, and records that are damaged or lost.

mod adopt;
#[cfg(target_arch = "x86_64")]
mod faults;
mod journal;
#[cfg(target_arch = "x86_64")]
mod kill;
mod lost;
#[cfg(target_arch = "x86_64")]
mod ordeal;
mod soak;
mod statedir;
