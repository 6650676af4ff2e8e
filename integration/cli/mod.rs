//! The operator's command line: what it prints, and whether that is true.

mod commands;
mod containers;
mod doctor;
mod explain;
mod habits;
mod install;
mod situations;
mod snapshots;
mod unseen;
mod verdict;
