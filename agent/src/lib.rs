//! The node agent of autoport, which the container runtime asks before it creates sandboxes and containers.
//!
//! - [`nri`]: the protocol between runtime and agent.
//! - [`inject`]: what a container is told. No I/O.

pub mod inject;
pub mod nri;
