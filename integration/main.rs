//! The real executable on real packets, in network namespaces of its own.
//!
//! `cargo test --test integration`, as root or as an ordinary user under
//! `unshare --user --map-root-user --net --mount`. A test that cannot have its namespaces fails.
//! `integration/setup.sh test` installs what it needs; `AUTOPORT_TOOLS` names the folder where that
//! put the tools, if not `target/tools`.
//!
//! Every test makes a [`node::Node`]: its thread moves into a network and a mount namespace that
//! nobody else sees, and what it leaves behind disappears with it.

#![expect(clippy::disallowed_methods, reason = "a runtime has files and children")]

mod adopt;
mod asking;
mod bare;
mod chain;
mod choosing;
mod conflict;
mod contract;
mod damage;
mod echo;
mod faults;
mod gc;
mod hostile;
mod intruders;
mod kubernetes;
mod libcni;
mod lifecycle;
mod listeners;
mod lost;
mod matrix;
mod missed;
mod netns;
mod node;
mod operator;
mod oracle;
mod plugin;
mod policy;
mod portmap_suite;
mod probe;
mod race;
mod records;
mod recovery;
mod reference;
mod security;
mod statedir;
mod trace;
mod traffic;
mod udp;
mod view;
