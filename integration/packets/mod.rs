//! Packets: who reaches a pod by its host port and who does not, whom the pod sees, and what becomes of
//! flows.

mod guard;
pub(crate) mod matrix;
mod policy;
mod replaced;
mod sctp;
mod told;
mod traffic;
mod udp;
