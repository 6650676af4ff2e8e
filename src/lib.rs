//! Host ports for containers: a chained CNI plugin with an allocation store and nftables DNAT.
//!
//! From the bottom up, each module naming only those before it:
//!
//! - [`model`]: the nouns. No I/O.
//! - [`plan`]: who holds what, decided. No I/O.
//! - [`event`]: what happens beside a command's result, as facts.
//! - [`ruleset`]: the nftables table that a set of records implies. No I/O.
//! - [`publication`]: what a pod is told about its ports. No I/O.
//! - [`netns`]: the identity of namespaces.
//! - [`regular`]: files of others, read without waiting.
//! - [`cni`]: bytes and variables in, a request out; a reply back to bytes. No I/O.
//! - [`store`]: the records on disk, with their lock. The only module that opens files.
//! - [`kernel`]: the table in the kernel. The only module that speaks netlink.
//! - [`error`]: every failure and the number the runtime is told.
//! - [`app`]: one function per command.
//! - [`install`]: the executable and the network configurations in the runtime's folders.
//! - [`diagnosis`]: why host ports do not work on this node. Changes nothing.
//!
//! Where `missing_docs` is on, another program's author reads; elsewhere a comment says what a name
//! cannot.
//!
//! The executable adds the edges (environment, standard streams, clock) and the operator's
//! command line.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests prepare their own files"))]

#[warn(missing_docs)]
pub mod app;
pub mod cni;
pub mod diagnosis;
#[warn(missing_docs)]
pub mod error;
#[warn(missing_docs)]
pub mod event;
pub mod install;
pub mod kernel;
#[warn(missing_docs)]
pub mod model;
pub mod netns;
pub mod plan;
#[warn(missing_docs)]
pub mod publication;
pub mod regular;
pub mod ruleset;
#[warn(missing_docs)]
pub mod store;

// Named so that the linker finds the functions that libnftnl calls.
use mnl_sys as _;
