//! The operator's command line: what it prints, and whether that is true.

mod commands;
mod containers;
mod doctor;
mod explain;
mod habits;
mod install;
mod programs;
mod situations;
mod snapshots;
mod unseen;
mod verdict;
