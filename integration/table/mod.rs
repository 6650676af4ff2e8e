//! The nftables table: what is put into it, what becomes of it when others change it, and how it is
//! restored.

mod boot;
mod contract;
mod cost;
mod damage;
mod kernel;
mod oracle;
mod recovery;
mod tableless;
mod watch;
