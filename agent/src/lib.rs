//! The node agent of autoport, which the container runtime asks before it creates sandboxes and containers.
//!
//! - [`nri`]: the protocol between runtime and agent.
//! - [`keeper`]: which of the node's agents answers the runtime.
//! - [`inject`]: what a container is told. No I/O.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests prepare their own files"))]

pub mod inject;
pub mod keeper;
pub mod nri;
