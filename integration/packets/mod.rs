//! Packets: which client reaches a pod by its host port, which source address the pod sees, and
//! what becomes of flows.

mod guard;
pub(crate) mod matrix;
mod offload;
mod policy;
mod replaced;
mod sctp;
mod told;
mod traffic;
mod udp;
