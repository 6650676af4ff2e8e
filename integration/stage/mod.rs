//! The stage: nodes, pods and clients in namespaces, the plugins that attach them, and tools that
//! observe them. The targets `runtimes` and `kubernetes` use it too.

pub(crate) mod agent;
pub(crate) mod bare;
pub(crate) mod chain;
pub(crate) mod echo;
pub(crate) mod netns;
pub(crate) mod node;
pub(crate) mod on_host;
pub(crate) mod operator;
pub(crate) mod plugin;
pub(crate) mod probe;
pub(crate) mod records;
pub(crate) mod strace;
pub(crate) mod talk;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tracer;
pub(crate) mod view;
