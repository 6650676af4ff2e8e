//! Host ports for containers: a chained CNI plugin with an allocation store and nftables DNAT.

pub mod cni;
pub mod model;
use mnl_sys as _;
