//! Host ports: who gets which one, and which are taken.

mod asking;
mod choosing;
mod conflict;
mod limits;
mod listeners;
mod missed;
mod race;
