//! Host ports: which pod gets which port, and which ports are taken.

mod asking;
mod choosing;
mod conflict;
mod limits;
mod listeners;
mod missed;
mod race;
mod spec;
