//! The nftables table: its content, what happens when other programs change it, and how it is
//! restored.

mod boot;
mod contract;
mod cost;
mod damage;
mod kernel;
mod named;
mod oracle;
mod recovery;
mod tableless;
mod watch;
