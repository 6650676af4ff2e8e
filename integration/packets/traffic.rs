//! The connectivity matrix of autoport.

use super::matrix;
use crate::stage::chain::Main;
use crate::stage::plugin::Plugin;

#[test]
fn the_matrix_holds_on_a_bridge() {
    matrix::run(Plugin::Autoport, Main::Bridge, |_, _| None);
}

#[test]
fn the_matrix_holds_on_point_to_point_links() {
    matrix::run(Plugin::Autoport, Main::Ptp, |_, _| None);
}
