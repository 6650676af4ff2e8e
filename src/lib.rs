//! Host ports for containers: a chained CNI plugin with an allocation store and nftables DNAT.

pub mod model;
pub mod netns;
pub mod store;
use mnl_sys as _;
