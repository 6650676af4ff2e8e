//! Attackers: what the author of a pod, a container, or a machine on the network can try.

mod attacks;
mod bounds;
mod hostile;
mod intruders;
mod published;
mod security;
