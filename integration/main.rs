//! The real executable on real packets, in network namespaces of its own.
//!
//! `cargo test --test integration`, as root or as an ordinary user under
//! `unshare --user --map-root-user --net --mount`. A test that cannot have its namespaces fails.
//! `integration/setup.sh test` installs what it needs; `AUTOPORT_TOOLS` names the folder where that
//! put the tools, if not `target/tools`.
//!
//! Every test makes a [`stage::node::Node`]: its thread moves into a network and a mount namespace that
//! nobody else sees, and what it leaves behind disappears with it.

#![expect(clippy::disallowed_methods, reason = "a runtime has files and children")]

mod attackers;
mod calls;
mod cli;
mod compatibility;
mod failures;
mod packets;
mod ports;
mod stage;
mod table;
