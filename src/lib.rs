//! Host ports for containers: a chained CNI plugin with an allocation store and nftables DNAT.

pub mod kernel;
pub mod model;
pub mod ruleset;
use mnl_sys as _;
