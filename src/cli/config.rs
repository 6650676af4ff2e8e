//! `autoport config`.

use std::io;
use std::path::PathBuf;

use autoport::cni::{Config, Setting};
use autoport::error::Error;
use autoport::install;
use serde::Serialize;

use super::Failure;
use super::arguments::Networks;
use super::output::{Answer, Screen};

/// The values in force.
#[derive(Serialize)]
pub(super) struct InForce {
    /// The network configuration; `null` where none has autoport.
    network: Option<PathBuf>,
    settings: Vec<Setting>,
}

pub(super) fn run(asked: &Networks) -> Result<InForce, Failure> {
    let network = install::network(&asked.conf_dir)?;
    let object = network.as_ref().map(|(path, object)| (&**path, object.as_bytes()));
    let settings = Config::settings(object, &crate::node_files()).map_err(Error::from)?;
    Ok(InForce { network: network.map(|(path, _)| path), settings })
}

impl Answer for InForce {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let row = |setting: &Setting| {
            let from = setting.from.as_ref().map_or("default".into(), |path| path.display().into());
            [setting.key.into(), (&setting.value).into(), from]
        };
        out.table("", ["KEY", "VALUE", "FROM"], self.settings.iter().map(row))
    }
}
