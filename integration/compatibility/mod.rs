//! Compatibility: with portmap, with Kubernetes, with other plugins, and with other versions of autoport.

mod examples;
mod kubernetes;
mod later;
mod portmap_suite;
mod reference;
mod versions;
