//! Calls: what a runtime can send, in which order, and the replies.

mod corpus;
mod gc;
pub(crate) mod libcni;
mod lifecycle;
mod orphan;
#[path = "../../fuzz/src/lib.rs"]
#[expect(dead_code, unreachable_pub, reason = "other crates need the rest of it")]
mod targets;
mod trace;
