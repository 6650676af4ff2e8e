//! `autoport version`.

use std::io;

use autoport::kernel::{self, Release};
use autoport::{ruleset, store};
use serde::Serialize;

use super::output::{Answer, Screen};

/// What this program is, and what the kernel lets it do.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Build {
    version: &'static str,
    /// Of the repository that it was built from; `null` where the build did not know.
    commit: Option<&'static str>,
    table_layout: u32,
    store_layout: u32,
    kernel: Kernel,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    release: String,
    /// Whether it takes the table; `null` where that could not be tried, which needs root.
    nf_tables: Option<bool>,
    /// Whether a released element expires, as since Linux 6.12, or is deleted.
    expiry: Option<bool>,
    /// Why not.
    error: Option<String>,
}

impl Answer for Build {
    fn text(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let Self { version, commit, table_layout, store_layout, kernel } = self;
        let Kernel { release, nf_tables, expiry, error } = kernel;
        writeln!(out, "autoport      {version}")?;
        writeln!(out, "commit        {}", commit.unwrap_or("unknown"))?;
        writeln!(out, "table layout  {table_layout}")?;
        writeln!(out, "store layout  {store_layout}")?;
        let how = match (nf_tables, expiry) {
            (Some(true), Some(true)) => "nf_tables accepts the table; released elements expire",
            (Some(true), _) => "nf_tables accepts the table; released elements are deleted",
            (Some(false), _) => "nf_tables does not accept the table",
            (None, _) => "nf_tables not examined",
        };
        let why = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        writeln!(out, "kernel        Linux {release}; {how}{why}")
    }
}

pub(super) fn run() -> Build {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (nf_tables, expiry, error) = match kernel::trial() {
        Ok(Ok(release)) => (Some(true), Some(release == Release::Expiry), None),
        Ok(Err(error)) => (Some(false), None, Some(autoport::error::in_one_line(&error))),
        Err(error) => (None, None, Some(error.to_string())),
    };
    Build {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("AUTOPORT_COMMIT"),
        table_layout: ruleset::LAYOUT,
        store_layout: store::LAYOUT,
        kernel: Kernel { release: release.trim().to_owned(), nf_tables, expiry, error },
    }
}
