//! Calls: what a runtime sends, in which order however odd, and what is answered.

mod corpus;
mod gc;
pub(crate) mod libcni;
mod lifecycle;
mod orphan;
#[path = "../../fuzz/src/lib.rs"]
#[expect(dead_code, unreachable_pub, reason = "other crates need the rest of it")]
mod targets;
mod trace;
