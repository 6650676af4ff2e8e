//! The control path: one command at a time, plugins taking turns run by run.

use crate::Bench;

pub(crate) fn run(bench: &Bench) {
    crate::machine::describe(bench);
    bench.raw.begin("control");
}
