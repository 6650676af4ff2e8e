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
mod attacks;
mod bare;
mod boot;
mod bounds;
mod chain;
mod choosing;
mod commands;
mod conflict;
mod contract;
mod corpus;
mod cost;
mod damage;
mod doctor;
mod echo;
mod examples;
mod explain;
#[cfg(target_arch = "x86_64")]
mod faults;
mod gc;
mod guard;
mod hostile;
mod install;
mod intruders;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod kill;
mod kubernetes;
mod later;
mod libcni;
mod lifecycle;
mod limits;
mod listeners;
mod lost;
mod matrix;
mod missed;
mod netns;
mod node;
mod operator;
mod oracle;
#[cfg(target_arch = "x86_64")]
mod ordeal;
mod orphan;
mod plugin;
mod policy;
mod portmap_suite;
mod probe;
mod published;
mod race;
mod records;
mod recovery;
mod reference;
mod replaced;
mod sctp;
mod security;
mod snapshots;
mod soak;
mod statedir;
mod tableless;
mod talk;
#[path = "../fuzz/src/lib.rs"]
#[expect(dead_code, unreachable_pub, reason = "other crates need the rest of it")]
mod targets;
mod told;
mod trace;
#[cfg(target_arch = "x86_64")]
mod tracer;
mod traffic;
mod udp;
mod verdict;
mod versions;
mod view;
mod watch;
